"""What an actor of `evaluate` does: every method on one concept after another, and its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pyarrow as pa
import torch

from modeling.concepts.concept import Concept
from modeling.images import encode_png
from modeling.metrics.distances import frechet_distance_from_features, kid
from modeling.targets.adapter_training import (
    ConceptData,
    Trained,
    batch_order,
    pad_tokens,
    to_uint8,
    to_unit,
    translate_all,
)
from modeling.targets.base_training import BaseTraining
from modeling.targets.coreset import image_coreset
from modeling.targets.discriminator import PatchDiscriminator
from modeling.targets.families import make_target
from modeling.targets.lora import Adapter, stack
from modeling.targets.recipe import as_published, base_recipe, collection_recipe
from pipelines.config.schema import Config
from pipelines.config.sections.finetune import Adapt
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.adapt import cut, load_timings, scored_steps, step_folder
from pipelines.stages.base import discriminator_config, translator_config
from pipelines.stages.concepts import load_concepts
from pipelines.stages.contenders import (
    CEILING,
    CONTINUED,
    IDENTITY,
    OWN,
    PREDICTION,
    SCRATCH,
    SHUFFLED,
    UNREFINED,
    Contenders,
    by_learned_steps,
    regimes,
)
from pipelines.stages.evaluation_tables import FOLDER, SCHEMAS
from pipelines.stages.gans import load_adapter
from pipelines.stages.judging import FAR, Judge, Judged
from pipelines.stages.resemblance import Start, load_nearest
from pipelines.stages.sources import COMPARED


class Track(NamedTuple):
    """One method's fine-tune in one regime: adapters and seconds of training by step."""

    method: str
    regime: str
    adapters: dict[int, Adapter]
    seconds: dict[int, float]


class Pace(NamedTuple):
    """Seconds of one step, alone on the machine."""

    learned: float
    adam: float

    @classmethod
    def of(cls, timings: Mapping[str, Any], adapt: Adapt) -> Pace:
        """From what stage `adapt` took on a concept."""
        learned, steps = timings.get("learned", 0.0), adapt.steps - adapt.learned_steps
        return cls(
            learned / max(adapt.learned_steps, 1), (timings["finetune"] - learned) / max(steps, 1)
        )

    def along(self, steps: Iterable[int], adapt: Adapt) -> dict[int, float]:
        """By step of a fine-tune by `adapt`."""
        first = adapt.learned_steps
        return {s: min(s, first) * self.learned + max(0, s - first) * self.adam for s in steps}


