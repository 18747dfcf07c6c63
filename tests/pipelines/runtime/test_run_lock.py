"""One command at a time: on a disk, in a store with conditional writes, in one without."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import pytest

from pipelines.__main__ import main
from pipelines.runtime import run_lock
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.run_lock import NAME, Holder, RunInUseError, _this, locked
from tests.driver import ROOT
from tests.object_store import object_store

GONE = 2**22 + 1
"""No Linux gives a process this number."""


@pytest.fixture(scope="module")
def s3() -> Iterator[None]:
    with object_store():
        yield


@pytest.fixture(params=["folder", "memory", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> RunDir:
    if request.param == "folder":
        return RunDir(str(tmp_path / "run"))
    if request.param == "memory":
        return RunDir(f"memory://{uuid.uuid4().hex}")
    request.getfixturevalue("s3")
    run = RunDir(f"s3://bucket-{uuid.uuid4().hex}/run")
    run.fs.mkdir(run.root.partition("/")[0])
    return run


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 0.6)
    monkeypatch.setattr(run_lock, "RENEW_SECONDS", 0.05)


def here(**other: object) -> Holder:
    """A lock that this very process holds, but for what is `other`."""
    return replace(_this(["gans", "preset=tiny"]), token=uuid.uuid4().hex, **cast(Any, other))


def elsewhere(**other: object) -> Holder:
    return here(machine="another boot", host="node-7", pid=1, **other)


def put(run: RunDir, holder: Holder) -> None:
    run.write_json(NAME, asdict(holder))


def left(run: RunDir) -> list[str]:
    """Files of locks, hidden as they are."""
    if run.local:
        return sorted(os.listdir(run.root)) if Path(run.root).exists() else []
    return sorted(f.rpartition("/")[2] for f in run.fs.find(run.root))


def test_it_says_who_is_renewed_and_goes(run: RunDir) -> None:
    with locked(run, ["gans", "preset=tiny", "concepts.path=two words.txt"]):
        first = run.read_json(NAME)
        assert first["command"] == "gans preset=tiny 'concepts.path=two words.txt'"
        assert first["pid"] == os.getpid() and first["user"] and first["host"] and first["since"]
        limit = time.monotonic() + 20
        while run.read_json(NAME)["renewed"] < 2:
            assert time.monotonic() < limit
            time.sleep(0.02)
        assert run.read_json(NAME)["token"] == first["token"]
        assert run.files("") == []  # hidden
    assert left(run) == []


def test_a_living_process_of_this_machine_is_refused_at_once(run: RunDir) -> None:
    holder = here()
    put(run, holder)
    with pytest.raises(RunInUseError) as refused, locked(run, ["run"]):
        pass
    assert str(refused.value) == (
        f"{run.uri} is in use by `denoised-weights gans preset=tiny` ({holder.user}@{holder.host},"
        f" pid {os.getpid()}, since {holder.since}): wait for it, stop it, or give another run_dir"
    )
    assert run.read_json(NAME) == asdict(holder)


@pytest.mark.parametrize(
    "gone",
    [
        pytest.param({"pid": GONE}, id="no such process"),
        pytest.param({"started": "1"}, id="its number is another's by now"),
    ],
)
def test_one_that_is_gone_from_this_machine_is_replaced_at_once(
    run: RunDir, gone: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 600.0)
    put(run, here(**gone))
    with locked(run, ["run"]):
        assert run.read_json(NAME)["command"] == "run"
    assert left(run) == []


def test_one_of_another_machine_that_is_silent_is_replaced_in_time(
    run: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    put(run, elsewhere())
    begun = time.monotonic()
    with locked(run, ["run"]):
        assert time.monotonic() - begun >= 0.6
        assert run.read_json(NAME)["command"] == "run"
    assert left(run) == []
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "was last written to by `denoised-weights gans preset=tiny`" in err and "node-7" in err


def test_one_of_another_machine_that_is_renewed_is_refused(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 600.0)
    holder = elsewhere()
    put(run, holder)
    timer = threading.Timer(0.2, put, (run, replace(holder, renewed=1)))
    timer.start()
    with pytest.raises(RunInUseError, match="node-7"), locked(run, ["run"]):
        pass
    timer.join()


def test_one_that_goes_while_it_is_watched(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 600.0)
    put(run, elsewhere())
    timer = threading.Timer(0.2, run.delete, (NAME,))
    timer.start()
    with locked(run, ["run"]):
        assert run.read_json(NAME)["command"] == "run"
    timer.join()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff"])
def test_a_damaged_lock_is_as_one_that_is_silent(run: RunDir, data: bytes) -> None:
    run.write(NAME, data)
    with locked(run, ["run"]):
        assert run.read_json(NAME)["command"] == "run"
    assert left(run) == []


def test_who_was_ended_while_taking_over_holds_nobody_up(run: RunDir) -> None:
    gone = here(pid=GONE)
    put(run, gone)
    run.write(f"{NAME}.{gone.token}.claim", b"")
    with locked(run, ["run"]):
        assert run.read_json(NAME)["command"] == "run"
    assert left(run) == []


@pytest.mark.parametrize("of", [here, elsewhere])
def test_of_many_that_take_over_one_does(run: RunDir, of: object) -> None:
    put(run, here(pid=GONE) if of is here else elsewhere())
    won: list[int] = []
    refused: list[str] = []
    inside = threading.Event()
    start = threading.Barrier(4)

    def take(number: int) -> None:
        start.wait()
        try:
            with locked(run, [f"run {number}"]):
                won.append(number)
                inside.wait(30)
        except RunInUseError as error:
            refused.append(str(error))
            if len(refused) == 3:
                inside.set()

    threads = [threading.Thread(target=take, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(won) == 1 and len(refused) == 3
    assert left(run) == []


def test_a_store_without_conditional_writes_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(f"memory://{uuid.uuid4().hex}")
    plain = type(run.fs).pipe_file

    def ignorant(self: object, path: str, value: bytes, mode: str = "overwrite") -> None:
        plain(cast(Any, self), path, value)

    monkeypatch.setattr(type(run.fs), "pipe_file", ignorant)
    with locked(run, ["run"]):
        assert left(run) == []
    assert "this store has no conditional writes" in capsys.readouterr().err


def test_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for name in ("file", "file/below"):
        with (
            pytest.raises(ArtifactError, match=rf"{name}/\.lock\.json cannot be written: "),
            locked(RunDir(str(tmp_path / name)), ["run"]),
        ):
            pass


HOLD = """
import sys, time
from pipelines.runtime import run_lock
from pipelines.runtime.run_dir import RunDir
run_lock.RENEW_SECONDS = 0.05
with run_lock.locked(RunDir(sys.argv[1]), ["gans"]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holding(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_run_that_was_killed_goes_on_at_once(
    holding: subprocess.Popen[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "STALE_SECONDS", 600.0)
    run = RunDir(str(tmp_path))
    with pytest.raises(RunInUseError, match=f"pid {holding.pid}"), locked(run, ["run"]):
        pass
    holding.kill()
    holding.wait()
    with locked(run, ["run"]):
        pass
    assert left(run) == []


def test_who_was_taken_for_dead_ends(holding: subprocess.Popen[str], tmp_path: Path) -> None:
    holding.send_signal(signal.SIGSTOP)  # a laptop's lid, a virtual machine that is moved
    put(RunDir(str(tmp_path)), elsewhere())
    holding.send_signal(signal.SIGCONT)
    _, err = holding.communicate(timeout=30)
    assert holding.returncode == 1
    assert err.startswith("denoised-weights: ") and "node-7" in err
    assert err.endswith("; this command was taken for dead\n")


def test_a_lock_that_was_deleted_by_hand_comes_back(
    holding: subprocess.Popen[str], tmp_path: Path
) -> None:
    (tmp_path / NAME).unlink()
    limit = time.monotonic() + 20
    while not (tmp_path / NAME).exists():
        assert time.monotonic() < limit
        time.sleep(0.02)
    assert json.loads((tmp_path / NAME).read_text())["pid"] == holding.pid


@pytest.mark.parametrize(
    "words",
    [["run", "preset=tiny"], ["concepts", "preset=tiny"], ["gans", "preset=tiny"]],
)
def test_two_commands_at_once(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = RunDir(str(tmp_path))
    with ExitStack() as stack:
        stack.enter_context(locked(run, ["pairs"]))
        assert main([*words, f"run_dir={tmp_path}"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"denoised-weights: {tmp_path} is in use by `denoised-weights pairs` (")
    assert left(run) == []
