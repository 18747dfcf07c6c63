"""When a stage runs, is skipped, goes on or refuses: with stages that take no time."""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.runtime import inventory as inventories
from pipelines.runtime import stage_graph as stages
from pipelines.runtime.inventory import files_of, inventory, write_known
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_graph import identity, record_errors, redo, run_stage
from pipelines.runtime.stage_table import BY_NAME, STAGES, Stage, StageError
from tests.object_store import object_store

A, B = "a" * 32, "b" * 32
"""ETags of files that were written at once."""


class Fake(ModuleType):
    """A stage's module that writes `files` and counts how often it ran."""

    def __init__(self, name: str, folder: str) -> None:
        super().__init__(f"pipelines.{name}")
        self.folder, self.runs = folder, 0
        self.made: list[str] = []
        self.fails: Exception | None = None
        self.salt = ""

    def run(self, config: Config, run_dir: RunDir) -> dict[str, Any]:
        self.runs += 1
        for i in range(3):
            name = f"{self.folder}/{i}"
            if run_dir.exists(name):
                continue
            if self.fails and i == 2:
                raise self.fails
            self.made.append(name)
            run_dir.write(name, f"{self.folder} {config.seed} {i}{self.salt}".encode())
        return {"rows": 3}


class World:
    """Three stages in a row, one beside them, and a run directory."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = RunDir(str(folder))
        chain = (
            Stage("one", "pipelines.one", "the first", (), ("seed", "images.size"), ("out1",)),
            Stage("two", "pipelines.two", "the second", ("one",), ("base",), ("out2",)),
            Stage("three", "pipelines.three", "the third", ("two",), ("gans",), ("out3",)),
            Stage("side", "pipelines.side", "beside them", ("one",), ("weights",), ("outs",)),
        )
        self.modules = {s.name: Fake(s.name, s.outputs[0]) for s in chain}
        monkeypatch.setattr(stages, "STAGES", chain)
        monkeypatch.setattr(stages, "BY_NAME", {s.name: s for s in chain})
        for name, module in self.modules.items():
            monkeypatch.setitem(sys.modules, f"pipelines.{name}", module)

    def __call__(self, *names: str, words: tuple[str, ...] = ()) -> None:
        for name in names:
            run_stage(self.config(*words), self.run, name)

    def config(self, *words: str) -> Config:
        return load_config(["preset=tiny", f"run_dir={self.run.uri}", *words])

    @property
    def runs(self) -> dict[str, int]:
        return {name: module.runs for name, module in self.modules.items()}


@pytest.fixture(params=["named by the marker", "in a table"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(inventories, "NAMED", 256 if request.param == "named by the marker" else 0)
    return World(tmp_path, monkeypatch)


def test_a_finished_stage_is_verified_and_skipped(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world("one", "two", "three")
    world("one", "two", "three")
    assert world.runs == {"one": 1, "two": 1, "three": 1, "side": 0}
    assert "one: finished earlier, 3 files verified" in capsys.readouterr().err
    marker = world.run.read_json("stages/two.json")
    assert marker["summary"] == {"rows": 3}
    assert list(files_of(world.run, marker)) == [f"out2/{i}" for i in range(3)]
    assert {"torch", "ray"} <= marker["versions"].keys() and "commit" in marker
    assert load_config(["preset=tiny", f"run_dir={world.run.uri}"]) == world.config()


def test_a_missing_stage_is_named(world: World) -> None:
    with pytest.raises(
        StageError, match=r"three needs stage one, which has not finished in .*: run it"
    ):
        world("three")
    world("one")
    with pytest.raises(StageError, match="three needs stage two"):
        world("three")
    assert world.runs["three"] == 0
    assert {f.split("/")[1].split(".")[0] for f in world.run.files("stages")} == {"one"}


@pytest.mark.parametrize(
    ("stage", "word", "message"),
    [
        ("one", "seed=1", "seed=0 then, seed=1 now"),
        ("one", "images.size=64", r"images\.size=32 then, images\.size=64 now"),
        ("two", "base.lr=0.5", r"base\.lr=0\.001 then, base\.lr=0\.5 now"),
    ],
)
def test_another_configuration_is_refused(
    world: World, stage: str, word: str, message: str
) -> None:
    world("one", "two")
    with pytest.raises(
        ConfigError, match=f"stage {stage} made with another .*: {message}"
    ) as caught:
        world("one", "two", words=(word,))
    assert f"redo=[{stage}]" in str(caught.value) and "\n" not in str(caught.value)
    assert world.runs["one"] == world.runs["two"] == 1
    world("one", "two", words=("gans.lr=0.5", "cluster.actors=1", "max_error_fraction=0.5"))


def test_a_change_far_above_is_noticed_by_a_stage_run_alone(world: World) -> None:
    world("one", "two")
    with pytest.raises(ConfigError, match=r"stage one made with another.*seed=0 then, seed=1 now"):
        world("three", words=("seed=1",))


def test_a_key_that_came_later_counts_as_its_default(world: World) -> None:
    world("one", "two")
    marker = world.run.read_json("stages/two.json")
    del marker["config"]["base"]["lr"]
    world.run.write_json("stages/two.json", marker)
    default = Config().base.lr
    with pytest.raises(ConfigError, match=rf"base.lr={default} then, base.lr=0.5 now"):
        world("two", words=("base.lr=0.5",))
    world("two", words=(f"base.lr={default}",))
    assert world.runs["two"] == 1


def test_several_changes_are_counted(world: World) -> None:
    world("one")
    with pytest.raises(ConfigError, match=r"\(and 1 more\)"):
        world("one", words=("seed=1", "images.size=64"))


def test_a_stopped_stage_goes_on(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    one = world.modules["one"]
    one.fails = RuntimeError("killed")
    with pytest.raises(RuntimeError, match="killed"):
        world("one")
    assert not world.run.exists("stages/one.json")
    with pytest.raises(StageError, match="two needs stage one, which has not finished"):
        world("two")
    with pytest.raises(ConfigError, match="seed=0 then, seed=1 now"):
        world("one", words=("seed=1",))
    one.fails = None
    capsys.readouterr()
    world("one", "two")
    assert "one: continuing where it was stopped" in capsys.readouterr().err
    assert one.made == ["out1/0", "out1/1", "out1/2"]  # each file was made once


@pytest.mark.parametrize("damage", ["delete", "truncate", "flip"])
def test_damaged_output_is_noticed_and_made_again(
    world: World, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    world("one", "two")
    sound = world.run.read("out1/1")
    if damage == "delete":
        world.run.delete("out1/1")
    else:
        world.run.write("out1/1", sound[:-1] if damage == "truncate" else b"X" + sound[1:])
    world("one", "two")
    assert "one: 1 of its files are missing or changed (out1/1)" in capsys.readouterr().err
    assert world.run.read("out1/1") == sound
    assert world.modules["one"].made == ["out1/0", "out1/1", "out1/2", "out1/1"]
    assert world.runs["two"] == 1  # what it was made from is there again


def test_seconds_are_none_of_what_others_build_on() -> None:
    files = {"out/a/model": "1:x", "out/a/metrics.json": "2:y", "out/a/timings.json": "3:z"}
    marker = {"config": {}, "files": files}
    timed = {**files, "out/a/metrics.json": "2:w", "out/a/timings.json": "4:w"}
    assert identity(marker) == identity({**marker, "files": timed})
    assert identity(marker) != identity({**marker, "files": {**files, "out/a/model": "1:y"}})


def test_a_concept_is_made_again_as_a_whole(world: World) -> None:
    """Its last file says that all are there, so it may not stay when another is damaged."""
    one = world.modules["one"]
    world("one")
    world.run.write("out1/concept/first", b"1")
    world.run.write("out1/concept/last", b"2")
    write_known(world.run, "one", inventory(world.run, stages.BY_NAME["one"]))
    world.run.write("out1/concept/first", b"X")
    world("one")
    assert not world.run.exists("out1/concept/last") and one.runs == 2
    assert world.run.exists("out1/0")


@pytest.mark.parametrize("moment", [0, 4e9])
def test_no_clock_decides(world: World, monkeypatch: pytest.MonkeyPatch, moment: float) -> None:
    """Nodes' clocks differ: times of files, and of day, are those of 1970 or 2096 here."""
    one = world.modules["one"]
    one.fails = RuntimeError("killed")
    with pytest.raises(RuntimeError, match="killed"):
        world("one")
    one.fails = None
    monkeypatch.setattr(time, "time", lambda: moment)
    for at, _, names in os.walk(world.run.uri):
        for name in names:
            os.utime(Path(at, name), (moment, moment))
    world("one", "two")
    world("one", "two")
    assert one.made == ["out1/0", "out1/1", "out1/2"]
    assert (world.runs["one"], world.runs["two"]) == (2, 1)


