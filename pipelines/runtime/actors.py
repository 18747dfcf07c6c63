"""Rows through a pool of Ray Data actors: what pairs, gans, adapt and evaluate have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.config.schema import Config
from pipelines.runtime.log import log


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
    cluster.gpus_per_actor, cluster.cpus_per_actor.
    """
    if not rows:
        return
    import ray
    import ray.data
    from ray.data import ActorPoolStrategy

    blocks = -(-len(rows) // batch)
    mapped: Any = actor  # Ray's stubs know only callables that return one kind of batch
    pool = min(actors or config.cluster.actors, blocks)
    share = config.cluster.gpus_per_actor if gpus is None else gpus
    there = ray.cluster_resources()
    cores = config.cluster.cpus_per_actor if cpus is None else cpus
    for kind, wanted in (("CPU", pool * cores), ("GPU", pool * share)):
        if wanted > there.get(kind, 0):
            log(
                f"waiting for {wanted:g} {kind}s for {pool} actors: the cluster has"
                f" {there.get(kind, 0):g} now (fewer: cluster.actors; the wait ends after"
                f" cluster.stall_timeout_s={config.cluster.stall_timeout_s})"
            )
    results = ray.data.from_items(list(rows), override_num_blocks=blocks).map_batches(
        mapped,
        fn_constructor_kwargs=dict(arguments),
        batch_size=batch,
        compute=ActorPoolStrategy(size=pool),
        num_cpus=cores,
        num_gpus=share or None,
    )
    yield from results.iter_rows()
