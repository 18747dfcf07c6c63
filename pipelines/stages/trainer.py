"""What every actor that trains adapters loads once."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import torch

from modeling.precision import use
from modeling.targets.adapter_training import ConceptData, to_unit, translate_all
from modeling.targets.lora import Adapter, stack
from pipelines.config import tree as config_tree
from pipelines.runtime.machine import share_gpu
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import threads_per_actor
from pipelines.stages.base import load_base
from pipelines.stages.concepts import load_text
from pipelines.stages.pairs import decode_rows, encoded_pairs


class Trainer:
    """Everything an actor loads once: base, discriminator start, texts."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir) -> None:
        self.config, self.run_dir = config_tree.from_dict(config), run_dir
        torch.set_num_threads(threads_per_actor(self.config))
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        use(self.config.precision, self.device)
        share_gpu(self.config.cluster.gpus_per_actor)
        self.translator, self.discriminator = load_base(self.config, run_dir)
        self.translator.to(self.device)
        self.discriminator.to(self.device)
        self.texts = load_text(run_dir)

    def data(self, concept_id: str, split: str = "train") -> ConceptData:
        return self.decoded(concept_id, *encoded_pairs(self.run_dir, concept_id, split))

    def decoded(self, concept_id: str, rows: pa.Table) -> ConceptData:
        """Of what `encoded_pairs` has read."""
        pairs = decode_rows(rows)
        return ConceptData(
            concept_id,
            torch.from_numpy(pairs.source).to(self.device),
            torch.from_numpy(pairs.edited).to(self.device),
            self.texts[concept_id].tokens,
        )

    def l1(self, adapters: list[Adapter], data: ConceptData) -> list[float]:
        """Mean |difference| of each adapter's pictures to the edits, images in [-1, 1]."""
        made = translate_all(
            self.translator, stack(adapters), data.source, [data.tokens] * len(adapters)
        )
        return [float((to_unit(m) - to_unit(data.edited)).abs().mean()) for m in made]
