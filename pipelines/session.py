"""Starting and finding Ray, with settings that fail early and keep threads in bounds."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.config import Config

# A pipeline that cannot be scheduled says so after two minutes, not thirty (Ray's default)
DEFAULTS = {
    "RAY_DATA_EXECUTION_NO_PROGRESS_TIMEOUT_S": "120",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}


def threads_per_actor(config: Config) -> int:
    """Threads an actor may use: its share of the cores, so that actors do not fight for them."""
    return max(1, int(os.cpu_count() or 1) // max(1, config.cluster.actors))


@contextmanager
def ray_session(config: Config) -> Iterator[None]:
    """Connect to the configured cluster, or start a local Ray for the duration.

    A Ray that the caller (a test, a job) has already connected to is used and left running.
    """
    for key, value in DEFAULTS.items():
        os.environ.setdefault(key, value)
    import ray
    import ray.data

    quiet_data()
    if ray.is_initialized():
        yield
        return
    address = config.cluster.address or os.environ.get("RAY_ADDRESS", "")
    # Logical CPUs: actors + Train workers + one for each streaming stage, or Ray Data waits for ever
    cores = os.cpu_count() or 1
    local = {} if address else {"num_cpus": max(cores, config.cluster.actors) + 4, "include_dashboard": False}
    ray.init(
        address=address or None,
        log_to_driver=True,
        logging_level="warning",
        **local,  # type: ignore[arg-type]
    )
    try:
        yield
    finally:
        ray.shutdown()


def quiet_data() -> None:
    """Ray Data's own bars and logs off: the stages report their progress themselves."""
    import logging

    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
