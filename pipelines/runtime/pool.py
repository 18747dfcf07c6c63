"""How many actors share the rows of a stage: what `cluster.actors=0` means.

One place for the stages, for the logical CPUs of a local Ray and for `denoised-weights plan`; no
Ray is needed here. pipelines/runtime/actors.py asks a running Ray what there is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.runtime.machine import cores, gpus, memory_bytes

ACTOR_BYTES = 2**30
"""What an actor on CPUs is taken to need: in the demo 0.75 GiB that no other process shares, most
of it torch's (tests/bench/results/actor_memory.json), and a quarter for larger networks."""
FOR_ACTORS = 0.6
"""Part of the machine's memory that actors may fill: the driver takes about a gigabyte, and Ray
sets a third aside for objects, of which there are few here."""
LARGEST = 256
"""Actors that a cluster of unknown size is asked for at most. Ray 2.60 tells no one how far its
autoscaler may go: the head has a place for it (`get_cluster_config`), which neither the cluster
launcher nor KubeRay fills. Asking for more than can come does no harm: the autoscaler starts what
its configuration allows, and the work goes on with that."""


@dataclass(frozen=True)
class Machine:
    """What one machine has for a local Ray."""

    cores: int
    memory: int | None
    """Bytes; None = not known."""
    gpus: int = 0


@dataclass(frozen=True)
class PoolSize:
    """How many actors a stage has."""

    most: int
    grows: bool = False
    """It starts with as many as there are nodes for, and takes in those that come."""

    def at_most(self, rows: int) -> PoolSize:
        """No more actors than there are rows for them."""
        return replace(self, most=max(1, min(self.most, rows)))


def pool_size(
    config: Config,
    machine: Machine | None,
    actors: int | None = None,
    share: float | None = None,
    cpus: float | None = None,
) -> PoolSize:
    """The decision. ConfigError if the actors need GPUs that the machine does not have.

    machine: the only one that Ray has; None on a cluster, whose nodes come and go. actors: what
    the stage asks for, if anything; else cluster.actors, else what the configuration states to be
    there. share, cpus: GPUs and logical CPUs of an actor, where not those of the configuration.
    """
    c = config.cluster
    if stated := actors or c.actors:
        return PoolSize(stated)
    if machine is None:
        stated = on_stated_gpus(config, share)
        return PoolSize(stated) if stated else PoolSize(LARGEST, grows=True)
    if count := on_machine(config, machine, share, cpus):
        return PoolSize(count)
    raise ConfigError(
        f"cluster.gpus_per_actor={c.gpus_per_actor:g}: this machine has {machine.gpus or 'no'} GPU."
        " Name a cluster (cluster.address, RAY_ADDRESS), or give cluster.gpus_per_actor=0 and"
        " cluster.gpu_training=false to work on the cores"
    )


def planned_actors(config: Config) -> int:
    """The actors that a plan counts with, which sees no cluster.

    Where the configuration states no GPUs, each of cluster.nodes is taken to be like this machine.
    """
    c = config.cluster
    if known := c.actors or on_stated_gpus(config):
        return known
    return c.nodes * on_machine(config, this_machine(config), share=0.0)


def local_actors(config: Config) -> int:
    """The most actors of any stage of a local Ray, which must have logical CPUs for all.

    1 where they need GPUs that are not there: their stages do not start.
    """
    c = config.cluster
    machine = this_machine(config)
    shares = {0.0, c.gpus_per_actor, *c.editor_gpus.values()}
    counts = [c.actors or on_machine(config, machine, share) for share in shares]
    return max(1, *counts, *c.editor_actors.values())


def on_stated_gpus(config: Config, share: float | None = None) -> int:
    """Actors for all GPUs that the configuration states; 0 where it states none.

    Actors without a GPU are as many as those that have one: of a node's cores nothing is stated.
    """
    c = config.cluster
    share = share or c.gpus_per_actor
    if not (share and c.gpus_per_node):
        return 0
    if count := c.nodes * _on_gpus(c.gpus_per_node, share):
        return count
    raise ConfigError(
        f"cluster.gpus_per_node={c.gpus_per_node}: an actor takes {share:g} GPUs of one node"
        " (cluster.gpus_per_actor, cluster.editor_gpus)"
    )


def on_machine(
    config: Config, machine: Machine, share: float | None = None, cpus: float | None = None
) -> int:
    """Actors for one machine; 0 where each takes more GPUs than it has.

    On CPUs they leave one core for reading, where there are more than two, and a part of the
    memory.
    """
    share = config.cluster.gpus_per_actor if share is None else share
    if share:
        return _on_gpus(machine.gpus, share)
    free = machine.cores - 1 if machine.cores > 2 else machine.cores
    by_cores = free / ((config.cluster.cpus_per_actor if cpus is None else cpus) or 1)
    by_memory = FOR_ACTORS * (machine.memory or math.inf) / ACTOR_BYTES
    return max(1, math.floor(min(by_cores, by_memory)))


def this_machine(config: Config) -> Machine:
    """Its GPUs are counted where the configuration asks for some: that takes torch."""
    wanted = config.cluster.gpus_per_actor or config.cluster.editor_gpus
    return Machine(cores(), memory_bytes(), gpus() if wanted else 0)


def _on_gpus(there: int, share: float) -> int:
    """Several actors may share a GPU, but none has parts of two."""
    if share >= 1:
        return math.floor(there / share)
    return there * math.floor(1 / share + 1e-9)
