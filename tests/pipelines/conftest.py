"""A run that is used, for the tests of the service and of what stands beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.runtime.run_dir import RunDir


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Read only, but for what the service itself writes."""
    from tests.pipelines.use.untrained_run import make_run  # torch: the routes' tests need none

    return make_run(tmp_path_factory.mktemp("serve") / "run")


@pytest.fixture
def own_run(run: RunDir, tmp_path: Path) -> RunDir:
    """A run that a test may damage."""
    mine = RunDir(str(shutil.copytree(run.uri, tmp_path / "run")))
    mine.delete("served")  # of the service's own tests, where they came first
    return mine
