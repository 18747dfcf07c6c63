"""Stage `base`: the base translator, trained with Ray Train on representative concepts.

Representatives are the training concepts nearest to the k-means centres of the text embeddings
(E²GAN). Every worker keeps the representatives' pairs in memory (uint8) and takes its slice of a
global batch that depends on seed and step alone, so a resumed training repeats nothing.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modeling import compiling
from modeling.losses import RecentMeans
from modeling.precision import use
from modeling.settings import taken
from modeling.targets.adapter_training import batch_order, pad_tokens, to_uint8, to_unit
from modeling.targets.base_training import BaseTraining
from modeling.targets.coreset import kmeans
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import frozen_target, make_target
from modeling.targets.lora import AdaptedTranslator
from modeling.targets.network import TargetNetwork
from modeling.targets.recipe import base_recipe
from modeling.targets.shapes import (
    DiscriminatorConfig,
    TargetConfig,
    describe,
    from_description,
    target_config,
)
from modeling.transfer import to_device
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime import heartbeat
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.session import quiet_worker, training_threads
from pipelines.runtime.tracking import tracker
from pipelines.runtime.training import data_parallel, fit, report
from pipelines.stages.concepts import load_text, with_adapter
from pipelines.stages.editing import file_of
from pipelines.stages.pairs import Pairs, decode_rows, usable

FOLDER = "base"


def representatives(config: Config, run_dir: RunDir) -> list[str]:
    """concept_ids of the training concepts nearest to the centres of the text embeddings."""
    texts = load_text(run_dir)
    ids = [c.concept_id for c in with_adapter(usable(run_dir)) if c.split == "train"]
    pooled = texts.pooled(ids).numpy()
    return [ids[i] for i in kmeans(pooled, config.base.concepts, config.seed)]


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    import ray.data

    chosen = representatives(config, run_dir)
    pairs = ray.data.read_parquet(
        [run_dir.path(file_of(i)) for i in chosen],
        filesystem=run_dir.fs,
        columns=["concept_id", "image_id", "split", "source", "edited"],
    )
    log(f"base: {config.base.steps} steps on {len(chosen)} representative concepts")
    metrics, checkpoint = fit(
        config,
        run_dir,
        "base",
        train_loop,
        {"concepts": chosen},
        {"train": pairs},
        workers=config.base.workers,
        split_data=False,
    )
    network = frozen_from_state(config, run_dir, checkpoint["state.safetensors"])
    from safetensors.torch import save

    run_dir.write_files(
        FOLDER,
        {
            "translator.safetensors": save(dict(network.state_dict())),
            "discriminator.safetensors": save(
                _discriminator_state(checkpoint["state.safetensors"])
            ),
            "base.json": json.dumps(
                {
                    "translator": describe(network.config),
                    "discriminator": vars(discriminator_config(config)),
                    "size": config.images.size,
                    "concepts": chosen,
                    "l1": metrics.get("l1"),
                },
                indent=2,
            ).encode(),
        },
        last="base.json",
    )
    return {
        **{k: metrics.get(k) for k in ("l1", "workers")},
        "weights": sum(p.numel() for p in network.parameters()),
    }


def translator_config(config: Config, text_dim: int) -> TargetConfig:
    """The shape of the network that the run adapts; text_dim: dimension of the prompt's tokens."""
    return target_config(config.translator.family, vars(config.translator), text_dim)


def discriminator_config(config: Config) -> DiscriminatorConfig:
    return taken(DiscriminatorConfig, config.discriminator)


