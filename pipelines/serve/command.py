"""Command `serve`: text → adapter and text + image → image over HTTP, by Ray Serve.

The routes are pipelines/serve/app.py's, the models behind them pipelines/serve/deployments.py's.
`denoised-weights serve run_dir=…` starts them on a local Ray; `serve deploy cluster/serve.yaml` on
a cluster, through `build`.

Ray's token does not guard the HTTP port: whoever reaches it may use the service, unless
serve.require_key asks for a key. It listens on 127.0.0.1 unless told otherwise.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from dataclasses import replace
from typing import Any

from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.config.sections.operation import Replicas
from pipelines.runtime.foreign_output import foreign_output_to_file
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.session import ray_session
from pipelines.runtime.stage_graph import StageError, finished, made_with
from pipelines.serve.api_keys import from_environment
from pipelines.serve.app import Limits, make_app
from pipelines.serve.finetunes import editors
from pipelines.serve.parts import READ, TextPart, WeightPart, digests

APP = "denoised-weights"
DRAIN_SECONDS = 5.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def saved_config(run: RunDir, given: Config) -> Config:
    """The configuration that the run was made with; only serve.* and cluster.* are the command's.

    Raises StageError if the weight generator has not been trained, ArtifactError if a file is not
    what its stage wrote, ConfigError if the command sets a key that the run has decided otherwise.
    """
    for name, files in READ.items():
        marker = finished(run, name)
        if marker is None:
            raise StageError(
                f"serve needs stage {name}, which has not finished in {run.uri}: run"
                f" `denoised-weights run preset={given.preset} run_dir={run.uri}` first,"
                " or give the run_dir of a finished run"
            )
        for file in files:
            if run.checksum(file) != marker["files"].get(file):
                raise ArtifactError(
                    f"{run.url(file)} is not what stage {name} wrote: give redo=[{name}]"
                )
    saved = replace(made_with(run), serve=given.serve, cluster=given.cluster)
    _check_told(given, saved)
    _check_serve(given)
    return saved


def _check_told(given: Config, saved: Config) -> None:
    """ConfigError if the user set a key, other than serve.* and cluster.*, to another value."""
    default = load_config([f"preset={given.preset}"])
    trees = [config_tree.flat(config_tree.to_dict(c)) for c in (given, default, saved)]
    for key in trees[0]:
        told, unset, made = (t.get(key) for t in trees)
        if key.split(".")[0] not in ("preset", "run_dir", "redo") and told not in (unset, made):
            raise ConfigError(
                f"{key}={told}: the run in {saved.run_dir} was made with {key}={made}, and serve"
                " answers as the run was made; it takes run_dir, serve.* and cluster.* only"
            )


def _check_serve(config: Config) -> None:
    s = config.serve
    flat = config_tree.flat(config_tree.to_dict(config)["serve"])
    zero = ("cpus", "gpus", "wait_ms", "finetunes_waiting")
    for key, value in flat.items():
        if isinstance(value, bool | str):
            continue
        if value < 0 or (value == 0 and key.split(".")[-1] not in zero):
            raise ConfigError(f"serve.{key}={value}: must be more than 0")
    if s.port > 65535:
        raise ConfigError(f"serve.port={s.port}: must be at most 65535")
    for part in ("api", "text", "weights", "translator"):
        replicas: Replicas = getattr(s, part)
        if replicas.most < replicas.least:
            raise ConfigError(
                f"serve.{part}.most={replicas.most}: must not be less than its least,"
                f" {replicas.least}"
            )


def limits(config: Config) -> Limits:
    """What a request may hold, from a run's configuration."""
    s, a, g = config.serve, config.adapt, config.generator
    sequential = g.block_conditioning == "previous"  # which can be recovered directly only
    return Limits(
        max_text=s.max_text,
        max_image_bytes=s.max_image_bytes,
        max_pixels=s.max_pixels,
        size=config.images.size,
        # DDIM visits as many distinct time steps between t and 0 as it takes steps
        t_min=max(g.t_min, a.ddim_steps - 1 if a.sampler == "ddim" else 0),
        t_max=999,
        t=a.t,
        steps=a.ddim_steps if a.sampler == "ddim" else 1,
        max_steps=1 if sequential else s.max_steps,
        max_pairs=s.max_pairs,
        max_train_steps=s.max_finetune_steps,
        train_steps=min(a.steps, s.max_finetune_steps),
        max_upload_bytes=s.max_upload_bytes,
        editors=tuple(editors(config)),
        avatars=config.images.source == "avatars",
        max_ongoing=s.max_ongoing,
        max_queued=s.max_queued,
    )


