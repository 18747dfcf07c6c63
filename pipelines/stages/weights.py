"""Stage `weights`: adapters → the weight dataset ⟨n, w_n, T⟩ (paper Sec. 4.2).

`weights/blocks/` Parquet: one row per (concept, checkpoint) with an [N, b] tensor of raw weights;
beside it the layout (JSON) and the normalisation (safetensors), fitted on training concepts only.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from modeling.targets.lora import AdapterError
from modeling.weights.codec import BlockLayout
from modeling.weights.grouping import CodecError
from modeling.weights.normalisation import Centre, Normalisation, NormalisationSums
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.runtime.actors import pool_here, strategy
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import READERS, ArtifactError, RunDir
from pipelines.runtime.stage_graph import record_errors
from pipelines.runtime.tensors import to_numpy
from pipelines.stages.adapter_metrics import FOLDER as ADAPTERS
from pipelines.stages.adapter_metrics import all_metrics, collected
from pipelines.stages.base import load_base
from pipelines.stages.concepts import load_concepts, with_adapter
from pipelines.stages.gans import load_adapter

FOLDER = "weights"
PART = 2**27
"""Bytes of blocks in a file."""


class ToBlocks:
    """Ray Data actor: reads adapters, checks them against the base, cuts them into blocks."""

    def __init__(self, layout: str, run_dir: RunDir) -> None:
        torch.set_num_threads(1)
        self.layout, self.run_dir = BlockLayout.from_json(layout), run_dir

    def __call__(self, batch: pa.Table) -> pa.Table:
        with ThreadPoolExecutor(READERS) as threads:  # a store takes its time for each
            made = list(threads.map(self._blocks, batch["folder"].to_pylist()))
        blocks, errors = zip(*made, strict=True)
        tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(np.stack(blocks))
        return batch.append_column("blocks", tensors).append_column("error", pa.array(errors))

    def _blocks(self, folder: str) -> tuple[np.ndarray, str]:
        """Float32 [N, b], and what is wrong with the adapter."""
        try:
            adapter = load_adapter(self.run_dir, folder)
            self.layout.check_finite(adapter)
            return self.layout.to_blocks(adapter).numpy(), ""
        except (AdapterError, ArtifactError, CodecError) as error:
            empty = np.zeros((self.layout.n_blocks, self.layout.block_size), np.float32)
            return empty, str(error)


def run(config: Config, run_dir: RunDir) -> dict[str, Any]:
    translator, _ = load_base(config, run_dir)
    layout = BlockLayout.build(
        translator.shapes, translator.groups, config.weights.grouping, config.weights.block_size
    )
    run_dir.delete(FOLDER)  # seconds of work: what a stopped run left is not worth trusting
    run_dir.write(f"{FOLDER}/layout.json", layout.to_json().encode())
    rows = checkpoint_rows(config, run_dir)
    sums, bad, count = NormalisationSums.empty(layout), [], 0
    per_file = max(1, PART // (4 * layout.n_blocks * layout.block_size))
    for part, table in enumerate(_block_tables(config, run_dir, layout, rows, per_file)):
        bad += [
            {"key": r["folder"], "reason": r["error"]}
            for r in table.select(["folder", "error"]).to_pylist()
            if r["error"]
        ]
        good = table.filter(pc.field("error") == "")
        good = good.drop_columns(["error", "folder"])
        run_dir.write_table(f"{FOLDER}/blocks/part-{part:05d}.parquet", good)
        train = good.filter(pc.field("split") == "train")
        count += good.num_rows
        if train.num_rows:
            sums.add(torch.from_numpy(to_numpy(train["blocks"])))
    record_errors(config, run_dir, "weights", bad, len(rows))
    # config.check allows no other centre; OmegaConf has no Literal
    normalisation = sums.finish(layout, cast(Centre, config.weights.centre))
    run_dir.write(f"{FOLDER}/normalisation.safetensors", normalisation.to_bytes())
    log(
        f"weights: {count} rows of {layout.n_blocks} blocks × {layout.block_size}"
        f" ({layout.n_weights} weights an adapter)"
    )
    return {"rows": count, "blocks": layout.n_blocks, "weights": layout.n_weights}


def _block_tables(
    config: Config,
    run_dir: RunDir,
    layout: BlockLayout,
    rows: list[dict[str, Any]],
    size: int,
) -> Iterator[pa.Table]:
    """The rows with their blocks, in order, `size` at a time: all of them may not fit in memory."""
    import ray.data

    # Any: Ray's type wants a function; a class is what it documents for actors
    to_blocks: Any = ToBlocks
    dataset = ray.data.from_items(rows).map_batches(
        to_blocks,
        fn_constructor_kwargs={"layout": layout.to_json(), "run_dir": run_dir},
        batch_size=64,
        batch_format="pyarrow",
        compute=strategy(pool_here(config, share=0.0).at_most(-(-len(rows) // 64))),
        num_cpus=config.cluster.cpus_per_actor,
    )
    dataset.context.execution_options.preserve_order = True
    yield from dataset.iter_batches(batch_size=size, batch_format="pyarrow")


def checkpoint_rows(config: Config, run_dir: RunDir) -> list[dict[str, Any]]:
    """One row per (concept, checkpoint) that the collection has finished."""
    files = run_dir.listing(ADAPTERS)
    done = set(collected(files))
    of: dict[str, list[str]] = defaultdict(list)
    for name in files:
        of[name.split("/")[1]].append(name)
    rows: list[dict[str, Any]] = []
    concepts = [c for c in with_adapter(load_concepts(run_dir)) if c.concept_id in done]
    train = [c.concept_id for c in concepts if c.split == "train"]
    count = config.weights.concepts or len(train)
    if count > len(train):
        raise ConfigError(f"weights.concepts={count}: only {len(train)} concepts have an adapter")
    chosen = drawn(train, count, config.seed)
    kept = [c for c in concepts if c.split != "train" or c.concept_id in chosen]
    metrics = all_metrics(run_dir, [c.concept_id for c in kept], files)
    for concept in kept:
        home = f"{ADAPTERS}/{concept.concept_id}"
        folders = {int(metrics[concept.concept_id]["steps"]): home}
        for name in of[concept.concept_id]:
            if name.startswith(f"{home}/step-"):
                folder = name.rsplit("/", 1)[0]
                folders[int(folder.rsplit("-", 1)[1])] = folder
        rows += [
            {"concept_id": concept.concept_id, "checkpoint": s, "split": concept.split, "folder": f}
            for s, f in sorted(folders.items())
        ]
    return rows


def drawn(ids: list[str], count: int, seed: int) -> set[str]:
    """`count` concept_ids by the seed: more of them include the fewer."""
    order = sorted(ids, key=lambda i: hashlib.sha256(f"{seed}/{i}".encode()).digest())
    return set(order[:count])


def load_layout(run_dir: RunDir) -> tuple[BlockLayout, Normalisation]:
    try:
        layout = BlockLayout.from_json(run_dir.read(f"{FOLDER}/layout.json").decode())
        data = run_dir.read(f"{FOLDER}/normalisation.safetensors")
        return layout, Normalisation.from_bytes(data, layout)
    except CodecError as error:
        raise ArtifactError(f"{run_dir.url(FOLDER)}: {error}") from error


def block_files(run_dir: RunDir) -> list[str]:
    return run_dir.files(f"{FOLDER}/blocks")
