"""The weight generators of a run: which there are, their shapes, and how one is read back."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch

from modeling.targets.adapter_training import pad_tokens
from modeling.text import TextEmbedding
from modeling.weights.checkpoint import CONFIG_FILE, EMA_FILE, MODEL_FILE, Checkpoint, from_files
from modeling.weights.interface import GeneratorConfig, GeneratorError, TextBatch
from pipelines.config.schema import Config
from pipelines.config.sections.training import Generator
from pipelines.runtime.run_dir import ArtifactError, RunDir

FOLDER = "generator"

BEFORE_IMAGES = "before-images.safetensors"


@dataclass(frozen=True)
class Member:
    """One training of the stage: which section of the configuration describes it, which seed."""

    section: str
    repeat: int

    @property
    def folder(self) -> str:
        """The weight generator that predicts and serves lies in FOLDER itself."""
        if self.section == "generator" and not self.repeat:
            return FOLDER
        return f"{FOLDER}/{self.section}-{self.repeat}"

    def of(self, config: Config) -> Config:
        """The configuration with this member's section and seed as `generator` and `seed`."""
        section = getattr(config, self.section)
        plain = Generator(**{f.name: getattr(section, f.name) for f in fields(Generator)})
        return replace(config, generator=plain, seed=config.seed + self.repeat)


def members(config: Config) -> list[Member]:
    sections = ["generator", *(["rival"] if config.rival.train else [])]
    return [Member(s, i) for s in sections for i in range(config.repeats)]


def generator_config(config: Config, n_blocks: int, text_dim: int) -> GeneratorConfig:
    g = config.generator
    return GeneratorConfig.from_dict(
        {
            "block_size": config.weights.block_size,
            "n_blocks": n_blocks,
            "text_dim": text_dim,
            **{
                key: getattr(g, key)
                for key in (
                    *("kind", "width", "depth", "heads", "prediction", "schedule"),
                    *("channels", "fold", "block_conditioning"),
                )
            },
        }
    )


def text_batch(embeddings: list[TextEmbedding]) -> TextBatch:
    tokens, mask = pad_tokens([e.tokens for e in embeddings])
    return TextBatch(tokens, mask, torch.stack([e.pooled for e in embeddings]))


def load_generator(
    run_dir: RunDir, folder: str = FOLDER, before_images: bool = False
) -> Checkpoint:
    """A trained weight generator, its EMA weights in place.

    before_images: its weights at the end of the steps on weights, before those on the image loss.
    """
    names = {CONFIG_FILE: CONFIG_FILE, MODEL_FILE: MODEL_FILE}
    names[EMA_FILE] = BEFORE_IMAGES if before_images else EMA_FILE
    try:
        checkpoint = from_files({n: run_dir.read(f"{folder}/{f}") for n, f in names.items()})
    except GeneratorError as error:
        raise ArtifactError(f"{run_dir.url(folder)}: {error}") from error
    assert checkpoint.ema is not None
    checkpoint.ema.copy_to(checkpoint.model)
    checkpoint.model.eval()
    return checkpoint
