"""The Serve application: which deployments there are, with how many copies of each.

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
from pipelines.serve.access_log import opened
from pipelines.serve.api_keys import Keys, admins_from_environment, from_environment, read_keys
from pipelines.serve.app import make_app
from pipelines.serve.quotas import Quotas

DRAIN_SECONDS = 5.0


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


def application(given: Config) -> Any:
    """The Serve application of the runs that `given` names; its serve.* and cluster.* hold for all.

    Raises StageError, ArtifactError or ConfigError if one cannot be served.
    """
    from ray import serve
    from ray.serve.config import BackpressureConfig

    from pipelines.serve import deployments as parts  # seconds: it imports torch
    from pipelines.serve import finetuning
    from pipelines.serve.backend import FINETUNES, RUNS, TEXT, TRANSLATOR, WEIGHTS, RayRuns
    from pipelines.serve.runs import swapping
    from pipelines.serve.runs.describing import configured

    table, s = configured(given), given.serve
    keys = from_environment(given)
    if s.require_key and s.keys_file and Path(s.keys_file).exists():  # or it is on the nodes alone
        read_keys(Path(s.keys_file))
    told, admins = config_tree.to_dict(given), admins_from_environment()
    deployment: Any = serve.deployment  # its overloads do not know what `ingress` returns

    r = s.limits  # of all copies together: each counts its share for itself

    def make() -> Any:
        copy = serve.get_replica_context().replica_id.unique_id
        share = [math.ceil(n / s.api.most) for n in (r.a_minute, r.burst, r.a_day)]
        quotas = Quotas(share[0], share[1], share[2]) if any(share) else None
        known = Keys(keys, s.keys_file if s.require_key else "", admins)
        runs = RayRuns(swapping.current(table))
        log = opened(s.access_log)
        return make_app(table.of("").limits, runs, known, copy, s.allowed_origins, quotas, log)

    def deployed(kind: Any, name: str, replicas: Replicas, *arguments: Any) -> Any:
        # the HTTP part alone bounds what is let in (pipelines.serve.middleware.Admission): behind
        # it nothing is turned away, and no copy is full
        options = _copies(replicas, 2 * s.max_ongoing * s.api.most)
        return deployment(kind, name=name, **options).bind(told, table, *arguments)

    text = deployed(parts.Text, TEXT, s.text)
    weights = deployed(parts.Weights, WEIGHTS, s.weights, text)
    translator = deployed(parts.translator_class(s.cache), TRANSLATOR, s.translator, weights)
    one = Replicas(cpus=0)  # it only waits
    finetunes = deployed(finetuning.Finetunes, FINETUNES, one, weights)
    runs = deployed(swapping.Runs, RUNS, one)
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
    return api.bind(text, weights, translator, finetunes, runs)


def build(args: dict[str, Any]) -> Any:
    """Builder for `serve deploy` (cluster/serve.yaml): the same keys as on the command line.

    `run_dir` or `runs` is required; host, port and timeout are `http_options` of the Serve config
    there.
    """
    if not {"run_dir", "runs"} & set(args):
        raise ConfigError("args must give run_dir, or runs: {NAME: RUN_DIR, …}")
    for key in ("serve.host", "serve.port", "serve.timeout_s"):
        if key in args:
            raise ConfigError(
                f"args: {key} has no effect here, set http_options in the Serve config"
            )
    return application(load_config([f"{k}={as_typed(v)}" for k, v in args.items()]))
