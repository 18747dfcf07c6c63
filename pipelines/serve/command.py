"""Command `serve`: text → adapter and text + image → image over HTTP, by Ray Serve.

The routes are pipelines/serve/routes/, the models behind them pipelines/serve/deployments.py's.
`denoised-weights serve run_dir=…` (or runs={NAME: RUN_DIR, …}) starts them on a local Ray; `serve
deploy cluster/serve.yaml` on a cluster, through pipelines/serve/application.py's `build`.

Ray's token does not guard the HTTP port: whoever reaches it may use the service, unless
serve.require_key asks for a key. It listens on 127.0.0.1 unless told otherwise.
"""

from __future__ import annotations

import logging
import socket
import time

from pipelines.config.schema import Config
from pipelines.runtime.environment import LOOPBACK, cluster_address
from pipelines.runtime.foreign_output import foreign_output_to_file
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.runtime.stage_table import StageError
from pipelines.runtime.stopping import cleaned_up
from pipelines.serve.api_keys import from_environment
from pipelines.serve.application import application
from pipelines.serve.runs.served import named_runs
from pipelines.use.parts import TextPart, WeightPart
from pipelines.use.saved_run import saved_config

APP = "denoised-weights"


def start(given: Config) -> str:
    """Start the service on the Ray of this process; returns its URL once it answers.

    StageError if a deployment fails; raises as `application`.
    """
    from ray import serve
    from ray.serve.schema import LoggingConfig

    s = given.serve
    quiet = LoggingConfig(log_level="WARNING")
    options = {"host": s.host, "port": s.port, "request_timeout_s": s.timeout_s}
    serve.start(proxy_location="HeadOnly", http_options=options, logging_config=quiet)
    try:
        serve.run(application(given), name=APP, logging_config=quiet)
    except RuntimeError as error:
        raise StageError(f"the service did not start: {error}") from error
    host = f"[{s.host}]" if ":" in s.host else s.host
    return f"http://{host}:{s.port}"


def check_run(config: Config, run: RunDir) -> None:
    """Load everything once, here: what is wrong is one line now, and pages of retries later.

    Raises ArtifactError, TextEncoderError, AdapterError or ConfigError.
    """
    from_environment(config)
    weights = WeightPart(config, run, "cpu")
    weights.check_text(TextPart(config, run).encoder.dim)


def _check_port(host: str, port: int) -> None:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        raise StageError(
            f"serve.host={host} serve.port={port}: cannot listen there ({error.strerror})"
        ) from error


@foreign_output_to_file()
def serve_forever(given: Config) -> None:
    """Serve until a signal ends it (pipelines/runtime/stopping.py).

    given: the command's; see `saved_config` for what it decides.
    """
    named = {name: RunDir(uri) for name, uri in named_runs(given).items()}
    for name, run in named.items():
        log(f"serve: loading {run.uri}" + (f" as {name}" if given.runs else ""))
    saved = {name: saved_config(run, given) for name, run in named.items()}
    clustered = bool(cluster_address(given))
    if not clustered:
        _check_port(given.serve.host, given.serve.port)
    for name, run in named.items():
        check_run(saved[name], run)
    with ray_session(given):
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)

        def delete() -> None:
            """A cluster's Serve would go on without us."""
            if clustered and APP in serve.status().applications:
                serve.delete(APP)

        with cleaned_up(delete):
            try:
                url = start(given)
                log(f"serve: {url}  (documentation: {url}/docs; Ctrl-C stops)")
                if given.serve.host not in LOOPBACK:
                    log("serve: anyone who reaches this address can use it: put a proxy before it")
                log(
                    f"serve: try  curl -s {url}/v1/adapters -H 'content-type: application/json'"
                    ' -d \'{"concept": "green hair"}\' -o adapter_model.safetensors'
                )
                _watch()
            finally:
                delete()


def _watch() -> None:
    """Sleep for ever, with a line whenever the state of the service changes."""
    from ray import serve

    before = "RUNNING"
    while True:
        time.sleep(2.0)
        application = serve.status().applications.get(APP)
        now = application.status if application else "gone"
        if now != before:
            log(f"serve: {now.lower()}" + (f": {application.message}" if application else ""))
            before = now
