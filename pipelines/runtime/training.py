"""What the two Ray Train stages share: one `fit` that resumes, fails clearly, and returns files."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_graph import depends_on, finished
from pipelines.runtime.stage_table import BY_NAME, StageError


def fit(
    config: Config,
    run_dir: RunDir,
    stage: str,
    loop: Callable[[dict[str, Any]], None],
    settings: dict[str, Any],
    datasets: dict[str, Any],
    workers: int,
    split_data: bool,
    member: str = "",
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Run a training loop on `workers` workers; returns the last metrics and checkpoint's files.

    A run that was killed goes on from its last checkpoint, and so it does, with other workers, when
    nodes come and go (cluster.least_workers). `split_data` shards the datasets over the workers;
    otherwise each sees all rows. `member` tells trainings of one stage apart. Raises StageError if
    the training fails for good.
    """
    import ray.train
    from ray.train import TrainingFailedError
    from ray.train.torch import TorchTrainer

    logging.getLogger("ray.train").setLevel(logging.WARNING)
    parent = BY_NAME[stage].needs[0]
    identity = json.dumps(
        [depends_on(BY_NAME[stage], config), finished(run_dir, parent)], sort_keys=True
    )
    name = "-".join(
        filter(None, (stage, member, hashlib.sha256(identity.encode()).hexdigest()[:12]))
    )
    c = config.cluster
    # Any: a type checker sees these names as the classes of Train's former version
    train: Any = ray.train

    class Trainer(TorchTrainer):
        """Without Train's handler of Ctrl-C, which swallows it and stays after the training."""

        def _register_sigint_handler(self, controller: Any) -> None:
            pass

    trainer = Trainer(
        loop,
        train_loop_config={
            "config": config_tree.to_dict(config),
            "run_dir": run_dir,
            "workers": workers,
            **settings,
        },
        scaling_config=train.ScalingConfig(
            num_workers=(c.least_workers, workers) if 0 < c.least_workers < workers else workers,
            use_gpu=c.gpu_training,
            resources_per_worker={"CPU": c.training_cpus, **({"GPU": 1} if c.gpu_training else {})},
        ),
        run_config=train.RunConfig(
            name=name,
            **storage(run_dir, f"train/{stage}"),
            failure_config=train.FailureConfig(max_failures=2, controller_failure_limit=2),
            checkpoint_config=train.CheckpointConfig(num_to_keep=1),
            logging_config=train.LoggingConfig("WARNING"),
        ),
        datasets=datasets,
        dataset_config=train.DataConfig(datasets_to_split="all" if split_data else []),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        raise StageError(f"{stage}: training failed: {_root(error)}") from error
    if result.checkpoint is None:
        raise StageError(f"{stage}: training ended without a checkpoint")
    with result.checkpoint.as_directory() as folder:
        files = {p.name: p.read_bytes() for p in Path(folder).iterdir() if p.is_file()}
    return dict(result.metrics or {}), files


def data_parallel(network: nn.Module) -> nn.Module:
    """The network on this worker's device, its gradients averaged over the workers.

    They lie in the buckets that are sent, so that no gradient is there twice.
    """
    from ray.train.torch import prepare_model

    return prepare_model(network, parallel_strategy_kwargs={"gradient_as_bucket_view": True})


def report(
    run_dir: RunDir, stage: str, metrics: dict[str, Any], files: dict[str, bytes] | None
) -> None:
    """Tell Train the metrics and, from rank 0, a checkpoint's files; every worker calls this.

    Raises ArtifactError if the checkpoint cannot be written.
    """
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        for name, data in (files or {}).items():
            Path(folder, name).write_bytes(data)
        checkpoint = ray.train.Checkpoint.from_directory(folder) if files else None
        try:
            ray.train.report(metrics, checkpoint=checkpoint)
        except OSError as error:
            raise ArtifactError(
                f"{run_dir.url(f'train/{stage}')} cannot be written: {error}; the same command goes"
                " on once it can"
            ) from error


def storage(run_dir: RunDir, name: str) -> dict[str, Any]:
    """RunConfig's storage: an object store through the same file system as all other files.

    Train would open a URI with pyarrow's own S3 and GCS clients, which find their credentials,
    endpoints and regions in other places.
    """
    if run_dir.local:
        return {"storage_path": run_dir.url(name)}
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem = PyFileSystem(FSSpecHandler(run_dir.fs))
    return {"storage_path": run_dir.path(name), "storage_filesystem": filesystem}


def _root(error: BaseException) -> str:
    """The last line of the deepest reason: what a person needs to see first."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line and not line.startswith("ray.")]
    last = (named or lines or [type(error).__name__])[-1]
    return re.sub(r"^(?:modeling|pipelines|tuning)\.[\w.]+Error: ", "", last)
