"""What a run asks of an object store, on each of those that the tests and rehearsals use."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest

from pipelines.runtime import run_dir
from pipelines.runtime.ledger import PIECE
from pipelines.runtime.run_dir import FOOTER, ArtifactError, RunDir
from pipelines.runtime.run_lock import RunInUseError, _Lock, _this, holder, locked
from tests.object_store import in_environment, object_store, seaweedfs


@pytest.fixture(scope="module", params=["moto", "seaweedfs"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A bucket of its own."""
    if request.param == "moto":
        with object_store():
            fsspec.filesystem("s3").mkdir("suite")
            yield "s3://suite"
        return
    with seaweedfs(tmp_path_factory.mktemp("weed")) as address, in_environment(address):
        fsspec.filesystem("s3").mkdir("suite")
        yield "s3://suite"


@pytest.fixture
def run(store: str, request: pytest.FixtureRequest) -> RunDir:
    return RunDir(f"{store}/{request.node.originalname}")


def test_files_come_back(run: RunDir, tmp_path: Path) -> None:
    run.write("a/small", b"one")
    assert run.read("a/small") == b"one" and run.exists("a/small") and run.size("a/small") == 3
    first = run.version("a/small")
    run.write("a/small", b"two")
    assert run.read("a/small") == b"two" and run.version("a/small") != first
    large = os.urandom(3 * PIECE + 1)
    with run.writing("a/large") as file:
        file.write(large)
    assert run.read("a/large") == large
    assert run.checksum("a/large") == run.checksum("a/large", len(large))
    run.delete("a/small")
    assert not run.exists("a/small")
    with pytest.raises(ArtifactError, match="a/small is missing"):
        run.read("a/small")


def test_a_listing_has_sizes_and_stamps(run: RunDir) -> None:
    """Of more files than a page of an answer holds."""
    count = 1100
    folder = run.path("adapters")
    run.fs.pipe({f"{folder}/{i:05d}/metrics.json": b"x" * (1 + i % 7) for i in range(count)})
    run.fs.pipe({f"{folder}/.hidden": b"x", run.path("other/file"): b"x"})
    run.fs.pipe({run.path("adapters-2/file"): b"x", run.path("adapters.json"): b"x"})
    listed = run.listing("adapters")
    assert list(listed) == [f"adapters/{i:05d}/metrics.json" for i in range(count)]
    assert [one.size for one in listed.values()] == [1 + i % 7 for i in range(count)]
    stamps = [one.stamp for one in listed.values()]
    assert all(stamps) and len(set(stamps)) == 7
    run.write("adapters/00000/metrics.json", b"y")
    assert run.listing("adapters")["adapters/00000/metrics.json"].stamp != stamps[0]
    assert list(run.listing("adapters.json")) == ["adapters.json"] and not run.listing("none")
    run.delete("adapters")
    assert not run.files("adapters") and run.exists("other/file")


def test_a_folder_made_by_hand_is_no_file(run: RunDir) -> None:
    """As the console of a store makes one: an empty object whose name ends in a slash."""
    bucket, _, prefix = run.path("adapters/").partition("/")
    run.fs.call_s3("put_object", Bucket=bucket, Key=prefix, Body=b"")
    assert run.files("adapters") == []
    run.write("adapters/c/metrics.json", b"x")
    assert run.files("adapters") == ["adapters/c/metrics.json"]


def test_a_footer_is_read_alone(run: RunDir) -> None:
    table = pa.table({"a": np.arange(200_000)})
    for name, about in (("short", "x"), ("long", "x" * 2 * FOOTER)):
        run.write_table(name, table.replace_schema_metadata({"about": about}))
        assert run.read_schema(name).metadata[b"about"] == about.encode()
    run.write_table("small", pa.table({"a": [1]}))
    assert run.read_schema("small").names == ["a"]
    whole = run.read("short")
    run.write("short", whole[: len(whole) // 2])
    for name, why in (("short", "damaged"), ("none", "missing")):
        with pytest.raises(ArtifactError, match=f"{name} is {why}"):
            run.read_schema(name)


def test_one_of_many_creates_a_file(run: RunDir) -> None:
    made: list[bool] = []
    writers = [
        threading.Thread(target=lambda i=i: made.append(run.create("lock", b"%d" % i)))
        for i in range(8)
    ]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    assert sorted(made) == [False] * 7 + [True]
    run.delete("lock")
    assert run.create("lock", b"x") and not run.create("lock", b"y")
    assert run.read("lock") == b"x"


def test_an_answer_that_was_lost(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was done is asked for again, and is done already."""
    calls: list[str] = []

    def twice(name: str) -> None:
        call = getattr(run.fs, name)

        def lost(*args: Any, **more: Any) -> Any:
            answer = call(*args, **more)
            calls.append(name)
            if len(calls) == 1:
                raise ConnectionError("Connection was closed before a response was received")
            return answer

        monkeypatch.setattr(run.fs, name, lost)

    monkeypatch.setattr(run_dir, "FIRST_WAIT", 0.01)
    run.write("a", b"x")
    twice("rm")
    run.delete("a")
    assert not run.exists("a") and calls
    monkeypatch.undo()
    calls.clear()
    monkeypatch.setattr(RunDir, "hurried", lambda self: self)
    twice("pipe_file")
    lock = _Lock(run, "lock", _this(["gans"]))
    lock.acquire()
    assert calls == ["pipe_file"] and json.loads(run.read("lock"))["token"] == lock.me.token


def test_a_run_is_held_by_one(run: RunDir) -> None:
    for words in (["gans"], ["pairs"]):
        with locked(run, words):
            with pytest.raises(RunInUseError, match=words[0]), locked(run, ["other"]):
                pass
            assert holder(run) is not None
        assert holder(run) is None