@pytest.fixture
def in_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[World, Counter[str]]]:
    """A run in an object store, and what has been asked of the store for the stages' files."""
    with object_store():
        yield counted_in_store(tmp_path, monkeypatch)


def counted_in_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[World, Counter[str]]:
    world = World(tmp_path, monkeypatch)
    bucket = f"bucket-{uuid.uuid4().hex}"
    world.run = RunDir(f"s3://{bucket}/run")
    world.run.fs.mkdir(bucket)
    asked: Counter[str] = Counter()
    for name in ("cat_file", "info", "find", "size"):
        call = getattr(world.run.fs, name)

        def counted(path: str, *rest: Any, name: str = name, call: Any = call, **more: Any) -> Any:
            asked[name] += path.startswith(f"{bucket}/run/out")
            return call(path, *rest, **more)

        monkeypatch.setattr(world.run.fs, name, counted)
    return world, asked


@pytest.mark.parametrize("verify", ["content", "size"])
def test_a_store_is_asked_for_no_file_that_it_vouches_for(
    in_store: tuple[World, Counter[str]], verify: str
) -> None:
    """One listing an output says what has changed, however many files there are."""
    world, asked = in_store
    world("one", "two", words=(f"verify={verify}",))
    assert not asked["cat_file"]  # it knows what it wrote
    asked.clear()
    world("one", words=(f"verify={verify}",))
    assert +asked == {"find": 1}
    assert world.runs["one"] == 1
    world.run.write("out1/1", b"OUT1 0 1")  # as long as it was
    world("one", words=(f"verify={verify}",))
    assert world.runs["one"] == (2 if verify == "content" else 1)
    world("two", words=(f"verify={verify}",))  # its input is what it was
    assert world.runs["two"] == 1


