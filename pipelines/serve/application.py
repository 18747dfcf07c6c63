"""The Serve application of a run: which deployments there are, with how many copies of each.

`build` makes it for `serve deploy cluster/serve.yaml`, pipelines/serve/command.py for a local Ray.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.config.sections.operation import Replicas
from pipelines.config.values import as_typed
from pipelines.runtime.run_dir import RunDir
from pipelines.serve.access_log import opened
from pipelines.serve.api_keys import Keys, from_environment, read_keys
from pipelines.serve.app import make_app
from pipelines.serve.interface import Limits
from pipelines.serve.quotas import Quotas
from pipelines.use.finetune_editors import editors
from pipelines.use.saved_run import digests, saved_config

DRAIN_SECONDS = 5.0


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
        learned_steps=a.learned_steps,
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

    from pipelines.serve import deployments as parts  # seconds: it imports torch
    from pipelines.serve.backend import FINETUNES, TEXT, TRANSLATOR, WEIGHTS, RayBackend

    allowed, keys, s = limits(config), from_environment(config), config.serve
    if s.require_key and s.keys_file and Path(s.keys_file).exists():  # or it is on the nodes alone
        read_keys(Path(s.keys_file))
    saved, model = config_tree.to_dict(config), digests(run)["model"]
    deployment: Any = serve.deployment  # its overloads do not know what `ingress` returns

    r = s.limits  # of all copies together: each counts its share for itself

    def make() -> Any:
        copy = serve.get_replica_context().replica_id.unique_id
        share = [math.ceil(n / s.api.most) for n in (r.a_minute, r.burst, r.a_day)]
        quotas = Quotas(share[0], share[1], share[2]) if any(share) else None
        known = Keys(keys, s.keys_file if s.require_key else "")
        log = opened(s.access_log)
        return make_app(allowed, RayBackend(), known, copy, s.allowed_origins, quotas, log)

    def deployed(kind: Any, name: str, replicas: Replicas, *arguments: Any) -> Any:
        # the HTTP part alone bounds what is let in (pipelines.serve.middleware.Admission): behind
        # it nothing is turned away, and no copy is full
        options = _copies(replicas, 2 * s.max_ongoing * s.api.most)
        return deployment(kind, name=name, **options).bind(saved, run, *arguments)

    text = deployed(parts.Text, TEXT, s.text)
    weights = deployed(parts.Weights, WEIGHTS, s.weights, model, text)
    keeping = parts.translator_class(s.cache)
    translator = deployed(keeping, TRANSLATOR, s.translator, model, weights)
    one = Replicas(cpus=0)  # it only waits
    finetunes = deployed(parts.Finetunes, FINETUNES, one, weights)
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
    given = load_config([f"{k}={as_typed(v)}" for k, v in args.items()])
    run = RunDir(given.run_dir)
    return application(saved_config(run, given), run)