def train_loop(settings: dict[str, Any]) -> None:
    """What each Ray Train worker does."""
    import ray.train
    from ray.train import get_context
    from ray.train.torch import get_device

    config, run_dir = config_tree.from_dict(settings["config"]), settings["run_dir"]
    quiet_worker()
    texts = load_text(run_dir)
    ids: list[str] = settings["concepts"]
    tokens, mask = pad_tokens([texts[i].tokens for i in ids])
    data = _gather(ray.train.get_dataset_shard("train"), ids)
    source = torch.from_numpy(data["source"])
    edited = torch.from_numpy(data["edited"])
    owner = torch.from_numpy(data["concept"])

    device, world, rank = (
        get_device(),
        get_context().get_world_size(),
        get_context().get_world_rank(),
    )
    use(config.precision, device)
    compiling.use(config.cluster.compile, device)
    threads = training_threads(config, settings["workers"], device)
    torch.manual_seed(config.seed)
    translator = make_target(translator_config(config, tokens.shape[-1])).to(device)
    discriminator = PatchDiscriminator(discriminator_config(config)).to(device)
    # as BaseTraining wants it, but before it is wrapped, whose buckets keep the layout they find
    channels_last = translator.to(memory_format=torch.channels_last)
    wrapped = (
        (data_parallel(channels_last), data_parallel(discriminator)) if world > 1 else (None, None)
    )
    training = BaseTraining(translator, discriminator, base_recipe(config.base), *wrapped)
    saved = ray.train.get_checkpoint()
    if saved:
        with saved.as_directory() as folder:
            training.load_state(Path(folder, "state.safetensors").read_bytes())
    recipe = training.recipe
    order = batch_order(len(source), recipe.steps, recipe.batch * world, config.seed)
    if rank == 0:
        heartbeat.tell(run_dir, "base")
    progress = Progress("base", recipe.steps, "steps", training.done)
    recent = RecentMeans()
    told = tracker(config, run_dir, "base", training.done) if rank == 0 else None
    while training.done < recipe.steps:
        # dropout's draws depend on the step alone, so that a resumed run repeats them
        torch.manual_seed(config.seed * 1_000_003 + training.done * world + rank)
        index = order[training.done].view(world, -1)[rank]
        x, y = (to_unit(to_device(images[index], device)) for images in (source, edited))
        who = owner[index]
        prompts = to_device(tokens[who], device), to_device(mask[who], device)
        with threads.step():
            losses = training.step(x, y, *prompts)
        recent.add({"L1": losses["l1"]})
        if rank == 0:
            progress.add(note=recent)
        if told:
            told.step(training.done, losses | {"steps a second": progress.rate()})
        if training.done % config.base.checkpoint_every == 0 or training.done == recipe.steps:
            metrics = {"step": training.done, "workers": world, "l1": recent.read()["L1"]}
            files = {"state.safetensors": training.state()} if rank == 0 else None
            report(run_dir, "base", metrics, files)
            if told:
                few = (v[:4] for v in (x, y, *prompts))
                made = partial(_seen, training.translator, *few)
                told.picture(training.done, "source, made, true", made)
    if told:
        told.close()


@torch.no_grad()
def _seen(network: TargetNetwork, x: Tensor, y: Tensor, tokens: Tensor, mask: Tensor) -> np.ndarray:
    """uint8 [H, W, 3]: a row each of sources, what is made of them, and true edits."""
    network.eval()
    try:
        with torch.random.fork_rng():
            made = network(x, tokens, mask)
    finally:
        network.train()
    rows = [torch.cat(list(row), dim=2) for row in (x, made, y)]
    return to_uint8(torch.cat(rows, dim=1)).permute(1, 2, 0).cpu().numpy()


def _gather(shard: Any, ids: list[str]) -> dict[str, np.ndarray]:
    """The representatives' training pairs, in an order that does not depend on how they came."""
    parts: dict[str, list[Any]] = {i: [] for i in ids}
    for table in shard.iter_batches(batch_size=256, batch_format="pyarrow"):
        for row in table.to_pylist():
            if row["split"] == "train":
                parts[row["concept_id"]].append(row)
    import pyarrow as pa

    decoded: list[Pairs] = [decode_rows(pa.Table.from_pylist(parts[i])) for i in ids]
    return {
        "source": np.concatenate([p.source for p in decoded]),
        "edited": np.concatenate([p.edited for p in decoded]),
        "concept": np.concatenate([np.full(len(p.image_ids), n) for n, p in enumerate(decoded)]),
    }


def frozen_from_state(config: Config, run_dir: RunDir, state: bytes) -> TargetNetwork:
    """The translator of a training state, its BatchNorms turned into affines."""
    from safetensors.torch import load

    weights = _under(load(state), "module.translator.")
    text_dim = load_text(run_dir).dim
    network = make_target(translator_config(config, text_dim))
    network.load_state_dict(weights)
    return network.eval().freeze_statistics()


def _discriminator_state(state: bytes) -> dict[str, torch.Tensor]:
    from safetensors.torch import load

    return _under(load(state), "module.discriminator.")


def _under(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k[len(prefix) :]: v.contiguous() for k, v in tensors.items() if k.startswith(prefix)}


def load_base(config: Config, run_dir: RunDir) -> tuple[AdaptedTranslator, PatchDiscriminator]:
    """The frozen base with room for adapters, and the discriminator all trainings start from."""
    from safetensors.torch import load

    about = run_dir.read_json(f"{FOLDER}/base.json")
    network = frozen_target(from_description(about["translator"]))
    discriminator = PatchDiscriminator(DiscriminatorConfig(**about["discriminator"]))
    for name, module in (("translator", network), ("discriminator", discriminator)):
        path = f"{FOLDER}/{name}.safetensors"
        try:
            module.load_state_dict(load(run_dir.read(path)))
        except ArtifactError:
            raise
        except Exception as error:
            raise ArtifactError(
                f"{run_dir.url(path)} is damaged or of another base: {error}"
            ) from error
    lora = config.lora
    return AdaptedTranslator(network, lora.rank, lora.ranks, lora.seed), discriminator