def _copies(replicas: Replicas, ongoing: int, target: int = 0) -> dict[str, Any]:
    """Options of a deployment.

    ongoing: requests that a copy takes in at once. target: above so many a copy, another one comes;
    0 = two batches, one at work while the next one fills.
    """
    r = replicas
    out: dict[str, Any] = {
        "max_ongoing_requests": ongoing,
        "ray_actor_options": {"num_cpus": r.cpus, "num_gpus": r.gpus},
    }
    if r.most == r.least:
        return {**out, "num_replicas": r.least}
    return {
        **out,
        "autoscaling_config": {
            "min_replicas": r.least,
            "max_replicas": r.most,
            "target_ongoing_requests": target or min(2 * r.batch, ongoing),
            "upscale_delay_s": r.up_s,
            "downscale_delay_s": r.down_s,
        },
    }


def application(config: Config, run: RunDir) -> Any:
    """The Serve application of a run whose configuration `saved_config` gave."""
    from ray import serve
    from ray.serve.config import BackpressureConfig

    from pipelines.serve import deployments as models

    allowed, keys, s = limits(config), from_environment(config), config.serve
    saved, model = config_tree.to_dict(config), digests(run)["model"]
    deployment: Any = serve.deployment  # its overloads do not know what `ingress` returns

    def make() -> Any:
        copy = serve.get_replica_context().replica_id.unique_id
        return make_app(allowed, models.RayBackend(), keys, copy)

    def deployed(kind: Any, name: str, replicas: Replicas, *arguments: Any) -> Any:
        # the HTTP part alone bounds what is let in (pipelines.serve.http.Admission): behind it
        # nothing is turned away, and no copy is full
        options = _copies(replicas, 2 * s.max_ongoing * s.api.most)
        return deployment(kind, name=name, **options).bind(saved, run, *arguments)

    text = deployed(models.Text, models.TEXT, s.text)
    weights = deployed(models.Weights, models.WEIGHTS, s.weights, model, text)
    keeping = models.translator_class(s.cache)
    translator = deployed(keeping, models.TRANSLATOR, s.translator, model, weights)
    one = Replicas(cpus=0)  # it only waits
    finetunes = deployed(models.Finetunes, models.FINETUNES, one, weights)
    # room for probes beside what is let in, and for being told no
    room = 2 * (s.max_ongoing + s.max_queued)
    api = deployment(
        serve.ingress(make)(),
        name="Api",
        max_queued_requests=room,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        # until the proxies of a busy machine have heard that a copy is going: what they still send
        # it would fail, and unlike other parts' calls nobody would make it again
        graceful_shutdown_wait_loop_s=DRAIN_SECONDS,
        graceful_shutdown_timeout_s=s.timeout_s + DRAIN_SECONDS,
        **_copies(s.api, room, s.max_ongoing),
    )
    return api.bind(text, weights, translator, finetunes)


def build(args: dict[str, Any]) -> Any:
    """Builder for `serve deploy` (cluster/serve.yaml): the same keys as on the command line.

    `run_dir` is required; host, port and timeout are `http_options` of the Serve config there.
    """
    if "run_dir" not in args:
        raise ConfigError("args must give run_dir")
    for key in ("serve.host", "serve.port", "serve.timeout_s"):
        if key in args:
            raise ConfigError(
                f"args: {key} has no effect here, set http_options in the Serve config"
            )
    given = load_config([f"{k}={v}" for k, v in args.items()])
    run = RunDir(given.run_dir)
    return application(saved_config(run, given), run)


def start(config: Config, run: RunDir) -> str:
    """Start the service on the Ray of this process; returns its URL once it answers.

    `config` is what `saved_config` gave. StageError if a deployment fails.
    """
    from ray import serve
    from ray.serve.schema import LoggingConfig

    s = config.serve
    quiet = LoggingConfig(log_level="WARNING")
    options = {"host": s.host, "port": s.port, "request_timeout_s": s.timeout_s}
    serve.start(proxy_location="HeadOnly", http_options=options, logging_config=quiet)
    try:
        serve.run(application(config, run), name=APP, logging_config=quiet)
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
def serve_forever(config: Config, run: RunDir) -> None:
    """Serve until Ctrl-C. `config` is the command's; see `saved_config` for what it decides."""
    log(f"serve: loading {run.uri}")
    saved = saved_config(run, config)
    if not (config.cluster.address or os.environ.get("RAY_ADDRESS")):
        _check_port(saved.serve.host, saved.serve.port)
    check_run(saved, run)
    with ray_session(saved):
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        try:
            url = start(saved, run)
            log(f"serve: {url}  (documentation: {url}/docs; Ctrl-C stops)")
            if saved.serve.host not in LOOPBACK:
                log("serve: anyone who reaches this address can use it: put a proxy before it")
            log(
                f"serve: try  curl -s {url}/v1/adapters -H 'content-type: application/json'"
                ' -d \'{"concept": "green hair"}\' -o adapter_model.safetensors'
            )
            _watch()
        except KeyboardInterrupt:
            log("serve: stopping")
        finally:
            if APP in serve.status().applications:  # a cluster's Serve would go on without us
                serve.delete(APP)


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
