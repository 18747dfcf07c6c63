"""What each stage has to do, counted from the configuration by the rules that the stages follow.

Nothing here knows how fast anything is: `Work` names the rate, pipelines/plan/rates.py has it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

from modeling.concepts.concept import ConceptError
from modeling.concepts.planning import plan_concepts
from modeling.concepts.recipe import ConceptSpec
from modeling.cost import TOKENS, TranslatorCost
from modeling.editors.avatars import portrait, render
from modeling.editors.registry import EXACT, supports
from modeling.images import decode_image, encode_png, list_images
from modeling.settings import taken
from modeling.targets.convergence import kept_steps
from modeling.targets.lora import to_files
from modeling.weights.codec import BlockLayout
from pipelines.config.derived import exact_editor, resolve_editor
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.runtime.pool import planned_actors
from pipelines.runtime.session import threads_per_actor, threads_per_worker
from pipelines.stages.adapt import scored_steps
from pipelines.stages.base import discriminator_config, translator_config
from pipelines.stages.contenders import SHUFFLED
from pipelines.stages.weight_generators import members

COMBINED = ("train", "paired", "val", "test")
PHOTO_BYTES = 1.7
"""A photograph's PNG, bytes a pixel: FFHQ's own at 128×128, 1.95 GB for 70,000."""
FLOAT = 4
NUMBER_BYTES = FLOAT
"""What a number of text.parquet takes in the memory of a process that reads it."""
LARGE = 16e9
"""Bytes of memory that a note warns of."""
MOMENTS = 2
"""What Adam keeps beside each weight."""


@dataclass(frozen=True)
class Work:
    """Something done `count` times; `rate` names how often a second one device does it."""

    what: str
    count: float
    rate: str
    devices: int = 0
    """That share it; 0 = those of the stage."""


@dataclass(frozen=True)
class Pool:
    """Actors or training workers, and what each of them has."""

    devices: int = 1
    gpus: float = 0.0
    """0 = it works on CPU cores."""
    cores: int = 1

    def at_most(self, devices: int) -> Pool:
        return replace(self, devices=max(1, min(self.devices, devices)))


@dataclass(frozen=True)
class StageWork:
    """All work of one stage, and what it leaves in the run directory."""

    stage: str
    summary: str
    work: tuple[Work, ...]
    stored: float
    """Bytes."""
    pool: Pool = Pool()
    starts: int = 1
    """How often its actors or workers are started."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ConceptCounts:
    """How many concepts there are; `heldout` by split, then by set."""

    train: int
    """With an adapter."""
    paired: int
    """For training, with pairs but no adapter."""
    paraphrases: int
    heldout: Mapping[str, Mapping[str, int]]

    def of(self, split: str) -> int:
        return sum(self.heldout[split].values())

    @property
    def full(self) -> int:
        """With all images: those that get an adapter, and the held-out ones."""
        return self.train + self.of("val") + self.of("test")

    @property
    def texts(self) -> int:
        return self.full + self.paired + self.paraphrases


def concept_counts(config: Config) -> ConceptCounts:
    """Counts of stage `concepts`; ConfigError where that stage could not have them.

    Single concepts are planned, combinations and paraphrases are only counted, as planning 84,477
    of them takes a while: whether the grammar has so many is found by the stage.
    """
    c = config.concepts
    if c.source == "llm":
        return _written_counts(config)
    counted = dict.fromkeys((*(f"{s}_combinations" for s in COMBINED), "paraphrases"), 0)
    spec = json.dumps(asdict(taken(ConceptSpec, config.concepts)) | counted)
    planned = _single_concepts(spec, config.seed, resolve_editor(config))

    def single(split: str, heldout: str = "", adapter: bool = True) -> int:
        return planned.get((split, heldout, adapter), 0)

    train = single("train") + c.train_combinations
    paired = single("train", adapter=False) + c.paired_combinations
    combinations = {"val": c.val_combinations, "test": c.test_combinations}
    return ConceptCounts(
        train,
        paired,
        c.paraphrases * (train + paired),
        {
            split: {
                "atoms": single(split, "atoms"),
                "combinations": count,
                "families": single(split, "families"),
            }
            for split, count in combinations.items()
        },
    )


def _written_counts(config: Config) -> ConceptCounts:
    """Those of concepts that a language model writes, if it writes as many as it is asked for."""
    c, llm = config.concepts, config.llm
    total, test, val, paraphrases = (
        sum(asdict(per_category).values())
        for per_category in (llm.counts, llm.test, llm.val, llm.paraphrases)
    )
    return ConceptCounts(
        total - test - val + c.train_combinations,
        c.paired_combinations,
        paraphrases,
        {
            "val": {"atoms": val, "combinations": c.val_combinations},
            "test": {"atoms": test, "combinations": c.test_combinations},
        },
    )


