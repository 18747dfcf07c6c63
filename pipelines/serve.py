"""Command `serve`: text → adapter and text + image → image over HTTP, by Ray Serve.

Two deployments: `Api`, the ingress (pipelines/serve_app.py), and behind it `Model`, which holds
base, text encoder and weight generator of one run directory. `denoised-weights serve run_dir=…`
starts them on a local Ray; `serve deploy cluster/serve.yaml` on a cluster, through `build`.

Ray's token does not guard the HTTP port: whoever reaches it may use the service. It listens on
127.0.0.1 unless told otherwise.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import threading
import time
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from modeling.lora import CONFIG_FILE, WEIGHTS_FILE, Adapter, stack, to_files
from modeling.text import TextEncoder
from modeling.training import translate_all
from pipelines import config as configuration
from pipelines.artifacts import ArtifactError, RunDir
from pipelines.base import load_base
from pipelines.config import Config, ConfigError
from pipelines.generator import load_generator
from pipelines.log import log
from pipelines.prediction import Decoder
from pipelines.serve_app import AdapterFiles, Limits, make_app
from pipelines.session import ray_session
from pipelines.stages import StageError, finished, made_with

APP = "denoised-weights"
MODEL = "Model"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# What the service reads, by the stage that wrote it
READ = {
    "base": ("base/base.json", "base/translator.safetensors", "base/discriminator.safetensors"),
    "weights": ("weights/layout.json", "weights/normalisation.safetensors"),
    "generator": (
        "generator/generator.json",
        "generator/model.safetensors",
        "generator/ema.safetensors",
    ),
}


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
    default = configuration.load_config([f"preset={given.preset}"])
    trees = [configuration.flat(configuration.to_dict(c)) for c in (given, default, saved)]
    for key in trees[0]:
        told, unset, made = (t.get(key) for t in trees)
        if key.split(".")[0] not in ("preset", "run_dir", "redo") and told not in (unset, made):
            raise ConfigError(
                f"{key}={told}: the run in {saved.run_dir} was made with {key}={made}, and serve"
                " answers as the run was made; it takes run_dir, serve.* and cluster.* only"
            )


def _check_serve(config: Config) -> None:
    for key, value in vars(config.serve).items():
        if key != "host" and value <= 0:
            raise ConfigError(f"serve.{key}={value}: must be more than 0")
    if config.serve.port > 65535:
        raise ConfigError(f"serve.port={config.serve.port}: must be at most 65535")


class Service:
    """Everything that answers need, loaded once; knows nothing of HTTP or Ray.

    Its methods may be called from several threads: one at a time is let in. Building it raises
    ArtifactError, TextEncoderError or AdapterError if the run cannot be served.
    """

    def __init__(self, config: dict[str, Any], run: RunDir, device: str = "") -> None:
        self.config = configuration.from_dict(config)
        # its own share of the cores, as in every actor
        torch.set_num_threads(max(1, int(self.config.cluster.cpus_per_actor)))
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.translator = load_base(self.config, run)[0].to(self.device)
        self.decoder = Decoder(run, self.config.adapt, self.device)
        self.generator = load_generator(run).model.to(self.device)
        self.encoder = TextEncoder(self.config.text_encoder, self.config.allow_download)
        if self.encoder.dim != self.generator.config.text_dim:
            raise ArtifactError(
                f"text_encoder={self.config.text_encoder} gives {self.encoder.dim} numbers a token,"
                f" the weight generator in {run.uri} takes {self.generator.config.text_dim}"
            )
        self.digests = {name: digest(run, files) for name, files in READ.items()}
        self.lock = threading.Lock()
        self.predicted = lru_cache(self.config.serve.cache)(self._predict)
        # a damaged run is found now, and the first client does not wait for first-call costs
        self._predict("a portrait", 0, self.config.adapt.t)

    def about(self) -> dict[str, Any]:
        """What is being served."""
        return {
            "base": self.digests["base"],
            "weights": self.digests["weights"],
            "generator": self.digests["generator"],
            "layout": self.decoder.layout.digest(),
            "image_size": self.config.images.size,
            "device": str(self.device),
        }

    def check_health(self) -> None:
        """Called by Serve; raising gets this replica replaced."""
        with self.lock:  # fails if the device is lost
            torch.zeros(1, device=self.device).add(1).item()

    def adapter(self, concept: str, seed: int, t: int | None) -> AdapterFiles:
        """The adapter of a concept in PEFT's format; equal arguments give equal bytes."""
        with self.lock:
            begun = time.perf_counter()
            time_step = self.config.adapt.t if t is None else t
            adapter, _ = self.predicted(concept, seed, time_step)
            layout, base = self.decoder.layout.digest(), self.digests["base"]
            about = {"concept": concept, "seed": str(seed), "t": str(time_step)}
            about |= {"layout": layout, "base": base, "generator": self.digests["generator"]}
            files = to_files(adapter, self.translator.lora_config, about)
            seconds = time.perf_counter() - begun
        return AdapterFiles(files[WEIGHTS_FILE], files[CONFIG_FILE], layout, base, seconds)

    def translate(self, picture: np.ndarray, concept: str, seed: int, t: int | None) -> np.ndarray:
        """Edit uint8 [S, S, 3] by a predicted adapter; S is the size the run was trained at."""
        with self.lock:
            time_step = self.config.adapt.t if t is None else t
            adapter, tokens = self.predicted(concept, seed, time_step)
            source = torch.from_numpy(picture).permute(2, 0, 1)[None].to(self.device)
            made = translate_all(self.translator, stack([adapter]), source, [tokens])[0, 0]
        return made.permute(1, 2, 0).contiguous().cpu().numpy()

    def _predict(self, concept: str, seed: int, t: int) -> tuple[Adapter, torch.Tensor]:
        """Adapter and text tokens [L, D]; AdapterError if the prediction is not finite."""
        (embedding,) = self.encoder.encode([concept])
        (adapter,) = self.decoder.adapters(self.generator, [embedding], seed, t)
        self.translator.check(adapter)
        return adapter, embedding.tokens


