"""The run that is served: what is read of it, and the configuration it was made with."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from modeling.weights.refiner import CONFIG_FILE, WEIGHTS_FILE
from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.config.sections.operation import Replicas
from pipelines.runtime.inventory import files_of, unchanged
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_graph import finished, made_with
from pipelines.runtime.stage_table import StageError
from pipelines.stages.gradients import BASIS_FILE
from pipelines.stages.refiners import folder_of

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


def digest(run: RunDir, files: Sequence[str]) -> str:
    """SHA-256, hexadecimal, over the names and contents of some files of a run directory."""
    total = hashlib.sha256()
    for name in files:
        total.update(f"{name}:{hashlib.sha256(run.read(name)).hexdigest()}\n".encode())
    return total.hexdigest()


def digests(run: RunDir) -> dict[str, str]:
    """Of base, weights and generator; and of all three, which names what predicts."""
    parts = {name: digest(run, files) for name, files in READ.items()}
    whole = hashlib.sha256("".join(parts.values()).encode()).hexdigest()
    return {**parts, "model": whole}


def saved_config(run: RunDir, given: Config, command: str = "serve") -> Config:
    """The configuration that the run was made with; only serve.* and cluster.* are the command's.

    command: what reads it, for messages.

    Raises StageError if the weight generator has not been trained, ArtifactError if a file is not
    what its stage wrote, ConfigError if the command sets a key that the run has decided otherwise.
    """
    for name, files in READ.items():
        if finished(run, name) is None:
            raise StageError(
                f"{command} needs stage {name}, which has not finished in {run.uri}: run"
                f" `denoised-weights run preset={given.preset} run_dir={run.uri}` first,"
                " or give the run_dir of a finished run"
            )
        _check_files(run, name, files)
    saved = replace(made_with(run), serve=given.serve, cluster=given.cluster)
    _check_files(run, "generator", of_finetunes(saved))
    _check_told(given, saved, command)
    _check_serve(given)
    return saved


def of_finetunes(config: Config) -> list[str]:
    """Files of stage `generator` that fine-tunes read, besides those that predictions do."""
    basis = [BASIS_FILE] if config.adapt.basis or config.adapt.learned_steps else []
    refiner = [f"{folder_of(0)}/{name}" for name in (CONFIG_FILE, WEIGHTS_FILE)]
    return basis + (refiner if config.adapt.learned_steps else [])


def _check_files(run: RunDir, stage: str, files: Sequence[str]) -> None:
    """ArtifactError if one is not what its stage wrote."""
    written = files_of(run, finished(run, stage) or {"files": {}})
    for file in files:
        if not unchanged(written.get(file, ":"), run.checksum(file)):
            raise ArtifactError(
                f"{run.url(file)} is not what stage {stage} wrote: give redo=[{stage}]"
            )


def _check_told(given: Config, saved: Config, command: str) -> None:
    """ConfigError if the user set a key, other than serve.* and cluster.*, to another value."""
    default = load_config([f"preset={given.preset}"])
    trees = [config_tree.flat(config_tree.to_dict(c)) for c in (given, default, saved)]
    for key in trees[0]:
        told, unset, made = (t.get(key) for t in trees)
        if key.split(".")[0] not in ("preset", "run_dir", "runs", "redo") and told not in (
            unset,
            made,
        ):
            raise ConfigError(
                f"{key}={told}: the run in {saved.run_dir} was made with {key}={made}, and"
                f" {command} answers as the run was made; it takes run_dir, serve.* and cluster.*"
                " only"
            )


def _check_serve(config: Config) -> None:
    s = config.serve
    flat = config_tree.flat(config_tree.to_dict(config)["serve"])
    zero = ("cpus", "gpus", "wait_ms", "finetunes_waiting", "a_minute", "burst", "a_day")
    for key, value in flat.items():
        if isinstance(value, bool | str | list):
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
