"""Starting and finding Ray, with settings that fail early and keep threads in bounds."""

from __future__ import annotations

import logging
import math
import os
import re
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from modeling.reasons import one_line
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.runtime import stopping
from pipelines.runtime.environment import LOOPBACK, cluster_address, set_environment
from pipelines.runtime.log import log
from pipelines.runtime.machine import cores
from pipelines.runtime.pool import local_actors
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import StageError
from pipelines.runtime.threads import Threads

if TYPE_CHECKING:
    import torch

NO_DASHBOARD = "http://127.0.0.1:9"
"""An address that refuses. A local Ray has no dashboard; Train's cleaner, which asks one whether
its controller lives, would find another Ray's, or wait 13 s for that of a Ray that was killed."""

CONNECT_SECONDS = 20.0
"""A cluster answers within so long, or is said not to."""

SOCKET_PATH = 107
"""Bytes of a Unix socket's path, of Linux."""
SOCKET_NAME = len("/ray/session_2026-11-27_07-35-45_241740_4194304/sockets/plasma_store")


@contextmanager
def actors_threads(config: Config) -> Iterator[None]:
    """As many threads as an actor has, for the driver: sums depend on how many there are."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads_per_actor(config))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_per_actor(config: Config) -> int:
    """Threads an actor may use: its share of CPUs, so that actors do not fight for the cores."""
    return max(1, int(config.cluster.cpus_per_actor))


def threads_per_worker(config: Config, workers: int) -> int:
    """The most threads of a training worker, an equal share of the cores of its machine."""
    return config.cluster.training_threads or max(1, cores() // workers)


def training_threads(config: Config, workers: int, device: torch.device) -> Threads:
    """Of a training worker; fewer are tried where one alone trains on the cores."""
    import torch

    c = config.cluster
    # what is compiled is compiled for a number of threads
    fixed = bool(c.training_threads or c.compile) or workers > 1 or device.type != "cpu"
    return Threads(threads_per_worker(config, workers), fixed, torch.set_num_threads)


def quiet_worker() -> None:
    """No INFO lines from this process: Train's name no logger that could be set apart.

    What the stages say themselves is printed (pipelines/runtime/log.py).
    """
    logging.disable(logging.INFO)


@contextmanager
def ray_session(config: Config, run: RunDir | None = None) -> Iterator[None]:
    """Connect to the configured cluster, or start a local Ray for the duration.

    run: what the session will write to; ConfigError if the nodes cannot all see it.

    A Ray that the caller (a test, a job) has already connected to is used and left running.
    """
    address = cluster_address(config)
    word = f"{'cluster.address' if config.cluster.address else 'RAY_ADDRESS'}={address}"
    set_environment(local=not address)
    import ray
    import ray.data

    set_up_data(config)
    if ray.is_initialized():
        yield
        return
    if address:
        check_address(address, word)
    else:
        check_loopback()
    # Logical CPUs: actors + Train workers + one a streaming stage, or Ray Data waits for ever
    busy = max(
        os.cpu_count() or 1,
        math.ceil(local_actors(config) * config.cluster.cpus_per_actor),
        math.ceil(
            max(config.base.workers, config.generator.workers) * config.cluster.training_cpus
        ),
    )
    local: dict[str, Any] = {} if address else {"num_cpus": busy + 4, "include_dashboard": False}
    if not address and (folder := _short_folder()):
        local["_temp_dir"] = folder
    settings = {} if address else {"RAY_API_SERVER_ADDRESS": NO_DASHBOARD}
    with _in_environment(settings), stopping.hangups_ignored():
        try:
            ray.init(
                address=address or "local",  # None would join whatever runs on this machine
                log_to_driver=True,
                logging_level=logging.WARNING,
                # Train's cleaner warns every second that a Ray without dashboard has no state API
                logging_config=ray.LoggingConfig(log_level="ERROR"),
                **local,
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            what = word if address else "a local Ray does not start"
            raise StageError(f"{what}: {one_line(error)}") from error
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            load = f"load average {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores"
            raise StageError(
                f"a local Ray was not up within 30 s, as this machine is too busy ({load}): the"
                " same command goes on once it is less so"
            ) from error
    stopping.claim()
    try:
        if run is not None:
            check_storage(config, run)
        yield
    finally:
        ray.shutdown()


def check_loopback() -> None:
    """Raise StageError without 127.0.0.1: Ray's processes look for one another there, for 30 s."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind((LOOPBACK[0], 0))
    except OSError as error:
        raise StageError(
            f"a local Ray does not start without {LOOPBACK[0]} ({error.strerror}), on a host with"
            " IPv6 alone, too: `ip addr add 127.0.0.1/8 dev lo`, or give cluster.address"
        ) from error


