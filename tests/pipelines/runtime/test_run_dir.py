"""The run directory: whole files or none, on a disk and behind fsspec; damage is named."""

from __future__ import annotations

import errno
import os
import pickle
import zlib
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.runtime.run_dir import ArtifactError, RunDir

TABLE = pa.table({"a": list(range(1000)), "b": ["text"] * 1000})


@pytest.fixture(params=["plain", "file", "memory"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunDir]:
    uris = {
        "plain": str(tmp_path / "run"),
        "file": f"file://{tmp_path}/run",
        "memory": f"memory://{tmp_path.name}/run",
    }
    run = RunDir(uris[request.param])
    yield run
    run.delete("")


def test_read_write_list_delete(run: RunDir) -> None:
    assert not run.exists("a/b.json") and run.files("a") == [] and run.files("") == []
    run.write_json("a/b.json", {"x": [1, None, "é"]})
    run.write_table("a/c/t.parquet", TABLE)
    run.write("top.bin", b"123456789")
    assert run.read_json("a/b.json") == {"x": [1, None, "é"]}
    assert run.read_table("a/c/t.parquet") == TABLE
    assert run.read_table("a/c/t.parquet", ["b"]).column_names == ["b"]
    assert run.files("a") == ["a/b.json", "a/c/t.parquet"]
    assert run.files("top.bin") == ["top.bin"]
    assert run.files("") == ["a/b.json", "a/c/t.parquet", "top.bin"]
    assert run.exists("a") and run.exists("a/c/t.parquet")
    assert run.size("top.bin") == 9
    assert run.checksum("top.bin") == f"9:{zlib.crc32(b'123456789'):08x}" == "9:cbf43926"
    run.write("top.bin", b"123456788")
    assert run.read("top.bin") == b"123456788" and run.checksum("top.bin") != "9:cbf43926"
    run.delete("a")
    run.delete("never/there")
    assert run.files("") == ["top.bin"]


def test_pyarrow_and_other_processes_read_the_same_files(run: RunDir) -> None:
    run.write_table("t.parquet", TABLE)
    assert pq.read_table(run.path("t.parquet"), filesystem=run.fs) == TABLE
    with fsspec.open(run.url("t.parquet")) as file:
        assert file.read() == run.read("t.parquet")
    again = pickle.loads(pickle.dumps(run))
    assert (again.uri, again.local) == (run.uri, run.local)
    again.write("new", b"1")
    assert run.files("") == ["new", "t.parquet"]  # no listing is remembered


def test_an_object_stores_listings_are_not_remembered() -> None:
    pytest.importorskip("s3fs")
    run = RunDir("s3://bucket/run/")
    assert (run.uri, run.local, run.path("x")) == ("s3://bucket/run", False, "bucket/run/x")
    assert not run.fs.dircache.use_listings_cache


def test_relative_paths_and_home_become_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert RunDir("runs/x").uri == RunDir("~/runs/x").uri == str(tmp_path / "runs/x")


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "once it can"),
        (errno.EDQUOT, "once it can"),
        (errno.EROFS, "or give another run_dir"),
        (errno.EACCES, "or give another run_dir"),
    ],
)
def test_a_folder_that_is_not_ours_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ArtifactError, match=rf"x/y cannot be written: .*{advice}$"):
        RunDir(str(tmp_path)).write("x/y", b"data")


def test_an_unknown_protocol_is_one_sentence() -> None:
    with pytest.raises(ArtifactError, match="run_dir=nope://x: Protocol not known: nope"):
        RunDir("nope://x")


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, scheme: str
) -> None:
    run = RunDir(f"{scheme}{tmp_path}")
    run.write("a/x", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, full)
        with pytest.raises(ArtifactError, match=rf"{tmp_path}/a/x cannot be written: No space"):
            run.write("a/x", b"new, and longer")
    assert run.read("a/x") == b"old"
    assert os.listdir(tmp_path / "a") == ["x"]
    run.write("a/x", b"new")
    assert run.read("a/x") == b"new"


