"""Disks that are full or may not be written: the file is named, and the same command goes on.

In a mount namespace of its own (util-linux's unshare), where anyone may mount a small tmpfs.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.config.load import load_config
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import redo
from tests.conftest import Finished
from tests.driver import ROOT

COMMANDS = """
ready=$1 run=$2 limit=$3 out=$4; shift 4
mkdir "$run"
mount -t tmpfs -o size=200m tmpfs "$run"
cp -r "$ready/." "$run"
if [ "$limit" = ro ]; then
  mount -o remount,ro "$run"
else
  used=$(df -k --output=used "$run" | tail -1)
  mount -o "remount,size=$((used + limit))k" "$run"
fi
status=0; "$@" || status=$?
echo "first exit status $status"
ls "$run/stages"
mount -o remount,rw,size=200m "$run"
"$@"
cp -r "$run/." "$out"
"""


def twice(ready: Path, tmp_path: Path, limit: str, words: list[str]) -> tuple[str, str, Path]:
    """Run a command on a copy of `ready` in a limited file system, and again without the limit.

    limit: KiB that are free, or "ro" for read-only. Returns what the first one printed, what the
    second one printed, and a copy of what is there.
    """
    run, out = tmp_path / "run", tmp_path / "out"
    command = [sys.executable, "-m", "pipelines", *words, f"run_dir={run}"]
    inside = ["unshare", "--user", "--map-root-user", "--mount", "bash", "-euc"]
    if subprocess.run([*inside, "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode:
        pytest.skip("this machine lets no one mount in a namespace of their own")
    done = subprocess.run(
        [*inside, COMMANDS, "bash", str(ready), str(run), limit, str(out), *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    first, second = re.split("first exit status 1\n", done.stdout)
    return first, second, out


@pytest.mark.parametrize(
    ("stage", "free", "full", "result"),
    [
        ("gans", 200, "adapters/", "adapters"),
        ("generator", 2000, "train/generator", "generator"),
    ],
)
def test_a_full_disk(
    finished: Finished, tmp_path: Path, stage: str, free: int, full: str, result: str
) -> None:
    finished.copy(tmp_path / "ready")
    run = RunDir(str(tmp_path / "ready"))
    # one weight generator of the four that the run has
    words = [w for w in finished.words if not w.startswith(("repeats", "rival"))]
    redo(load_config([*words, f"run_dir={run.uri}"]), run, [stage])
    first, second, out = twice(tmp_path / "ready", tmp_path, str(free), [stage, *words])
    last = first.splitlines()[-1]
    assert "No space left on device" in last and f"{tmp_path}/run/{full}" in last, first
    assert f"{stage}.json\n" not in second.split("\n[")[0]  # no marker of a stage that failed
    assert f"{stage}: continuing where it was stopped" in second
    here, there = RunDir(str(out)), RunDir(str(finished.folder))
    names, wanted = (
        [n for n in run.files(result) if n.endswith((".parquet", ".safetensors"))]
        for run in (here, there)
    )
    assert names and (names == wanted or stage == "generator")
    assert all(here.read(n) == there.read(n) for n in names)


def test_a_read_only_run(finished: Finished, tmp_path: Path) -> None:
    words = [*finished.words, "redo=[report]"]
    first, _, out = twice(finished.folder, tmp_path, "ro", ["report", *words])
    assert first.splitlines()[-1].startswith("denoised-weights: ") and "Traceback" not in first
    assert "Read-only file system" in first.splitlines()[-1]
    assert (out / "report/index.html").exists()