@cache
def _single_concepts(spec: str, seed: int, editor: str) -> dict[tuple[str, str, bool], int]:
    """Single concepts by split, held-out set, and whether they get an adapter."""
    try:
        concepts = plan_concepts(ConceptSpec(**json.loads(spec)), seed, supports(editor))
    except ConceptError as error:
        raise ConfigError(f"concepts: {error}") from error
    return dict(Counter((c.split, c.heldout, c.adapter) for c in concepts))


def candidate_editors(config: Config) -> list[str]:
    """Editors that the pairs are made by: one, or several of which a concept's best is chosen."""
    editor = resolve_editor(config)
    return list(config.editing.candidates) if editor == "best" else [editor]


def edits(concepts: int, images: int, pilots: int, editors: int) -> tuple[float, float]:
    """Edits that choose the editor, and those that are kept, of concepts with all images.

    Each is tried on `pilots` images of every concept (0: there is no choice); the best then edits
    all, the pilots again.
    """
    return float(concepts * pilots * editors), float(concepts * images)


def text_dim(config: Config) -> int:
    """Size of the text embedding; CLIP's (ViT-L) unless it is the packaged encoder's."""
    return 384 if config.text_encoder == "minilm" else 768


def image_splits(images: int) -> dict[str, int]:
    """pipelines.stages.pairs.split_images, in numbers."""
    tenth = max(1, images // 10)
    return {"train": images - 2 * tenth, "val": tenth, "test": tenth}


def png_bytes(config: Config) -> float:
    """Of one picture: a few of the source's own where they are there, else a photograph's."""
    size, count = config.images.size, 4
    if any(name not in EXACT for name in candidate_editors(config)):
        return PHOTO_BYTES * size**2
    if config.images.source == "avatars":
        return sum(len(encode_png(render(portrait(i), size))) for i in range(count)) / count
    if not Path(config.images.path).is_dir():
        return PHOTO_BYTES * size**2
    files = list_images(config.images.path)[:count]
    sizes = [len(encode_png(decode_image(f.read_bytes(), size))) for f in files]
    return sum(sizes) / len(sizes)


class Shapes:
    """The networks of a configuration without their weights, and what follows from their shapes."""

    def __init__(self, config: Config) -> None:
        dim = text_dim(config)
        self.cost = TranslatorCost(
            translator_config(config, dim),
            discriminator_config(config),
            config.images.size,
            config.lora.rank,
            config.lora.ranks,
        )
        adapted = self.cost.adapted
        self.layout = BlockLayout.build(
            adapted.shapes, adapted.groups, config.weights.grouping, config.weights.block_size
        )
        self.text_dim = dim
        files = to_files({}, adapted.lora_config, {})
        # the tensors' names and shapes take about a hundred bytes each
        self.adapter_bytes = (
            FLOAT * adapted.n_weights
            + 100 * len(adapted.shapes)
            + sum(len(data) for data in files.values())
        )


def work_of(
    config: Config, shapes: Shapes, weights: Mapping[str, int], counts: ConceptCounts
) -> list[StageWork]:
    """The stages' work in their order; `weights` of each section's weight generator."""
    actors = actors_of(config)
    return [
        _concepts(config, shapes, counts),
        _pairs(config, counts, actors),
        _base(config, shapes, counts),
        _gans(config, shapes, counts, actors),
        _weights(config, shapes, counts),
        _generator(config, shapes, weights, counts),
        _adapt(config, shapes, counts, actors),
        _evaluate(config, shapes, counts, actors),
        StageWork("report", "one page", (), 0.0),
    ]


def _concepts(config: Config, shapes: Shapes, counts: ConceptCounts) -> StageWork:
    texts = counts.texts
    return StageWork(
        "concepts",
        f"{texts:,} texts",
        (Work("texts embedded", texts, "texts"),),
        texts * (TOKENS + 1) * shapes.text_dim * FLOAT,
    )


def _pairs(config: Config, counts: ConceptCounts, actors: Pool) -> StageWork:
    images, editors = config.images.count, candidate_editors(config)
    train, best = image_splits(images)["train"], resolve_editor(config) == "best"
    few = min(config.images.paired, train)
    pilots = min(config.editing.pilots, train) if best else 0
    tried, kept = edits(counts.full, images, pilots, len(editors))
    tried_few, kept_few = edits(counts.paired, few, pilots, len(editors))
    tried, kept = tried + tried_few, kept + kept_few
    work = [Work(f"edits by {e}", (tried + kept) / len(editors), f"edit {e}") for e in editors]
    stored = 2 * kept * png_bytes(config)
    work.append(Work("MB written", stored / 1e6, "write"))
    notes = []
    if len(editors) > 1:
        everything = (counts.texts * images) * len(editors)
        notes.append(
            f"{len(editors)} editors on {pilots} images a concept, the best on all: which one"
            " that is, is not known, so each is taken to win equally often; all editors on all"
            f" images of all {counts.texts:,} texts would be {everything / 1e6:,.0f} million edits"
            " (488 million for the paper's 97,611 texts and five editors)"
        )
    if config.cluster.editor_actors or config.cluster.editor_gpus:
        notes.append("cluster.editor_actors and editor_gpus are not planned with")
    exact = all(e in EXACT for e in editors)
    return StageWork(
        "pairs",
        f"{tried + kept:,.0f} edits: {counts.full:,} concepts × {images:,} images"
        + (f" + {counts.paired:,} × {few}" if counts.paired else "")
        + (f", {tried:,.0f} of them to choose editors" if tried else ""),
        tuple(work),
        stored,
        actors.at_most(counts.full + counts.paired),
        # an exact editor draws on the cores of an actor that holds a GPU all the same
        notes=(*notes, *(("exact editors leave the GPUs idle",) if exact and actors.gpus else ())),
    )


def _base(config: Config, shapes: Shapes, counts: ConceptCounts) -> StageWork:
    b, cost, pool = config.base, shapes.cost, workers_of(config, config.base.workers)
    trained = cost.weights + cost.critic_weights
    return StageWork(
        "base",
        f"{b.steps:,} steps × {b.batch} × {b.workers} images",
        (
            Work("images trained on", b.steps * b.batch * b.workers, "base"),
            # to choose representatives, by the workers, to shape the result
            _texts_loaded(shapes, counts, pool, 3),
        ),
        FLOAT * trained * (1 + 1 + MOMENTS),
        pool,
        notes=_memory(shapes, counts),
    )


def actors_of(config: Config) -> Pool:
    """Of the stages on Ray Data."""
    share = config.cluster.gpus_per_actor
    return Pool(planned_actors(config), share, threads_per_actor(config))


def workers_of(config: Config, workers: int) -> Pool:
    """Of the stages on Ray Train."""
    gpus = float(config.cluster.gpu_training)
    return Pool(workers, gpus, threads_per_worker(config, workers))


def _texts_loaded(shapes: Shapes, counts: ConceptCounts, pool: Pool, times: int = 1) -> Work:
    """Every process reads all texts for itself: with more processes it takes no less long."""
    return Work("texts loaded", counts.texts * pool.devices * times, "load", pool.devices)


def _memory(shapes: Shapes, counts: ConceptCounts) -> tuple[str, ...]:
    size = counts.texts * (TOKENS + 1) * shapes.text_dim * NUMBER_BYTES
    return (f"each process needs {size / 1e9:,.0f} GB to load the texts",) if size > LARGE else ()


def collection_steps(config: Config) -> int:
    """Steps of an adapter; with gans.steps=0 the most that the convergence rule can find."""
    return config.gans.steps or config.gans.pilot_steps


def _gans(config: Config, shapes: Shapes, counts: ConceptCounts, actors: Pool) -> StageWork:
    g, steps = config.gans, collection_steps(config)
    adapters = counts.train + counts.of("val")
    piloted = 0 if g.steps else min(g.pilots, counts.train) * g.pilot_steps
    kept = len(kept_steps(steps, g.checkpoints))
    pool = actors.at_most(-(-adapters // g.concepts_per_batch))
    return StageWork(
        "gans",
        f"{adapters:,} adapters × {steps:,} steps × {g.batch} images",
        (
            Work("images trained on", (adapters * steps + piloted) * g.batch, "collect"),
            Work("images drawn", 2 * adapters * image_splits(config.images.count)["val"], "draw"),
            Work("MB written", adapters * kept * shapes.adapter_bytes / 1e6, "write"),
            _texts_loaded(shapes, counts, pool),
        ),
        adapters * kept * shapes.adapter_bytes,
        pool,
        notes=(
            *(() if g.steps else (f"gans.steps=0: taken as gans.pilot_steps={g.pilot_steps}",)),
            *_memory(shapes, counts),
        ),
    )


def _weights(config: Config, shapes: Shapes, counts: ConceptCounts) -> StageWork:
    layout = shapes.layout
    train = config.weights.concepts or counts.train
    adapters = train + counts.of("val")
    rows = adapters * len(kept_steps(collection_steps(config), config.gans.checkpoints))
    stored = rows * layout.n_blocks * layout.block_size * FLOAT
    return StageWork(
        "weights",
        f"{rows:,} rows of {layout.n_blocks} blocks × {layout.block_size}",
        (Work("files read", rows + adapters, "read"), Work("MB written", stored / 1e6, "write")),
        stored,
        # weights, and the metrics of each
        replace(actors_of(config).at_most(-(-rows // 64)), gpus=0.0),
    )


def _generator(
    config: Config, shapes: Shapes, weights: Mapping[str, int], counts: ConceptCounts
) -> StageWork:
    work: list[Work] = []
    stored, lines = 0.0, []
    for member in members(config):
        g = getattr(config, member.section)
        if not member.repeat:
            lines.append(
                f"{g.kind} × {config.repeats}: {g.steps:,} steps × {g.batch * g.workers} concepts"
                + (f", {g.image_steps:,} on images" if g.image_steps else "")
            )
        name = f"{g.kind}, seed {config.seed + member.repeat}"
        concepts = g.steps * g.batch * g.workers
        step = f"{member.section} step"
        work.append(Work(f"concepts denoised by the {name}", concepts, step, g.workers))
        if g.image_steps:
            drawn = g.image_steps * g.image_concepts * g.workers
            step = f"{member.section} images"
            work.append(Work(f"concepts drawn by the {name}", drawn, step, g.workers))
        work.append(_texts_loaded(shapes, counts, workers_of(config, g.workers)))
        # weights and EMA, and those before the image loss; Train's checkpoint with the moments
        files = 2 + bool(g.image_steps)
        stored += FLOAT * weights[member.section] * (2 * files + 2 + MOMENTS)
    most = max(w.devices for w in work)
    return StageWork(
        "generator",
        "; ".join(lines),
        tuple(work),
        stored,
        workers_of(config, most),
        len(members(config)),
        _memory(shapes, counts),
    )


def _adapt(config: Config, shapes: Shapes, counts: ConceptCounts, actors: Pool) -> StageWork:
    a, concepts = config.adapt, counts.of(config.adapt.split)
    pool = actors.at_most(concepts)
    stored = concepts * len(scored_steps(config)) * shapes.adapter_bytes
    return StageWork(
        "adapt",
        f"{concepts:,} concepts × {a.steps:,} steps × {a.batch} images",
        (
            Work("adapters predicted", concepts, "generator predict"),
            Work("images trained on", concepts * a.steps * a.batch, "finetune"),
            _texts_loaded(shapes, counts, pool),
        ),
        stored,
        pool,
        notes=_memory(shapes, counts),
    )


def _evaluate(config: Config, shapes: Shapes, counts: ConceptCounts, actors: Pool) -> StageWork:
    """As pipelines/stages/evaluate.py: methods, seeds, end points, controls."""
    e, a, repeats = config.evaluate, config.adapt, config.repeats
    sets = counts.heldout[a.split]
    concepts = sum(sets.values())
    fresh = config.images.source == "avatars" and exact_editor(config)
    judged = e.images if fresh else image_splits(config.images.count)["test"]
    wide, pool = e.fd_images, actors.at_most(concepts)
    generators = {"generator": 1} | ({"rival": 1} if config.rival.train else {})
    for section in generators:
        generators[section] += bool(e.weights_only and getattr(config, section).image_steps)
    controls = [c for c in e.controls if c != SHUFFLED or concepts > 1]
    predicted = sum(generators.values())
    methods = predicted + len(controls)
    at_length = int(e.ceiling) + int(e.continued)
    # the first seed's prediction is fine-tuned by stage adapt
    tuned = concepts * (methods * repeats - 1)
    chosen = sum(min(e.scratch_concepts, n) for n in sets.values()) if e.scratch_steps else 0
    scratch, steps = chosen * repeats, collection_steps(config)
    drawn = methods * len(scored_steps(config)) + at_length * 10 + 2 * predicted
    ends = 2 * methods + at_length + int(e.continued)
    embedded = (2 + ends) * ((judged if e.kid else 0) + wide * repeats)
    work = [
        Work("images trained on, short", tuned * a.steps * a.batch, "finetune"),
        Work(
            "images trained on, at length",
            concepts * repeats * at_length * steps * config.gans.batch,
            "collect",
        ),
        Work("images trained on, from scratch", scratch * e.scratch_steps * a.batch, "scratch"),
        Work(
            "images drawn",
            concepts * repeats * (drawn * judged + ends * wide) + scratch * 10 * judged,
            "draw",
        ),
        Work("images embedded", concepts * embedded, "features"),
        _texts_loaded(shapes, counts, pool),
    ]
    for section, count in generators.items():
        extra = int(section == "generator" and SHUFFLED in controls)
        predictions = concepts * repeats * (count + extra)
        work.append(Work(f"adapters by {section}", predictions, f"{section} predict"))
    if fresh:
        editor = f"edit {resolve_editor(config)}"
        work.append(Work("true edits", concepts * (judged + wide * repeats), editor))
    return StageWork(
        "evaluate",
        f"{concepts:,} concepts × {methods} methods × {repeats} seed{'s' * (repeats > 1)},"
        f" {judged} images",
        tuple(w for w in work if w.count),
        concepts * (2 + 2 * methods) * config.report.pictures * png_bytes(config),
        pool,
        notes=_memory(shapes, counts),
    )