def test_a_reader_never_sees_half_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the bytes are on their way, the name is not there and the temporary one is hidden."""
    run = RunDir(str(tmp_path))
    real, seen = os.replace, []

    def looking(source: Path, target: Path) -> None:
        seen.append((run.files(""), run.exists("x"), len(os.listdir(tmp_path))))
        real(source, target)

    monkeypatch.setattr(os, "replace", looking)
    run.write("x", b"1" * 100_000)
    assert seen == [([], False, 1)]


def test_hidden_files_are_not_listed_but_a_hidden_run_is(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path / ".cache" / "run"))
    run.write("a/x", b"1")
    for name in ("a/.x.12345678.part", ".hidden/y", "a/.DS_Store"):
        Path(run.path(name)).parent.mkdir(exist_ok=True)
        Path(run.path(name)).write_bytes(b"1")
    assert run.files("") == run.files("a") == ["a/x"]


def test_several_files_as_one(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """If any of them fails, the one that says that all are there is not written."""
    run.write_files("f", {"last": b"1", "a": b"2", "b": b"3"}, last="last")
    assert run.files("f") == ["f/a", "f/b", "f/last"]
    run.delete("f")
    real = RunDir.write

    def fails_on_b(self: RunDir, name: str, data: bytes) -> None:
        if name.endswith("/b"):
            raise OSError("disk full")
        real(self, name, data)

    monkeypatch.setattr(RunDir, "write", fails_on_b)
    with pytest.raises(OSError, match="disk full"):
        run.write_files("f", {"last": b"1", "a": b"2", "b": b"3"}, last="last")
    assert run.files("f") == ["f/a"]


def test_missing_and_damaged_files_are_named(run: RunDir) -> None:
    def said(read: object, name: str) -> str:
        assert callable(read)
        with pytest.raises(ArtifactError) as caught:
            read(name)
        return str(caught.value)

    missing = f"{run.uri}/x.json is missing: run the stage that writes it"
    assert said(run.read, "x.json") == said(run.read_json, "x.json") == missing
    assert said(run.checksum, "x.json") == said(run.read_table, "x.json") == missing
    run.write("x.json", b'{"a": ')
    assert said(run.read_json, "x.json").startswith(f"{run.uri}/x.json is damaged: ")
    run.write("x.json", b"\xff\xfe\xfd")
    assert said(run.read_json, "x.json").startswith(f"{run.uri}/x.json is damaged: ")
    run.write_table("t.parquet", TABLE)
    data = run.read("t.parquet")
    for bad in (b"", data[:4], data[:-1], data[: len(data) // 2], b"PAR1" + bytes(100) + b"PAR1"):
        run.write("t.parquet", bad)
        assert said(run.read_table, "t.parquet").startswith(f"{run.uri}/t.parquet is damaged: ")
    run.write("t.parquet", data)
    assert "no_such" in said(lambda name: run.read_table(name, ["no_such"]), "t.parquet")


def test_flipped_bytes_in_parquet_give_an_artifact_error_or_change_the_checksum(
    tmp_path: Path,
) -> None:
    run = RunDir(str(tmp_path))
    run.write_table("t.parquet", TABLE)
    data, sound = run.read("t.parquet"), run.checksum("t.parquet")
    for at in range(0, len(data), 37):
        run.write("t.parquet", data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        assert run.checksum("t.parquet") != sound
        try:
            run.read_table("t.parquet")
        except ArtifactError as error:
            assert "t.parquet" in str(error)


def test_a_unit_that_is_made_again_leaves_no_part_of_the_first(tmp_path: Path) -> None:
    """Killed while it wrote."""
    run = RunDir(str(tmp_path / "run"))
    folder = tmp_path / "run" / "f"
    folder.mkdir(parents=True)
    (folder / ".a.0123abcd.part").write_bytes(b"hal")
    assert run.files("f") == []
    run.write_files("f", {"last": b"1", "a": b"half and half"}, last="last")
    assert sorted(p.name for p in folder.iterdir()) == ["a", "last"]
