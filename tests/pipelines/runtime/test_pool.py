"""How many actors a stage has, by what is stated and by what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config.error import ConfigError
from pipelines.config.load import load_config, preset_names
from pipelines.config.schema import Config
from pipelines.runtime import machine as machines
from pipelines.runtime import pool
from pipelines.runtime.actors import strategy
from pipelines.runtime.pool import LARGEST, Machine, PoolSize, pool_size

GIB = 2**30
NODES = ("cluster.nodes=3", "cluster.gpus_per_node=8")


def configured(*words: str) -> Config:
    """Of a preset that takes what is there."""
    return load_config(["preset=demo", *words])


def one(cores: int, gib: float | None = 64, gpus: int = 0) -> Machine:
    return Machine(cores, None if gib is None else int(gib * GIB), gpus)


@pytest.mark.parametrize(
    ("words", "machine", "size"),
    [
        # what is stated, wherever it is
        (["cluster.actors=5"], one(2), PoolSize(5)),
        (["cluster.actors=5", *NODES, "cluster.gpus_per_actor=1"], None, PoolSize(5)),
        # the GPUs of a cluster that is described
        ([*NODES, "cluster.gpus_per_actor=1"], None, PoolSize(24)),
        ([*NODES, "cluster.gpus_per_actor=0.25"], None, PoolSize(96)),
        # three to a GPU: none has parts of two
        ([*NODES, "cluster.gpus_per_actor=0.3"], None, PoolSize(72)),
        # two to a node: none has parts of two
        ([*NODES, "cluster.gpus_per_actor=3"], None, PoolSize(6)),
        # a cluster of which nothing is known
        ([], None, PoolSize(LARGEST, grows=True)),
        (["cluster.gpus_per_actor=1"], None, PoolSize(LARGEST, grows=True)),
        (NODES, None, PoolSize(LARGEST, grows=True)),
        # one machine, whatever cluster the preset describes
        ([*NODES, "cluster.gpus_per_actor=1"], one(64, gpus=4), PoolSize(4)),
        (["cluster.gpus_per_actor=0.5"], one(64, gpus=1), PoolSize(2)),
        ([], one(1), PoolSize(1)),
        ([], one(2), PoolSize(2)),
        ([], one(3), PoolSize(2)),
        ([], one(16), PoolSize(15)),
        ([], one(16, gib=None), PoolSize(15)),
        (["cluster.cpus_per_actor=4"], one(16), PoolSize(3)),
        (["cluster.cpus_per_actor=4"], one(2), PoolSize(1)),
        (["cluster.cpus_per_actor=0"], one(16), PoolSize(15)),
        # its memory is for fewer
        ([], one(2, gib=4), PoolSize(2)),
        ([], one(16, gib=10), PoolSize(6)),
        ([], one(16, gib=1), PoolSize(1)),
    ],
)
def test_the_decision(words: list[str], machine: Machine | None, size: PoolSize) -> None:
    assert pool_size(configured(*words), machine) == size


def test_a_stage_may_ask_for_its_own() -> None:
    config = configured(*NODES, "cluster.gpus_per_actor=1")
    assert pool_size(config, None, actors=7) == PoolSize(7)
    assert pool_size(config, None, share=2.0) == PoolSize(12)
    # without a GPU: as many as have one
    assert pool_size(config, None, share=0.0) == PoolSize(24)
    assert pool_size(config, one(8, gpus=1), share=0.0) == PoolSize(7)
    assert pool_size(configured(), one(8), cpus=3.0) == PoolSize(2)


def test_gpus_that_are_not_there_are_one_line() -> None:
    config = configured("cluster.gpus_per_actor=1")
    with pytest.raises(ConfigError, match=r"^cluster.gpus_per_actor=1: this machine has no GPU\."):
        pool_size(config, one(8))
    config = configured("cluster.gpus_per_actor=2")
    with pytest.raises(ConfigError, match="this machine has 1 GPU"):
        pool_size(config, one(8, gpus=1))
    config = configured("cluster.gpus_per_actor=2", "cluster.gpus_per_node=1")
    with pytest.raises(ConfigError, match=r"^cluster.gpus_per_node=1: an actor takes 2 GPUs"):
        pool_size(config, None)


def test_presets_but_those_for_tests_take_what_is_there() -> None:
    actors = {p: load_config([f"preset={p}"]).cluster.actors for p in preset_names()}
    assert actors.pop("tiny") == 2
    assert len(actors) >= 4 and not any(actors.values())


def test_a_local_ray_has_logical_cpus_for_the_largest_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "this_machine", lambda config: one(8, gpus=2))
    assert pool.local_actors(configured()) == 7
    assert pool.local_actors(configured("cluster.actors=3")) == 3
    # the stages without a GPU work on the cores
    assert pool.local_actors(configured("cluster.gpus_per_actor=1")) == 7
    assert pool.local_actors(configured("cluster.gpus_per_actor=0.1")) == 20
    assert pool.local_actors(configured("cluster.editor_actors={img2img: 9}")) == 9
    assert pool.local_actors(configured("cluster.editor_gpus={img2img: 0.2}")) == 10
    monkeypatch.setattr(pool, "this_machine", lambda config: one(1))
    assert pool.local_actors(configured("cluster.gpus_per_actor=1")) == 1


def test_no_more_actors_than_rows() -> None:
    assert PoolSize(8).at_most(3) == PoolSize(3)
    assert PoolSize(8, grows=True).at_most(3) == PoolSize(3, grows=True)
    assert PoolSize(2).at_most(0) == PoolSize(1)


def test_a_pool_that_grows_asks_for_all_and_is_content_with_one() -> None:
    fixed, grows = strategy(PoolSize(4)), strategy(PoolSize(4, grows=True))
    assert (fixed.min_size, fixed.max_size) == (4, 4)
    assert (grows.min_size, grows.max_size, grows.initial_size) == (1, 4, 4)


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({}, 12, 32 * GIB),
        ({"cpu.max": "max 100000", "memory.max": "max"}, 12, 32 * GIB),
        ({"cpu.max": "350000 100000", "memory.max": f"{4 * GIB}"}, 3, 4 * GIB),
        ({"cpu.max": "50000 100000"}, 1, 32 * GIB),
        ({"cpu.max": "9900000 100000", "memory.max": f"{99 * GIB}"}, 12, 32 * GIB),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 12, 32 * GIB),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4, 32 * GIB),
        ({"memory/memory.limit_in_bytes": f"{8 * GIB}"}, 12, 8 * GIB),
        ({"memory/memory.limit_in_bytes": f"{2**63 - 4096}"}, 12, 32 * GIB),
    ],
)
def test_a_container_has_what_it_is_given(
    files: dict[str, str],
    cores: int,
    memory: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    monkeypatch.setattr(machines, "CGROUP", tmp_path)
    monkeypatch.setattr(machines.os, "cpu_count", lambda: 16)
    monkeypatch.setattr(machines.os, "sched_getaffinity", lambda _: range(12), raising=False)
    monkeypatch.setattr(machines, "_physical_memory", lambda: 32 * GIB)
    assert machines.cores() == cores
    assert machines.memory_bytes() == memory
