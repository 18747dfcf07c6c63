"""Ray's settings, made in the environment before the first `import ray`."""

from __future__ import annotations

import os

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


def set_environment(local: bool) -> None:
    """Ray's settings, where the user has set none; to be called before the first `import ray`.

    Ray reads some on import: without RAY_AUTH_MODE a driver has no token for its own head.
    """
    for key, value in (DEFAULTS | LOCAL if local else DEFAULTS).items():
        os.environ.setdefault(key, value)
