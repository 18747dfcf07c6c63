"""A fine-tune from start to score, whoever asked for it: the service, a command, or Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor

from modeling.targets.adapter_training import ConceptData, to_unit, translate_all
from modeling.targets.lora import Adapter, stack, unstack
from modeling.text import TextEmbedding
from pipelines.config.sections.finetune import Adapt
from pipelines.stages.finetuning import FineTune
from pipelines.use.finetune_request import FinetuneError

OnStep = Callable[[int, Callable[[], float]], None]
"""Called with the step done, and with what scores its adapter as `l1_after` is scored."""


@dataclass(frozen=True)
class FineTuned:
    """What came of it."""

    adapter: Adapter
    losses: list[float]
    """L1 of each step's batch, images in [-1, 1]; learned steps first."""
    learned: int
    """Of these, learned steps."""
    l1_before: float
    l1_after: float
    scored_on: str
    seconds: float


def held_out(count: int) -> int:
    """Of so many pairs, those kept from the training to score it; too few are all trained on."""
    return count // 5 if count >= 10 else 0


def fine_tuned(
    fine_tune: FineTune,
    start: Adapter,
    text: TextEmbedding,
    source: Tensor,
    edited: Tensor,
    test: int,
    adapt: Adapt,
    seed: int,
    on_step: OnStep | None = None,
) -> FineTuned:
    """Train from `start` on all pairs but the last `test`, by the run's recipe.

    source, edited: uint8 [n, 3, S, S] on the run's device. FinetuneError if it cannot be done.
    """
    count = len(source)
    if count <= test:
        raise FinetuneError(f"there are {count} pairs, of which {test} are for the score")
    data = ConceptData("", source[: count - test], edited[: count - test], text.tokens)
    held = replace(data, source=source[-test:], edited=edited[-test:]) if test else data
    start = {k: v.to(source.device) for k, v in start.items()}

    def l1(adapter: Adapter) -> float:
        made = translate_all(fine_tune.translator, stack([adapter]), held.source, [held.tokens])[0]
        return float((to_unit(made) - to_unit(held.edited)).abs().mean())

    def told(step: int, adapters: Adapter) -> None:
        assert on_step is not None
        on_step(step, lambda: l1(unstack(adapters)[0]))

    (trained,) = fine_tune(
        [data],
        [start],
        [text],
        adapt,
        seed,
        on_step=told if on_step else None,
    )
    if trained.adapter is None:
        raise FinetuneError(trained.error)
    return FineTuned(
        {k: v.detach().cpu() for k, v in trained.adapter.items()},
        trained.losses,
        min(adapt.learned_steps, adapt.steps),
        l1(start),
        l1(trained.adapter),
        f"{test} other pictures" if test else f"the {count} pictures trained on",
        trained.seconds,
    )
