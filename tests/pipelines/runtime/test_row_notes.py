"""What finished rows came to is read from few files, and never believed over the rows' own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from pipelines.runtime import ledger
from pipelines.runtime.row_notes import RowNotes, folder_of
from pipelines.runtime.run_dir import ArtifactError, RunDir

IDS = [f"c{i}" for i in range(9)]


class World:
    """A run of small files, and how many of them have been read."""

    def __init__(self, folder: Path) -> None:
        self.run = RunDir(str(folder))
        self.read: list[str] = []

    def make(self, concept_id: str, l1: float) -> None:
        self.run.write_json(f"made/{concept_id}.json", {"l1": l1})

    def of(self, notes: RowNotes) -> dict[str, Any]:
        files = {i: f"made/{i}.json" for i in IDS}
        return notes.of(files, self.run.listing("made"), self._read)

    def _read(self, concept_id: str) -> dict[str, Any] | None:
        self.read.append(concept_id)
        try:
            return dict(self.run.read_json(f"made/{concept_id}.json"))
        except ArtifactError:
            return None

    def stage(self, *ids: str, l1: float = 0.5) -> None:
        """Makes these as a stage does, whose actors' rows come one after another."""
        with ledger.keeping(), RowNotes(self.run, "gans") as notes:
            for concept_id in ids:
                self.make(concept_id, l1)
                notes.add(f"made/{concept_id}.json", {"l1": l1})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "run")


def test_what_was_noted_is_not_read(world: World) -> None:
    world.stage(*IDS[:6])
    found = world.of(RowNotes(world.run, "gans"))
    assert found == {i: {"l1": 0.5} if i in IDS[:6] else None for i in IDS}
    assert world.read == []
    assert world.run.files(folder_of("gans")) == ["stages/gans.rows/00000000.parquet"]


def test_what_a_killed_command_did_not_note_is_read_once(world: World) -> None:
    world.stage(*IDS[:3])
    for concept_id in IDS[3:6]:
        world.make(concept_id, 0.25)
    with RowNotes(world.run, "gans") as notes:
        found = world.of(notes)
    assert sorted(world.read) == IDS[3:6] and found["c4"] == {"l1": 0.25}
    assert world.of(RowNotes(world.run, "gans")) == found and len(world.read) == 3
    assert len(world.run.files(folder_of("gans"))) == 1


def test_an_error_leaves_what_came_before_it(world: World) -> None:
    with (
        ledger.keeping(),
        pytest.raises(ValueError, match="the tenth"),
        RowNotes(world.run, "gans") as notes,
    ):
        world.make("c0", 0.5)
        notes.add("made/c0.json", {"l1": 0.5})
        raise ValueError("the tenth")
    assert world.of(RowNotes(world.run, "gans"))["c0"] == {"l1": 0.5} and not world.read


def test_tables_of_a_long_stage_become_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.runtime.row_notes.MANY", 4)
    made: list[int] = []
    write = RowNotes._write

    def counted(self: RowNotes, notes: dict[str, tuple[int, str]]) -> str:
        made.append(len(notes))
        return write(self, notes)

    monkeypatch.setattr(RowNotes, "_write", counted)
    with ledger.keeping(), RowNotes(world.run, "gans") as notes:
        for concept_id in IDS:
            world.make(concept_id, 0.5)
            notes.add(f"made/{concept_id}.json", {"l1": 0.5})
            notes.write()  # as the timer does
            assert len(world.run.files(folder_of("gans"))) <= 4
    assert made == [1, 1, 1, 1, 5, 1, 1, 1, 9]
    assert world.run.files(folder_of("gans")) == ["stages/gans.rows/00000008.parquet"]
    assert all(world.of(RowNotes(world.run, "gans")).values()) and not world.read


@pytest.mark.parametrize("how", ["another size", "made again", "deleted", "table damaged"])
def test_the_rows_own_files_are_what_counts(world: World, how: str) -> None:
    world.stage(*IDS)
    expected: dict[str, Any] = {i: {"l1": 0.5} for i in IDS}
    read: list[str] = []
    if how == "another size":  # put there by another hand
        world.make("c1", 0.125)
        expected["c1"], read = {"l1": 0.125}, ["c1"]
    elif how == "made again":
        world.stage("c1", l1=0.7)
        expected["c1"] = {"l1": 0.7}
    elif how == "deleted":
        world.run.delete("made/c1.json")
        expected["c1"] = None
    else:
        (name,) = world.run.files(folder_of("gans"))
        world.run.write(name, world.run.read(name)[:-9])
        read = IDS
    assert world.of(RowNotes(world.run, "gans")) == expected
    assert sorted(world.read) == read


def test_a_note_of_what_is_gone_does_not_outlive_it(world: World) -> None:
    """Made again to the same size by a stage that is killed before it notes anything."""
    world.stage(*IDS)
    world.run.delete("made")
    with pytest.raises(KeyboardInterrupt):
        notes = RowNotes(world.run, "gans")
        assert not any(world.of(notes).values())
        with notes:
            world.make("c1", 0.7)
            raise KeyboardInterrupt
    assert world.of(RowNotes(world.run, "gans"))["c1"] == {"l1": 0.7} and world.read == ["c1"]
    assert not any(v for k, v in world.of(RowNotes(world.run, "gans")).items() if k != "c1")


def test_rows_that_came_at_once_are_written_in_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.runtime.row_notes.EVERY", 0.05)
    with ledger.keeping(), RowNotes(world.run, "gans") as notes:
        for concept_id in IDS:
            world.make(concept_id, 0.5)
            notes.add(f"made/{concept_id}.json", {"l1": 0.5})
        until = time.monotonic() + 30
        while len(RowNotes(world.run, "gans").known) < len(IDS) and time.monotonic() < until:
            time.sleep(0.02)
        assert all(world.of(RowNotes(world.run, "gans")).values()) and not world.read