def _short_folder() -> str:
    """Where a local Ray's files go if the temporary folder's path is too long; "" = there.

    ConfigError if /tmp cannot be used either.
    """
    given = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    folder = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(os.fsencode(folder)) + SOCKET_NAME <= SOCKET_PATH:
        return ""
    if given == "RAY_TMPDIR" or not os.access("/tmp", os.W_OK | os.X_OK):
        raise ConfigError(
            f"{given}={folder} is too long for Ray's sockets, whose paths have {SOCKET_PATH} bytes"
            f" at most: set RAY_TMPDIR to a folder of at most {SOCKET_PATH - SOCKET_NAME} bytes"
        )
    log(f"{given}={folder} is too long for Ray's sockets: its files go to /tmp/ray")
    return "/tmp/ray"


def check_address(address: str, word: str) -> None:
    """Raise ConfigError for what is no Ray's address, StageError where no Ray answers.

    `ray.init` goes on trying for more than ten minutes. word: what the user gave it as.
    """
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{word} is a dashboard's address, which `denoised-weights submit` takes; on a machine"
            " of the cluster give cluster.address=auto, for a Ray of this machine alone"
            " cluster.address=local"
        )
    if address == "auto":
        return
    host = address.removeprefix("ray://")
    if not re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s/:]+):[0-9]{1,5}", host):
        raise ConfigError(f"{word}: give HOST:PORT, ray://HOST:PORT, auto or local")
    if os.environ.get("RAY_USE_TLS") == "1":  # with Ray's own certificates, which it checks
        return
    import grpc

    with grpc.insecure_channel(host) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        except grpc.FutureTimeoutError as error:
            raise StageError(
                f"{word}: no Ray answers there ({CONNECT_SECONDS:.0f} s); is the cluster up, and"
                " the address that of its head (port 6379)? Unset it for a Ray of this machine"
            ) from error


@contextmanager
def _in_environment(settings: dict[str, str]) -> Iterator[None]:
    """For processes started in it, whose descendants keep the settings."""
    before = {key: os.environ.get(key) for key in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def check_storage(config: Config, run: RunDir) -> None:
    """ConfigError if the nodes of this session's Ray cannot all see the run directory.

    Several nodes on one machine (as in tests) can.
    """
    import ray

    hosts = {n["NodeManagerHostname"] for n in ray.nodes() if n["Alive"]}
    if run.local and len(hosts) > 1 and not config.cluster.shared_storage:
        raise ConfigError(
            f"run_dir={config.run_dir} is a folder of one machine, and this Ray has {len(hosts)}:"
            " give a URI that all see (s3://…, gs://…), or cluster.shared_storage=true if it is"
            " mounted on all of them"
        )


def set_up_data(config: Config) -> None:
    """Ray Data's own bars and logs off: the stages report their progress themselves.

    Parquet is read without actors for the footers: on two cores those alone take 12 s to start.
    """
    from ray.data import DataContext

    context = DataContext.get_current()
    # Ray counts a pipeline whose actors all work on one long row as stuck, too
    context.execution_no_progress_timeout_s = config.cluster.stall_timeout_s
    context.enable_progress_bars = False
    context.use_datasource_v2 = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