def test_a_store_vouches_for_what_an_earlier_command_wrote(
    in_store: tuple[World, Counter[str]],
) -> None:
    """A stage that was stopped reads nothing again, and yet knows when a file is another."""
    world, asked = in_store
    one = world.modules["one"]
    one.fails = RuntimeError("killed")
    with pytest.raises(RuntimeError, match="killed"):
        world("one")
    one.fails = None
    world("one", "two")
    assert one.made == ["out1/0", "out1/1", "out1/2"] and not asked["cat_file"]
    records = files_of(world.run, world.run.read_json("stages/one.json"))
    assert [len(r.split(":")[1]) for r in records.values()] == [0, 0, 8]
    world("one", "two")
    assert (world.runs["one"], world.runs["two"]) == (2, 1)
    sound = world.run.read("out1/1")
    world.run.write("out1/1", b"OUT1 0 1")
    one.fails = RuntimeError("killed")
    world.run.delete("out1/2")
    with pytest.raises(RuntimeError, match="killed"):
        world("one")
    one.fails = None
    world("one", "two")  # made again as it was, so that `two` need not be
    assert world.run.read("out1/1") == sound
    assert (world.runs["one"], world.runs["two"]) == (4, 1)


@pytest.mark.parametrize(
    ("recorded", "now", "same"),
    [
        ("3:aa", "3:aa", True),
        ("3:aa", "3:bb", False),
        ("3:aa", "4:aa", False),
        ("3:", "3:bb", True),
        ("3:", "4:bb", False),
        ("3:aa", "3:", True),
        ("3:aa:s", "3:aa:t", True),
        ("3:aa:s", "3:bb:s", False),
        (f"3::{A}", f"3::{A}", True),
        (f"3::{A}", f"3::{B}", False),
        (f"3::{A}", f"3:bb:{B}", False),
        (f"3::{A}", f"3:bb:{A}", True),
        (f"3::{A}", "3:bb", True),  # copied to a disk: nothing says anything of its contents
        (f"3::{A}", f"3::{B}-2", True),  # to a store that has it in parts
        (f"3::{A}-1", f"3::{B}-2", True),
        ("3::1B2M2Y8AsgTpgAmY7PhCfg==", "3::XUFAKrxLKna5cZ2REBfFkg==", False),
        ("3::s", None, False),
        ("", "3:aa", False),
        (":", "3:aa", False),
    ],
)
def test_equal_as_far_as_both_say(recorded: str, now: str | None, same: bool) -> None:
    assert inventories.unchanged(recorded, now) is same


