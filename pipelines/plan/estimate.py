"""Work ÷ rates = time: one row a stage, and who waits meanwhile."""

from __future__ import annotations

import math
from dataclasses import replace

from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.plan.bookkeeping import Bookkeeping, books_of
from pipelines.plan.counts import candidate_editors, concept_counts
from pipelines.plan.outcome import Row
from pipelines.plan.rates import Rates, edit_rate
from pipelines.plan.shapes import Shapes
from pipelines.plan.work import StageWork, actors_of, work_of

LONG = 60
"""Seconds of bookkeeping that a plan speaks of."""


def with_editors(config: Config, rates: Rates) -> Rates:
    """The rates with those of the configuration's own editors; measured ones keep their speed."""
    table = dict(rates.table)
    for editor in candidate_editors(config):
        name = f"edit {editor}"
        rate = edit_rate(config, editor, actors_of(config))
        if name in table and table[name].flops:
            faster = table[name].flops / rate.flops
            rate = replace(rate, per_second=table[name].per_second * faster)
        table[name] = rate if name not in table or rate.flops else table[name]
    return Rates(table, rates.weights)


def cluster_devices(config: Config) -> tuple[str, int]:
    """What is paid for: all GPUs of the cluster, or without GPUs its actors."""
    c = config.cluster
    gpus = c.nodes * c.gpus_per_node
    if gpus:
        return "GPU", gpus
    if c.gpus_per_actor or c.gpu_training:
        raise ConfigError(
            "cluster.gpus_per_node=0: this configuration works on GPUs, say how many there are"
            " (cluster.nodes=4 cluster.gpus_per_node=8)"
        )
    return "actor", actors_of(config).devices


def rows_of(config: Config, shapes: Shapes, rates: Rates) -> list[Row]:
    counts = concept_counts(config)
    stages = work_of(config, shapes, rates.weights, counts)
    books = books_of(config, shapes, counts)
    return [row_of(config, stage, rates, books.get(stage.stage)) for stage in stages]


def row_of(config: Config, stage: StageWork, rates: Rates, books: Bookkeeping | None = None) -> Row:
    kind, whole = cluster_devices(config)
    count, notes = stage.pool.devices, list(stage.notes)
    if stage.pool.gpus:
        room = math.floor(whole / stage.pool.gpus)
        if stage.stage in ("base", "generator") and count > room:
            raise ConfigError(
                f"{stage.stage}.workers={count}: the cluster has room for {room} workers with a"
                " GPU each (cluster.nodes, cluster.gpus_per_node)"
            )
        if count > room:
            notes.append(f"room for {room} of {count} actors")
        count = max(1, min(count, room))
    times: list[tuple[float, str, str]] = []
    busy = flops = wall = 0.0
    for work in stage.work:
        rate = rates.table[work.rate]
        seconds = work.count / rate.per_second
        shared = min(work.devices or count, count)
        times.append((seconds / shared, rate.source, work.rate))
        busy += seconds * (stage.pool.gpus or 1)
        wall += seconds / shared
        flops += work.count * rate.flops
    in_use = math.ceil(count * stage.pool.gpus) if stage.pool.gpus else count
    wall += stage.starts * config.plan.overhead_s
    kept = books.seconds(config) if books else 0.0
    wall += kept
    if kept > LONG:
        assert books
        notes.append(f"bookkeeping: {books.requests:,} requests, {kept / 60:,.0f} min")
    if kind == "GPU" and not stage.pool.gpus:
        busy = 0.0
        if wall > 600:
            notes.append("works on CPU cores while the GPUs wait")
    elif in_use < whole and wall > 600:
        notes.append(f"{whole - in_use} of {whole} {kind}s wait")
    basis: dict[str, list[str]] = {}
    for _, source, name in sorted(times, key=lambda t: -t[0]):
        basis[source] = list(dict.fromkeys([*basis.get(source, []), name]))
    held = wall * whole / 3600
    return Row(
        stage.stage,
        stage.summary,
        {w.what: w.count for w in stage.work},
        flops,
        stage.stored,
        in_use,
        busy / 3600,
        wall / 3600,
        held,
        held * config.plan.price if config.plan.price else None,
        basis,
        notes,
        {"requests": books.requests, "mb": books.mb, "seconds": kept} if books else {},
    )
