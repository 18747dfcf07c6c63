"""The service's two ways with a batch of pictures, each by its own adapter, are one function."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from modeling.targets.lora import AdaptedTranslator
from pipelines.use.parts import Merged, TranslatorPart
from tests.modeling import test_devices
from tests.modeling.targets.tiny_training import make_concept, make_translator
from tests.rounding import in_float64

LENGTHS = (3, 5, 3)
"""Tokens of the adapters' prompts."""


def part_of(translator: AdaptedTranslator, device: str) -> TranslatorPart:
    part = object.__new__(TranslatorPart)  # without a run
    part.translator, part.device, part.size = translator, torch.device(device), 8
    return part


def merged(translator: AdaptedTranslator) -> list[Merged]:
    zero = translator.zero_adapter()
    rng = torch.Generator().manual_seed(1)
    made = []
    for i, length in enumerate(LENGTHS):
        adapter = {k: v + 0.1 * torch.randn(v.shape, generator=rng) for k, v in zero.items()}
        tokens = make_concept(i, length=length).tokens
        made.append(Merged(translator.merge(adapter), tokens))
    return made


@pytest.mark.parametrize("order", [[0], [0, 1], [2, 0, 1, 0, 2]])
@in_float64()
@torch.no_grad()
def test_the_two_ways_are_one_function(order: list[int]) -> None:
    translator = make_translator()
    of = merged(translator)
    part = part_of(translator, "cpu")
    source = torch.rand(len(order), 3, 8, 8) * 2 - 1
    these = [of[i] for i in order]
    torch.testing.assert_close(part._at_once(source, these), part._one_by_one(source, these))


@torch.no_grad()
def test_on_a_gpu_they_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    translator = make_translator()
    part = part_of(translator, "cuda")
    these = merged(translator)

    def refused(*_: object) -> None:
        raise AssertionError("one by one")

    monkeypatch.setattr(part, "_one_by_one", refused)
    with FakeTensorMode(allow_non_fake_inputs=True):
        test_devices.there(translator)
        there = [
            Merged(
                {k: torch.empty_like(v, device="cuda") for k, v in m.state.items()},
                torch.empty_like(m.tokens, device="cuda"),
            )
            for m in these
        ]
        source = torch.zeros(len(there), 3, 8, 8, device="cuda")
        made = part._edited(source, there)
    assert made.device.type == "cuda" and made.shape == source.shape