def test_a_run_that_is_copied_into_a_store_is_read_once(
    in_store: tuple[World, Counter[str]], tmp_path: Path
) -> None:
    """What a disk's record says is no store's stamp; nor is it the other way round."""
    world, asked = in_store
    there, world.run = world.run, RunDir(str(tmp_path / "run"))
    world("one", "two")
    for name in world.run.files(""):
        there.write(name, world.run.read(name))
    asked.clear()
    here, world.run = world.run, there
    world("one", "two")
    assert asked["cat_file"] == 6 and world.runs == {"one": 1, "two": 1, "three": 0, "side": 0}
    asked.clear()
    world("one", "two")
    assert not asked["cat_file"] and (world.runs["one"], world.runs["two"]) == (1, 1)
    for name in there.files("stages"):
        here.write(name, there.read(name))
    world.run = here
    world("one", "two")
    assert (world.runs["one"], world.runs["two"]) == (1, 1)


def test_work_can_be_verified_by_size_alone(world: World) -> None:
    """As the paper's terabytes are: another size is noticed, another content is not."""
    world("one", words=("verify=size",))
    marker = world.run.read_json("stages/one.json")
    assert files_of(world.run, marker) == {f"out1/{i}": f"{len(b'out1 0 0')}:" for i in range(3)}
    world("one", "two", words=("verify=size",))
    world("one")  # a check by content takes what there is
    world.run.write("out1/1", b"OUT1 0 1")
    world("one", words=("verify=size",))
    assert world.runs["one"] == 1
    world.run.write("out1/1", b"out1 0")
    world("one", words=("verify=size",))
    assert world.runs["one"] == 2 and world.run.read("out1/1") == b"out1 0 1"


def test_work_on_other_inputs_is_refused(world: World) -> None:
    world("one", "two")
    world.run.delete("out1/1")
    world.modules["one"].salt = "!"
    world("one")
    with pytest.raises(StageError, match=r"two was made from other inputs .*redo=\[two\]"):
        world("two")
    world("side")  # has no earlier work
    redo(world.config(), world.run, ["two"])
    world("two")


def test_a_stopped_stage_does_not_go_on_on_other_inputs(world: World) -> None:
    world("one")
    world.modules["two"].fails = RuntimeError("killed")
    with pytest.raises(RuntimeError):
        world("two")
    world.run.delete("out1/1")
    world.modules["one"].salt = "!"
    world.modules["two"].fails = None
    world("one")
    with pytest.raises(StageError, match=r"two was begun on other inputs .*redo=\[two\]"):
        world("two")


def test_redo_deletes_the_stage_and_its_followers_only(world: World) -> None:
    world("one", "two", "three", "side")
    for name in ("two", "side"):
        world.run.write(f"train/{name}/x", b"")
        world.run.write(f"errors/{name}.parquet", b"")
    redo(world.config(), world.run, ["two"])
    left = [f for f in world.run.files("") if not f.endswith(".files.parquet")]
    tables = [f for f in world.run.files("stages") if f.endswith(".files.parquet")]
    assert tables in ([], ["stages/one.files.parquet", "stages/side.files.parquet"])
    assert left == sorted(
        [
            "config.yaml",
            "errors/side.parquet",
            *(f"{out}/{i}" for out in ("out1", "outs") for i in range(3)),
            "progress/one.json",
            "progress/side.json",
            *(f"stages/{s}{end}" for s in ("one", "side") for end in (".json", ".started.json")),
            "train/side/x",
        ]
    )
    world("one", "two", "three", "side")
    assert world.runs == {"one": 1, "two": 2, "three": 2, "side": 1}


