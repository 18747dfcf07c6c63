"""Rows through a pool of Ray Data actors: what pairs, gans, adapt and evaluate have in common."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.config.schema import Config
from pipelines.runtime import ledger
from pipelines.runtime.environment import cluster_address
from pipelines.runtime.log import log
from pipelines.runtime.pool import Machine, PoolSize, pool_size, this_machine

WROTE = "wrote"
"""A column of every actor's rows: see `_telling`."""

if TYPE_CHECKING:
    from ray.data import ActorPoolStrategy, Dataset


def map_actors(
    config: Config,
    actor: type,
    arguments: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    batch: int = 1,
    actors: int | None = None,
    gpus: float | None = None,
    cpus: float | None = None,
) -> Iterator[dict[str, Any]]:
    """Yield what the actors return, row by row, as it comes.

    `actor(**arguments)` is built once per process and called with batches (dicts of arrays) of
    `batch` rows. An actor whose process or node dies is replaced and its batch done again, so
    a call must be idempotent. actors, gpus, cpus: other than cluster.actors and
    cluster.gpus_per_actor, cluster.cpus_per_actor. How many there are, pipelines/runtime/pool.py
    says; what is made does not depend on it.
    """
    if not rows:
        return
    import ray.data

    blocks = -(-len(rows) // batch)
    mapped: Any = _telling(actor)  # Ray's stubs know only callables that return one kind of batch
    share = config.cluster.gpus_per_actor if gpus is None else gpus
    cores = config.cluster.cpus_per_actor if cpus is None else cpus
    pool = pool_here(config, actors, share, cores).at_most(blocks)
    _say_what_is_waited_for(config, pool, share, cores)
    results = ray.data.from_items(list(rows), override_num_blocks=blocks).map_batches(
        mapped,
        fn_constructor_kwargs=dict(arguments),
        batch_size=batch,
        compute=strategy(pool),
        num_cpus=cores,
        num_gpus=share or None,
    )
    for row in _rows(results):
        ledger.add(json.loads(row.pop(WROTE) or "{}"))
        yield row


def _rows(results: Dataset) -> Iterator[dict[str, Any]]:
    """As iter_rows, without its statistics.

    It sends all that is known of every block to an actor every few seconds: of 17,000 rows that
    took half of the driver's time, and more with each.
    """
    import ray
    from ray.data.block import BlockAccessor

    for bundle in results.iter_internal_ref_bundles():
        for block in ray.get(bundle.block_refs):
            rows: Iterator[Any] = BlockAccessor.for_block(block).iter_rows(public_row_format=True)
            yield from map(dict, rows)


def _telling(actor: type) -> type:
    """Each batch's first row says what was written for it."""

    # a type checker knows no class whose parent is an argument
    class Telling(actor):  # type: ignore[misc]
        def __init__(self, **arguments: Any) -> None:
            ledger.keep()
            super().__init__(**arguments)

        def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
            rows: dict[str, Any] = super().__call__(batch)
            count = len(next(iter(rows.values())))
            told = json.dumps(ledger.taken())
            return {**rows, WROTE: [told] + [""] * (count - 1)}

    Telling.__name__ = Telling.__qualname__ = actor.__name__
    return Telling


def pool_here(
    config: Config,
    actors: int | None = None,
    share: float | None = None,
    cpus: float | None = None,
) -> PoolSize:
    """pipelines.runtime.pool.pool_size of the Ray that this process is connected to."""
    import ray

    machine = None
    nodes = sum(node["Alive"] for node in ray.nodes())
    if nodes == 1 and not cluster_address(config):
        there, own = ray.cluster_resources(), this_machine(config)
        # a Ray that the caller has started may have been given less than the machine has
        logical = max(1, int(there.get("CPU", 0)))
        machine = Machine(min(own.cores, logical), own.memory, int(there.get("GPU", 0)))
    return pool_size(config, machine, actors, share, cpus)


def strategy(pool: PoolSize) -> ActorPoolStrategy:
    """A pool that grows asks for all its actors at once.

    Ray Data would add one after another as rows are finished, of which one may take an hour; and
    only actors that wait for a node let the autoscaler start it. Those that do not get one cost
    nothing.
    """
    from ray.data import ActorPoolStrategy

    if not pool.grows:
        return ActorPoolStrategy(size=pool.most)
    return ActorPoolStrategy(min_size=1, max_size=pool.most, initial_size=pool.most)


def _say_what_is_waited_for(config: Config, pool: PoolSize, share: float, cores: float) -> None:
    """A line where there is not room for all actors; of a pool that grows, for one."""
    import ray

    there, count = ray.cluster_resources(), 1 if pool.grows else pool.most
    who = "the first of the actors" if pool.grows else f"{count} actors"
    advice = "" if pool.grows else "fewer: cluster.actors; "
    for kind, wanted in (("CPU", count * cores), ("GPU", count * share)):
        if wanted > there.get(kind, 0):
            log(
                f"waiting for {wanted:g} {kind}s for {who}: the cluster has"
                f" {there.get(kind, 0):g} now ({advice}the wait ends after"
                f" cluster.stall_timeout_s={config.cluster.stall_timeout_s})"
            )