class EvaluateConcept(Contenders):
    """Ray Data actor: all methods on one concept; writes the concept's rows and pictures."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir) -> None:
        super().__init__(config, run_dir)
        self.concepts = {c.concept_id: c for c in load_concepts(run_dir)}
        self.judge = Judge(self.config, run_dir)
        self.nearest = load_nearest(run_dir)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[str]] = {"concept_id": [], "error": []}
        for concept_id in batch["concept_id"]:
            out["concept_id"].append(str(concept_id))
            out["error"].append(self.evaluate(self.concepts[str(concept_id)]))
        return out

    def evaluate(self, concept: Concept) -> str:
        """Write the concept's tables; returns errors of single methods."""
        judged = self.judge.judged(concept, 0, self.config.evaluate.images)
        tables: dict[str, list[dict[str, Any]]] = {kind: [] for kind in SCHEMAS}
        errors: list[str] = []
        if self.config.evaluate.kid and len(judged.ids) < COMPARED:  # the others were left out
            errors.append(f"evaluate.kid compares {COMPARED} pictures: {len(judged.ids)} is left")
        for repeat in range(self.config.repeats):
            starts = self.starts(concept.concept_id, repeat)
            tracks = self.tracks(concept.concept_id, repeat, starts, errors)
            rows, pictures = self.score(concept, judged, tracks, repeat)
            tables["rows"] += rows
            tables["memory"] += self.memory(concept, judged, repeat, starts)
            if not repeat:
                tables["pictures"] += pictures
            if concept.concept_id in from_scratch(self.config, list(self.concepts.values())):
                tables["rows"] += self.scratch(concept, judged, repeat)
        for kind in reversed(SCHEMAS):  # the rows, whose file says that the concept is done, last
            path = f"{FOLDER}/concepts/{concept.concept_id}.{kind}.parquet"
            table = pa.Table.from_pylist(tables[kind], SCHEMAS[kind])
            self.run_dir.write_table(path, table)
        return "; ".join(errors)

    def tracks(
        self, concept_id: str, repeat: int, starts: dict[str, Adapter], errors: list[str]
    ) -> list[Track]:
        """Every method's adapters by step, in each regime, and their seconds of training.

        The first prediction is that of stage `adapt`, whose seconds a step also stand for the
        others: they are trained in one call, and beside other actors.
        """
        c = self.config
        pace = Pace.of(load_timings(self.run_dir, concept_id), c.adapt)
        tracks = []
        if not repeat:
            adapted = {
                s: load_adapter(self.run_dir, step_folder(concept_id, s)) for s in scored_steps(c)
            }
            tracks.append(Track(PREDICTION, OWN, adapted, pace.along(adapted, c.adapt)))
        data = self.data(concept_id)
        small = cut(data, image_coreset(data.source, c.adapt.coreset, c.seed))
        for regime, adapt in regimes(c).items():
            refined, plain = by_learned_steps(starts, adapt.learned_steps)
            for group, fine_tune in ((refined, adapt), (plain, replace(adapt, learned_steps=0))):
                todo = {
                    m: a for m, a in group.items() if repeat or (m, regime) != (PREDICTION, OWN)
                }
                trained = self.finetune(
                    [small] * len(todo),
                    list(todo.values()),
                    [self.texts[concept_id]] * len(todo),
                    fine_tune,
                    c.seed + repeat,
                    repeat=repeat,
                    keep=scored_steps(c)[1:-1],
                )
                for (method, start), result in zip(todo.items(), trained, strict=True):
                    if result.adapter is None:
                        errors.append(f"{method}, {regime}, seed {c.seed + repeat}: {result.error}")
                        continue
                    track = {0: start, **result.checkpoints, c.adapt.steps: result.adapter}
                    tracks.append(Track(method, regime, track, pace.along(track, fine_tune)))
        published = as_published(c.adapt)
        at_length = []
        if c.evaluate.ceiling:
            at_length.append((CEILING, OWN, published, self.translator.zero_adapter()))
        if c.evaluate.continued and PREDICTION in starts:
            at_length += [(CONTINUED, r, a, starts[PREDICTION]) for r, a in regimes(c).items()]
        for method, regime, adapt, start in at_length:
            full = self.at_length(data, start, adapt, repeat)
            if full.adapter is None:
                errors.append(f"{method}, {regime}, seed {c.seed + repeat}: {full.error}")
                continue
            track = {**full.checkpoints, len(full.losses): full.adapter}
            # at the cost of a step in the serial fine-tune: here other actors slow it down
            tracks.append(Track(method, regime, track, pace.along(track, adapt)))
        return tracks

    def at_length(self, data: ConceptData, start: Adapter, adapt: Adapt, repeat: int) -> Trained:
        """An adapter trained on all of the ground truth for as long as the collection's.

        By their recipe, or by that of our fine-tune, if it is not as published.
        """
        steps = int(self.run_dir.read_json("stages/gans.json")["summary"]["steps"])
        keep = [steps * part // 10 for part in range(1, 10)]
        long, text = replace(adapt, steps=steps), self.texts[data.concept_id]
        recipe = None if adapt.basis else collection_recipe(self.config.gans, steps)
        (trained,) = self.finetune(
            [data],
            [start],
            [text],
            long,
            self.config.seed + repeat,
            repeat=repeat,
            keep=keep,
            recipe=recipe,
        )
        return trained

    def scratch(self, concept: Concept, judged: Judged, repeat: int) -> list[dict[str, Any]]:
        """Rows of a whole translator trained on this concept alone."""
        c = self.config
        steps, seed = c.evaluate.scratch_steps, c.seed + repeat
        plan = replace(
            base_recipe(c.base),
            steps=steps,
            batch=c.adapt.batch,
            l1_weight=c.adapt.l1_weight,
            gan_weight=c.adapt.gan_weight,
        )
        data = self.data(concept.concept_id)
        tokens, mask = (t.to(self.device) for t in pad_tokens([data.tokens]))
        torch.manual_seed(seed)
        network = make_target(translator_config(c, tokens.shape[-1])).to(self.device)
        critic = PatchDiscriminator(discriminator_config(c)).to(self.device)
        training = BaseTraining(network, critic, plan)
        truth, rows, seconds = to_unit(judged.edited), [], 0.0
        kept = {max(1, steps * part // 10) for part in range(1, 11)}
        for step, index in enumerate(batch_order(len(data.source), steps, plan.batch, seed), 1):
            begun = self.wait()
            training.step(to_unit(data.source[index]), to_unit(data.edited[index]), tokens, mask)
            seconds += self.wait() - begun
            if step in kept:
                training.losses.check()
                network.eval()
                with torch.no_grad():
                    made = network(to_unit(judged.source).to(self.device), tokens, mask).cpu()
                l1 = float((to_unit(to_uint8(made)) - truth).abs().mean())
                about = _about(concept, seed, len(truth))
                about |= {"method": SCRATCH, "step": step, "seconds": seconds, "l1": l1}
                rows += [{**about, "finetune": regime} for regime in regimes(c)]
        return rows

    def memory(
        self, concept: Concept, judged: Judged, repeat: int, starts: dict[str, Adapter]
    ) -> list[dict[str, Any]]:
        """How far each generated adapter is from the nearest one it was trained on.

        In normalised weights (root mean square) and in pictures (L1 between what the two draw).
        """
        tokens = [self.texts[concept.concept_id].tokens] * 2
        rows = []
        for method in self.generators(repeat):
            start = starts[method]
            near = self.nearest[Start(concept.concept_id, repeat, method)]
            if not near.folder:  # of weights that are not finite, which have no distance
                continue
            other = load_adapter(self.run_dir, near.folder)
            both = stack([start, {k: v.to(self.device) for k, v in other.items()}])
            made = to_unit(
                translate_all(self.translator, both, judged.source.to(self.device), tokens).cpu()
            )
            rows.append(
                {
                    **_about(concept, self.config.seed + repeat, len(judged.source)),
                    "method": method,
                    "nearest": near.concept_id,
                    "distance": near.distance,
                    "pictures": float((made[0] - made[1]).abs().mean()),
                    "nearest_l1": float((made[1] - to_unit(judged.edited)).abs().mean()),
                }
            )
        return rows

    def score(
        self,
        concept: Concept,
        judged: Judged,
        tracks: list[Track],
        repeat: int,
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Rows (one per method and step) and pictures (end points, first images)."""
        c = self.config
        truth, source = judged.edited, judged.source
        key = {"concept_id": concept.concept_id, "text": concept.text}
        predict = load_timings(self.run_dir, concept.concept_id)["predict"]
        generated = {*self.generators(repeat), SHUFFLED, CONTINUED, UNREFINED}
        about = _about(concept, c.seed + repeat, len(truth))
        rows: list[dict[str, Any]] = []
        pictures: list[dict[str, Any]] = []

        def show(method: str, step: int, images: torch.Tensor) -> None:
            for image_id, image in list(zip(judged.ids, images, strict=True))[: c.report.pictures]:
                data = encode_png(image.permute(1, 2, 0).contiguous().numpy())
                pictures.append(
                    {**key, "method": method, "step": step, "image_id": image_id, "image": data}
                )

        wide = (
            judged
            if not c.evaluate.fd_images
            else self.judge.judged(concept, FAR, c.evaluate.fd_images)
        )
        with_kid = c.evaluate.kid and not repeat and len(truth) >= COMPARED
        true_kid = self.judge.embed(truth) if with_kid else None
        true_fd = self.judge.embed(wide.edited) if c.evaluate.fd_images else None

        def row(
            method: str,
            regime: str,
            step: int,
            spent: float,
            made: torch.Tensor,
            made_wide: Any,
            end: bool,
        ) -> None:
            values: dict[str, Any] = {"kid": None, "fd": None}
            # features take most of the time: KID is of the run's own fine-tune
            if end and true_kid is not None and regime == OWN:
                values["kid"] = kid(self.judge.embed(made), true_kid, 1, len(true_kid), c.seed)
            if end and true_fd is not None:
                values["fd"] = frechet_distance_from_features(self.judge.embed(made_wide), true_fd)
            l1 = float((to_unit(made) - to_unit(truth)).abs().mean())
            values |= {"method": method, "step": step, "seconds": spent, "l1": l1}
            same = method in (IDENTITY, CEILING)  # in every regime
            for name in regimes(c) if same else (regime,):
                rows.append({**about, **values, "finetune": name})
            if regime == OWN and (end or step == c.adapt.learned_steps):
                show(method, step, made)

        show("source", 0, source)
        show("ground truth", 0, truth)
        row(IDENTITY, OWN, 0, 0.0, source, wide.source, True)
        for track in tracks:
            last = max(track.adapters)
            adapters = stack(list(track.adapters.values()))
            tokens = [self.texts[concept.concept_id].tokens] * len(track.adapters)
            made = translate_all(self.translator, adapters, source.to(self.device), tokens).cpu()
            for i, step in enumerate(track.adapters):
                end = step in (0, last)
                made_wide = None
                if end and true_fd is not None:
                    one = {k: v[i : i + 1] for k, v in adapters.items()}
                    x = wide.source.to(self.device)
                    made_wide = translate_all(self.translator, one, x, tokens[:1])[0].cpu()
                spent = track.seconds[step]
                spent += predict if track.method in generated else 0.0
                row(track.method, track.regime, step, spent, made[i], made_wide, end)
        return rows, pictures


def _about(concept: Concept, seed: int, n: int) -> dict[str, Any]:
    """What every row says of its concept."""
    return {
        "concept_id": concept.concept_id,
        "text": concept.text,
        "split": concept.split,
        "heldout": concept.heldout,
        "seed": seed,
        "n": n,
    }


def from_scratch(config: Config, concepts: Sequence[Concept]) -> set[str]:
    """Held-out concepts on which translators are trained from scratch, evenly of each set."""
    if not config.evaluate.scratch_steps:
        return set()
    out: set[str] = set()
    for held in {c.heldout for c in concepts}:
        ids = [
            c.concept_id for c in concepts if c.heldout == held and c.split == config.adapt.split
        ]
        wanted = min(config.evaluate.scratch_concepts, len(ids))
        out |= {ids[i * len(ids) // wanted] for i in range(wanted)}
    return out