def test_redo_with_a_changed_key(world: World) -> None:
    world("one", "two")
    word = "base.lr=0.5"
    redo(world.config(word), world.run, ["two"])
    world("one", "two", words=(word,))


def test_redo_deletes_nothing_that_could_not_be_made_again(world: World) -> None:
    world("one", "two")
    before = world.run.files("")
    with pytest.raises(ConfigError, match="stage one made with another configuration: seed=0 then"):
        redo(world.config("seed=1"), world.run, ["two"])
    with pytest.raises(
        ConfigError, match="redo=four: no such stage; there are one, two, three, side"
    ):
        redo(world.config(), world.run, ["two", "four"])
    assert world.run.files("") == before


def test_followers_and_ancestors_are_in_order(world: World) -> None:
    assert stages.followers(["two"]) == ["two", "three"]
    assert stages.followers(["side", "one"]) == ["one", "two", "three", "side"]
    assert stages.ancestors("three") == ["one", "two"]
    assert stages.ancestors("one") == []


def test_the_real_stages_are_a_chain() -> None:
    names = [s.name for s in STAGES]
    order = "concepts, pairs, base, gans, weights, generator, adapt, evaluate, report"
    assert ", ".join(names) == order
    for i, name in enumerate(names):
        assert stages.ancestors(name) == names[:i]
        beside = ["ranks"] if i <= names.index("base") else []
        beside += ["compare"] if i <= names.index("generator") else []
        assert stages.followers([name]) == names[i:] + beside
    assert stages.ancestors("ranks") == ["concepts", "pairs", "base"]
    assert stages.followers(["ranks"]) == ["ranks"]
    assert stages.ancestors("compare") == names[: names.index("generator") + 1]
    assert stages.followers(["compare"]) == ["compare"]
    outputs = [o for s in BY_NAME.values() for o in s.outputs]
    assert len(outputs) == len(set(outputs))
    config = load_config(["preset=tiny"])
    sections = {key for s in BY_NAME.values() for key in stages.depends_on(s, config)}
    left_out = {"preset", "run_dir", "redo", "max_error_fraction", "cluster", "plan", "serve"}
    left_out |= {"allow_download", "verify", "tracking", "tracking_place", "runs"}
    top = set(vars(config)) - {key.partition(".")[0] for key in sections}
    assert top == left_out  # nothing else may change without being noticed


def test_a_damaged_marker_is_named(world: World) -> None:
    world("one")
    world.run.write("stages/one.json", b"{")
    with pytest.raises(ArtifactError, match=r"stages/one\.json is damaged"):
        world("one")


def test_errors_table_and_its_limit(tmp_path: Path) -> None:
    run = RunDir(str(tmp_path))
    config = load_config(["preset=tiny", "max_error_fraction=0.1"])
    bad = [{"key": f"k{i}", "reason": f"because {i}"} for i in range(3)]
    record_errors(config, run, "pairs", bad[:1], 10)
    table = run.read_table("errors/pairs.parquet")
    assert table.to_pylist() == [{"stage": "pairs", "key": "k0", "reason": "because 0"}]
    with pytest.raises(
        StageError, match=r"2 of 10 rows are bad.*max_error_fraction=0\.1.*k0: because 0"
    ):
        record_errors(config, run, "pairs", bad[:2], 10)
    assert run.read_table("errors/pairs.parquet").num_rows == 2  # to be read after the failure
    record_errors(config, run, "pairs", bad, 30)
    record_errors(config, run, "gans", [], 0)
    record_errors(config, run, "pairs", [], 10)
    assert run.files("errors") == []  # of an attempt that went well, none are left
