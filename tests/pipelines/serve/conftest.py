"""What the tests of the service share: a run that is served, and the interface alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from pipelines.runtime.run_dir import RunDir
from pipelines.serve.app import make_app
from tests.pipelines.serve.fake import LIMITS, Fake


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Read only, but for what the service itself writes."""
    from tests.pipelines.serve.untrained_run import make_run  # torch: the routes' tests need none

    return make_run(tmp_path_factory.mktemp("serve") / "run")


@pytest.fixture
def own_run(run: RunDir, tmp_path: Path) -> RunDir:
    """A run that a test may damage."""
    return RunDir(str(shutil.copytree(run.uri, tmp_path / "run")))


@pytest.fixture(scope="session")
def client() -> TestClient:
    return TestClient(make_app(LIMITS, Fake()), raise_server_exceptions=False)


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """uint8 [48, 64, 3], smooth."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([4 * x, 5 * y, 2 * x + 2 * y], -1).astype(np.uint8)
