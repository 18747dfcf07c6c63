"""Command `serve`, before anything is started."""

from __future__ import annotations

import socket

import pytest

from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import StageError
from pipelines.serve.command import serve_forever
from tests.pipelines.use.untrained_run import told


def test_a_taken_port_is_named_before_anything_is_loaded(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StageError, match=rf"serve\.port={port}"):
            serve_forever(told(run, f"serve.port={port}"))
