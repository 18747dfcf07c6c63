"""What each stage has to do, counted from the configuration by the rules that the stages follow.

Nothing here knows how fast anything is: `Work` names the rate, pipelines/plan/rates.py has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from modeling.cost import TOKENS
from modeling.editors.registry import EXACT
from modeling.targets.convergence import kept_steps
from pipelines.config.derived import exact_editor, resolve_editor
from pipelines.config.schema import Config
from pipelines.plan.counts import ConceptCounts, candidate_editors, edits, image_splits
from pipelines.plan.shapes import FLOAT, MOMENTS, Shapes, png_bytes
from pipelines.runtime.pool import planned_actors
from pipelines.runtime.session import threads_per_actor, threads_per_worker
from pipelines.runtime.text_table import MAPPED
from pipelines.stages.adapt import scored_steps
from pipelines.stages.contenders import SHUFFLED, regimes
from pipelines.stages.gans import concepts_at_once
from pipelines.stages.gradients import PAIRS, POINTS
from pipelines.stages.weight_generators import members


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
        _text_bytes(shapes, counts),
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
    if config.editing.clip:
        work.append(Work("pictures scored", tried + kept, "score"))
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
        notes=_unpacked(shapes, counts),
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
    """Every process reads all texts for itself, at once; many are unpacked by one of a node."""
    processes = 1 if _text_bytes(shapes, counts) > MAPPED else pool.devices
    return Work("texts loaded", counts.texts * processes * times, "load", processes)


def _text_bytes(shapes: Shapes, counts: ConceptCounts) -> float:
    return counts.texts * (TOKENS + 1) * shapes.text_dim * FLOAT


def _unpacked(shapes: Shapes, counts: ConceptCounts) -> tuple[str, ...]:
    size = _text_bytes(shapes, counts)
    told = f"each node unpacks {size / 1e9:,.1f} GB of texts into its temporary folder ($TMPDIR)"
    return (told,) if size > MAPPED else ()


def collection_steps(config: Config) -> int:
    """Steps of an adapter; with gans.steps=0 the most that the convergence rule can find."""
    return config.gans.steps or config.gans.pilot_steps


def _gans(config: Config, shapes: Shapes, counts: ConceptCounts, actors: Pool) -> StageWork:
    g, steps = config.gans, collection_steps(config)
    adapters = counts.train + counts.of("val")
    piloted = 0 if g.steps else min(g.pilots, counts.train) * g.pilot_steps
    kept = len(kept_steps(steps, g.checkpoints))
    pool = actors.at_most(-(-adapters // concepts_at_once(config)))
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
        notes=(() if g.steps else (f"gans.steps=0: taken as gans.pilot_steps={g.pilot_steps}",)),
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
        (Work("files read", rows, "read"), Work("MB written", stored / 1e6, "write")),
        stored,
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
    most, starts = max(w.devices for w in work), len(members(config))
    r = config.refine
    if r.basis_concepts:
        lines.append(f"a basis from {r.basis_concepts:,} concepts")
        images = r.basis_concepts * len(POINTS) * PAIRS
        work.append(Work("images whose gradients make the basis", images, "finetune"))
        stored += FLOAT * shapes.layout.n_blocks * shapes.layout.block_size**2
        starts += 1
    if r.steps:
        lines.append(f"refiner × {config.repeats}: {r.steps:,} steps × {r.concepts * r.workers}")
        seen = r.iterations * (
            (r.pairs - r.scored) / 2 + r.scored
        )  # 1, 2, 4, … pairs equally often
        concepts = config.repeats * r.steps * r.concepts * r.workers
        work.append(Work("images seen by the refiner", concepts * seen, "finetune", r.workers))
        starts += config.repeats
    s = config.starts
    starts += bool(s.joint_steps or s.reptile_steps)
    for steps, pairs in (
        (s.joint_steps, s.pairs),
        (s.reptile_steps, s.inner_steps * config.adapt.batch),
    ):
        if steps:
            work.append(
                Work("images of starts without text", steps * s.concepts * pairs, "finetune")
            )
            stored += shapes.adapter_bytes
    return StageWork(
        "generator",
        "; ".join(lines),
        tuple(work),
        stored,
        workers_of(config, most),
        starts,
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
    at_length = int(e.ceiling) + int(e.continued) * len(regimes(config))
    # the first seed's prediction is fine-tuned by stage adapt
    in_both = methods * len(regimes(config))
    by_learned_steps = int(a.learned_steps > 0) * (1 + ("zero LoRA" in controls))
    trained = in_both + by_learned_steps
    tuned = concepts * (trained * repeats - 1)
    chosen = sum(min(e.scratch_concepts, n) for n in sets.values()) if e.scratch_steps else 0
    scratch, steps = chosen * repeats, collection_steps(config)
    drawn = trained * len(scored_steps(config)) + at_length * 10 + 2 * predicted
    ends = 2 * trained + at_length + int(e.continued)
    # KID is of one regime
    kid_ends = 2 * (methods + by_learned_steps) + int(e.ceiling) + 2 * int(e.continued)
    embedded = (2 + kid_ends) * (judged if e.kid else 0) + (2 + ends) * wide * repeats
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
    )