def digest(run: RunDir, files: tuple[str, ...]) -> str:
    """SHA-256, hexadecimal, over the names and contents of some files of a run directory."""
    total = hashlib.sha256()
    for name in files:
        total.update(f"{name}:{hashlib.sha256(run.read(name)).hexdigest()}\n".encode())
    return total.hexdigest()


def limits(config: Config) -> Limits:
    """What a request may hold, from a run's configuration."""
    s, a = config.serve, config.adapt
    # DDIM visits ddim_steps distinct time steps between t and 0
    least = max(config.generator.t_min, a.ddim_steps - 1 if a.sampler == "ddim" else 0)
    return Limits(s.max_text, s.max_image_bytes, s.max_pixels, config.images.size, least, 999)


def application(config: Config, run: RunDir) -> Any:
    """The Serve application of a run whose configuration `saved_config` gave."""
    from ray import serve
    from ray.serve.config import BackpressureConfig

    allowed = limits(config)

    def make() -> Any:
        handle = serve.get_deployment_handle(MODEL)

        async def call(method: str, *arguments: Any) -> Any:
            return await getattr(handle, method).remote(*arguments)

        return make_app(allowed, call)

    s, c = config.serve, config.cluster
    model = serve.deployment(
        Service,
        name=MODEL,
        max_ongoing_requests=s.max_ongoing,
        ray_actor_options={"num_cpus": c.cpus_per_actor, "num_gpus": c.gpus_per_actor},
    )
    api = serve.deployment(
        serve.ingress(make)(),
        name="Api",
        max_ongoing_requests=s.max_ongoing,
        max_queued_requests=s.max_queued,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
    )
    # Serve's stubs do not know what its own decorator adds
    return api.bind(model.bind(configuration.to_dict(config), run))  # type: ignore[attr-defined]


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
    given = configuration.load_config([f"{k}={v}" for k, v in args.items()])
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


def serve_forever(config: Config, run: RunDir) -> None:
    """Serve until Ctrl-C. `config` is the command's; see `saved_config` for what it decides."""
    log(f"serve: loading {run.uri}")
    saved = saved_config(run, config)
    if not (config.cluster.address or os.environ.get("RAY_ADDRESS")):
        _check_port(saved.serve.host, saved.serve.port)
    # here first: what is wrong with the run is one line now, and pages of Serve's retries later
    Service(configuration.to_dict(saved), run, "cpu")
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
