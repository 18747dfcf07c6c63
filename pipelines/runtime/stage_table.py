"""What the stages are: in which order, of which keys, and which files they leave.

It imports nothing heavy: the command line explains stages from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.config.sections.data import DECIDE_ANSWERS, DECIDE_WRITING

SOURCES = "sources.parquet"
"""The source pictures of a run, listed by the first stage (pipelines/stages/source_list.py)."""


@dataclass(frozen=True)
class Stage:
    """`sections`: configuration keys its result depends on; `outputs`: what it writes.

    module: holds the stage's `run(config, run)`; by its name, as the stages stand on this table.
    """

    name: str
    module: str
    summary: str
    needs: tuple[str, ...]
    sections: tuple[str, ...]
    outputs: tuple[str, ...]


STAGES = (
    Stage(
        "concepts",
        "pipelines.stages.concepts",
        "choose the concepts, decide the held-out sets, embed the texts",
        (),
        (
            *("seed", "editor", "images.source", "text_encoder", "concepts"),
            *(f"llm.{key}" for key in DECIDE_WRITING),
            *(f"llm.{role}.{k}" for role in ("writer", "paraphraser") for k in DECIDE_ANSWERS),
        ),
        # not llm/: paid answers outlive a redo
        ("concepts.parquet", "text.parquet", "concepts"),
    ),
    Stage(
        "pairs",
        "pipelines.stages.pairs",
        "edit every source image to every concept (Ray Data)",
        ("concepts",),
        ("images", "editing"),
        ("pairs", "editing", SOURCES),
    ),
    Stage(
        "base",
        "pipelines.stages.base",
        "train the base translator on representative concepts (Ray Train)",
        ("pairs",),
        ("translator", "discriminator", "base", "precision"),
        ("base",),
    ),
    Stage(
        "gans",
        "pipelines.stages.gans",
        "train one LoRA adapter per concept (Ray Data)",
        ("base",),
        ("lora", "gans", "precision"),
        ("adapters",),
    ),
    Stage(
        "weights",
        "pipelines.stages.weights",
        "cut the adapters into blocks and fit the normalisation (Ray Data)",
        ("gans",),
        ("weights",),
        ("weights",),
    ),
    Stage(
        "generator",
        "pipelines.stages.generator",
        "train the weight generator (Ray Train)",
        ("weights",),
        ("generator", "rival", "refine", "starts", "repeats", "precision"),
        ("generator",),
    ),
    Stage(
        "adapt",
        "pipelines.stages.adapt",
        "predict an adapter per held-out concept, fine-tune it (Ray Data)",
        ("generator",),
        ("adapt", "precision"),
        ("adapted",),
    ),
    Stage(
        "evaluate",
        "pipelines.stages.evaluate",
        "score the prediction against every control (Ray Data)",
        ("adapt",),
        ("evaluate", "precision"),
        ("evaluation",),
    ),
    Stage(
        "report",
        "pipelines.report.build",
        "write report/index.html",
        ("evaluate",),
        ("report",),
        ("report",),
    ),
)

SIDE_STAGES = (
    Stage(
        "ranks",
        "pipelines.stages.ranks",
        "search a LoRA rank per layer and print it for lora.ranks (Ray Data)",
        ("base",),
        ("lora", "gans", "ranks", "precision"),
        ("ranks",),
    ),
    Stage(
        "compare",
        "pipelines.comparison.compare",
        "train every method of Table 1 on held-out concepts, each at its budget (Ray Data)",
        ("generator",),
        (
            *("adapt", "gans", "lora", "compare", "pix2pix", "comodgan", "repeats", "precision"),
            *("evaluate.features", "evaluate.features_path", "evaluate.features_size"),
        ),
        ("comparison",),
    ),
)
"""Run by their own command only: no other stage builds on them."""

FEATURES = ("evaluate.features", "evaluate.features_path", "evaluate.features_size")
"""What `gans` depends on, too, when its pilots are scored by a distance of features."""

BY_NAME = {stage.name: stage for stage in (*STAGES, *SIDE_STAGES)}


class StageError(RuntimeError):
    """A stage cannot run or has failed; the text says what to do."""
