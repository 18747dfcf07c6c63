"""What is compared: every method's adapter for a concept, before any fine-tuning.

The weight generators (the one that serves, its other seeds, its state before the image loss, and
the rival) and the cheap controls. Loaded once by an actor.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from modeling.baselines.shared_starts import gradient_start
from modeling.targets.coreset import image_coreset
from modeling.targets.lora import Adapter
from modeling.targets.recipe import as_published
from modeling.weights.controls import noised, shuffled
from modeling.weights.interface import WeightGenerator
from pipelines.config.schema import Config
from pipelines.config.sections.finetune import Adapt
from pipelines.config.sections.scoring import CONTROLS, GRADIENTS, JOINT, REPTILE
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import BY_NAME
from pipelines.stages.adapt import cut, heldout
from pipelines.stages.controls import load_controls
from pipelines.stages.finetuning import Adapting
from pipelines.stages.shared_starts import load_start
from pipelines.stages.weight_generators import Member, load_generator, members

PREDICTION, IDENTITY, CEILING = "prediction", "identity", "ground-truth adapter"
CONTINUED = "prediction, full budget"
SCRATCH = "from scratch"
SHUFFLED = "shuffled prompt"
UNREFINED = "prediction, no learned steps"
ZERO_REFINED = "zero LoRA, learned steps"
OWN, PUBLISHED = "own", "published"
"""Two regimes: every method fine-tuned as the run's configuration says (those that start from a
prediction by its learned steps, too), or every method by Adam on the LoRA factors alone."""
REFERENCES = (CEILING, CONTINUED, SCRATCH)
"""Trained at length on the true edits; no controls."""
GOALS = (CEILING, SCRATCH)
"""Those whose last L1 the others try to reach sooner."""
KINDS = {"transformer": "block transformer", "unet": "1-D UNet"}
FIRST_PAIRS = 16
"""On which the gradients of LoRA-GA's start are taken."""
WEIGHTS_ONLY = ", weights only"
"""Follows the name of a weight generator that was not trained on the image loss."""


def regimes(config: Config) -> dict[str, Adapt]:
    """The fine-tunes that methods are compared by: one, if the run's own is as published."""
    published = as_published(config.adapt)
    return {OWN: config.adapt} | ({} if published == config.adapt else {PUBLISHED: published})


def by_learned_steps(
    starts: Mapping[str, Adapter], learned: int
) -> tuple[dict[str, Adapter], dict[str, Adapter]]:
    """Starts that learned steps are taken from, and those that Adam alone goes on from.

    With learned steps, the prediction is also trained without, and zero LoRA also with them: how
    much is the prediction's, how much the refiner's?
    """
    if not learned:
        return {}, dict(starts)
    refined = {m: a for m, a in starts.items() if is_generator(m)}
    plain = {m: a for m, a in starts.items() if m not in refined}
    if PREDICTION in starts:
        plain[UNREFINED] = starts[PREDICTION]
    if "zero LoRA" in starts:
        refined[ZERO_REFINED] = starts["zero LoRA"]
    return refined, plain


def is_generator(method: str) -> bool:
    """Whether a method is a weight generator, the prediction's own variants included."""
    return method.removesuffix(WEIGHTS_ONLY) in (PREDICTION, *KINDS.values())


class Contenders(Adapting):
    """Starts of every method."""

    controls = BY_NAME["evaluate"].outputs[0]
    """Folder of the stage that has written the controls (controls.py)."""

    def __init__(self, config: dict[str, Any], run_dir: RunDir) -> None:
        super().__init__(config, run_dir)
        self._others: dict[tuple[str, bool], WeightGenerator] = {}
        self._starts: dict[str, Adapter] = {}

    def generators(self, repeat: int) -> dict[str, tuple[Member, bool]]:
        """Method → member and whether its state before the image loss is meant."""
        out = {}
        for member in members(self.config):
            if member.repeat != repeat:
                continue
            section = getattr(self.config, member.section)
            name = PREDICTION if member.section == "generator" else KINDS[section.kind]
            out[name] = (member, False)
            if section.image_steps and self.config.evaluate.weights_only:
                out[name + WEIGHTS_ONLY] = (member, True)
        return out

    def starts(
        self, concept_id: str, repeat: int, methods: Collection[str] | None = None
    ) -> dict[str, Adapter]:
        """Every method's adapter for a held-out concept; noise and shuffle from seed + repeat.

        methods: those wanted, of the weight generators and the controls; by default all weight
        generators and evaluate.controls.
        """
        seed = self.config.seed + repeat
        generators = self.generators(repeat)
        if methods is None:
            methods = [*generators, *self.config.evaluate.controls]
        out = {}
        for method, (member, before) in generators.items():
            if method in methods:
                (out[method],) = self.predict([concept_id], self._generator(member, before), seed)
        for method in [m for m in methods if m in CONTROLS]:
            if method == SHUFFLED:
                other = self.other(repeat).get(concept_id)
                if other:
                    main = self._generator(Member("generator", repeat), False)
                    (out[method],) = self.predict([other], main, seed)
            else:
                out[method] = self._control(method, concept_id, seed)
        return out

    def other(self, repeat: int) -> dict[str, str]:
        """For each held-out concept the one whose prompt stands in for its own."""
        ids = heldout(self.run_dir, self.config.adapt.split)
        if len(ids) < 2:
            return {}
        return dict(zip(ids, shuffled(ids, self.config.seed + repeat), strict=True))

    def _generator(self, member: Member, before_images: bool) -> WeightGenerator:
        key = (member.folder, before_images)
        if key not in self._others:
            loaded = load_generator(self.run_dir, member.folder, before_images)
            self._others[key] = loaded.model.to(self.device)
        return self._others[key]

    def _control(self, method: str, concept_id: str, seed: int) -> Adapter:
        if method == "zero LoRA":
            return self.translator.zero_adapter()
        if method in (JOINT, REPTILE):
            return dict(self._shared(method))
        if method == GRADIENTS:
            return self._from_gradients(concept_id)
        made = load_controls(self.run_dir, self.controls, concept_id)
        if method == "noised nearest":
            blocks = noised(made["nearest text"], made["deviation"], 0.5, seed)
        elif method in made:
            blocks = made[method]
        else:
            raise ValueError(f"no control named {method!r}")
        return self.decoder.decode(blocks.to(self.device))

    def _shared(self, start: str) -> Adapter:
        if start not in self._starts:
            loaded = load_start(self.run_dir, start)
            self._starts[start] = {k: v.to(self.device) for k, v in loaded.items()}
        return self._starts[start]

    def _from_gradients(self, concept_id: str) -> Adapter:
        """Of the first pairs of the coreset."""
        data, adapt = self.data(concept_id), self.config.adapt
        data = cut(data, image_coreset(data.source, adapt.coreset, self.config.seed))
        first = slice(FIRST_PAIRS)
        return gradient_start(self.translator, data.source[first], data.edited[first], data.tokens)
