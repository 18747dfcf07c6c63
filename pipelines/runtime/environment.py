"""Ray's settings, made in the environment before the first `import ray`."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from pipelines.config.schema import Config

DEFAULTS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
}

PROXY = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "pipelines.serve.middleware:proxy_middlewares"
}
"""Of nodes that Serve's proxies run on."""

# A local Ray starts workers as they are needed, not one per logical CPU at once
LOCAL = {
    **PROXY,
    "RAY_prestart_worker_first_driver": "0",
    "RAY_enable_worker_prestart": "0",
    # … and more of them than cores is meant: most only wait
    "RAY_worker_maximum_startup_concurrency": "16",
    # Ray Train's own use of what Ray Data deprecates, and a note in each of its actors
    "PYTHONWARNINGS": "ignore:`ExecutionOptions.exclude_resources`",
    "RAY_DATA_LOG_LEVEL": "ERROR",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # no one takes this machine away
}

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def cluster_address(config: Config) -> str:
    """Where Ray runs already; "" = a Ray of this machine, to be started."""
    address = config.cluster.address or os.environ.get("RAY_ADDRESS", "")
    return "" if address == "local" else address


def set_environment(local: bool) -> None:
    """Ray's settings, where the user has set none; to be called before the first `import ray`.

    Ray reads some on import: without RAY_AUTH_MODE a driver has no token for its own head.
    """
    for key, value in (DEFAULTS | LOCAL if local else DEFAULTS).items():
        os.environ.setdefault(key, value)
    if local and os.environ["RAY_AUTH_MODE"] == "token":
        _token_without_home()
    _loopback_without_proxy()


def _token_without_home() -> None:
    """Ray writes a token to ~/.ray; where it cannot, this Ray has one of its own."""
    if "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ:
        return
    home = Path("~").expanduser()
    folder = home / ".ray"
    if not (folder / "auth_token").exists() and not os.access(
        folder if folder.exists() else home, os.W_OK | os.X_OK
    ):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def _loopback_without_proxy() -> None:
    """`http_proxy` is meant for other machines: a proxy cannot reach this one's loopback."""
    proxies = ("http_proxy", "https_proxy", "all_proxy")
    if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in proxies):
        return
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    hosts = [host.strip() for host in given.split(",") if host.strip()]
    if "*" not in hosts:
        hosts += [host for host in LOOPBACK if host not in hosts]
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(hosts)
