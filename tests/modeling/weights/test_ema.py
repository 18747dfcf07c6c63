"""The average of the weights that is served."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modeling.weights.ema import EMA
from modeling.weights.interface import GeneratorError


def test_ema_follows_the_stated_average() -> None:
    model = nn.BatchNorm1d(2)
    ema = EMA(model, decay=0.3)
    expected = model.weight.detach().clone()
    for n in range(6):
        with torch.no_grad():
            model.weight.copy_(torch.full((2,), float(n)))
            assert model.num_batches_tracked is not None
            model.num_batches_tracked.add_(1)
        ema.update(model)
        keep = min(0.3, (1 + n) / (10 + n))
        expected = keep * expected + (1 - keep) * n
        torch.testing.assert_close(ema.average["weight"], expected)
    assert ema.updates == 6
    assert ema.average["num_batches_tracked"] == 6  # counters are copied, not averaged
    twin = ema.averaged(model)
    torch.testing.assert_close(twin.weight, expected)
    assert (model.weight == 5).all()


def test_ema_refuses_another_module() -> None:
    ema = EMA(nn.Linear(3, 2))
    for call in (ema.update, ema.copy_to):
        with pytest.raises(GeneratorError, match="'bias'"):
            call(nn.Linear(3, 2, bias=False))
    with pytest.raises(GeneratorError, match="decay"):
        EMA(nn.Linear(3, 2), decay=1.0)
