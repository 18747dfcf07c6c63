"""Table 1, curves, and how soon one method is where another ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.comparison.numbers import crossing, curve, lines, markdown, summarise

SECONDS = {"pix2pix": 2.0, "E²GAN": 0.5, "prediction": 0.5, "zero LoRA": 0.5}
BUDGET = {"pix2pix": 200, "E²GAN": 100, "prediction": 20, "zero LoRA": 20}


def row(method: str, concept: int, epoch: int, fd: float, seed: int = 0) -> dict[str, Any]:
    return {
        "method": method,
        "concept_id": f"c{concept}",
        "heldout": "atoms" if concept % 2 else "combinations",
        "seed": seed,
        "epoch": epoch,
        "epochs": BUDGET[method],
        "l1": fd / 100,
        "kid": fd / 10,
        "fd": fd,
        "n": 2048,
        "size": 32,
        "features": "EfficientNet-Lite0, 64 px",
        "distance": "FD-EfficientNet",
        "trainable": 5470,
        "total": 119_619,
        "training_flops": 1e9 * epoch,
        "image_flops": 1e6,
        "seconds": SECONDS[method] * epoch,
    }


def rows() -> list[dict[str, Any]]:
    """Six concepts; the prediction starts at 30 and ends at 10, pix2pix at 8 on the first three."""
    out = []
    for c in range(6):
        for epoch, fd in ((0, 30.0), (10, 20.0), (20, 10.0)):
            out.append(row("prediction", c, epoch, fd + c))
            out.append(row("prediction", c, epoch, fd + c, seed=1))
        for epoch, fd in ((0, 90.0), (100, 12.0)):
            out.append(row("E²GAN", c, epoch, fd + c))
        for epoch, fd in ((0, 90.0), (20, 25.0)):
            out.append(row("zero LoRA", c, epoch, fd + c))
        if c < 3:
            out += [row("pix2pix", c, 100, 14.0 + c), row("pix2pix", c, 200, 8.0 + c)]
    return out


def test_the_table_holds_only_concepts_that_all_methods_have() -> None:
    found = summarise(rows(), ["pix2pix", "E²GAN", "prediction", "zero LoRA"])
    table = found["table"]
    assert table["concepts"] == 3
    ours, theirs = table["methods"]["prediction"], table["methods"]["pix2pix"]
    assert ours["fd"]["mean"] == pytest.approx(11) and theirs["fd"]["mean"] == pytest.approx(9)
    assert ours["fd"]["lo"] < 11 < ours["fd"]["hi"]
    assert ours["fd_start"] == pytest.approx(31) and theirs["fd_start"] is None
    assert theirs["fd_against"]["wins"] == 0 and theirs["fd_against"]["total"] == 3
    assert theirs["seconds"] == 400 and ours["seconds"] == 10
    # the methods without a from-scratch training keep all their concepts, set by set
    assert {h: t["concepts"] for h, t in found["adapting"].items()} == {
        "combinations": 3,
        "atoms": 3,
    }
    assert "pix2pix" not in found["adapting"]["atoms"]["methods"]


def test_how_soon_and_how_often_it_is_where_others_end() -> None:
    reach = summarise(rows(), ["pix2pix", "E²GAN", "prediction", "zero LoRA"])["reach"]
    zero = reach["zero LoRA"]["fd"]  # ends at 25 + c after 10 s; ours is there after 5 epochs
    assert zero["at"] == pytest.approx(2.5) and zero["sooner"] == pytest.approx(4)
    assert zero["reached"] == zero["concepts"] == 6
    scratch = reach["pix2pix"]["fd"]
    assert scratch["at"] is None and scratch["sooner"] is None and scratch["reached"] == 0
    assert scratch["concepts"] == 3


def test_sentences_and_table_say_losses_too() -> None:
    found = summarise(rows(), ["pix2pix", "E²GAN", "prediction", "zero LoRA"])
    said = lines(found)
    assert said[0] == "On 3 held-out concepts the prediction ends at FD-EfficientNet 11.00 in 10 s."
    assert "is behind pix2pix (0 of 3 concepts)" in said[1]
    assert "ahead of E²GAN and zero LoRA (3 of 3 concepts each)" in said[1]
    assert said[2] == "pix2pix takes 40.0 times as long, E²GAN takes 5.0 times as long."
    text = markdown(found)
    assert "| pix2pix | 200 |" in text and "99.2, 659.8" in text and "0 of 3" in text
    assert "**prediction**" in text


def test_fewer_than_all_epochs_of_a_concept_do_not_enter_its_curve() -> None:
    some = [r for r in rows() if r["method"] == "prediction" and r["seed"] == 0]
    some = [r for r in some if not (r["concept_id"] == "c5" and r["epoch"] == 10)]
    points = curve(some)
    assert [p["epoch"] for p in points] == [0, 10, 20]
    assert all(p["concepts"] == 5 for p in points)
    assert points[1]["fd"] == pytest.approx(22)


@given(
    st.lists(st.floats(0, 100), min_size=2, max_size=8).map(lambda v: sorted(v, reverse=True)),
    st.floats(0, 100),
)
def test_a_falling_curve_crosses_where_its_value_is_the_target(
    values: list[float], target: float
) -> None:
    points = [(float(i), v) for i, v in enumerate(values)]
    at = crossing(points, target)
    if at is None:
        assert values[-1] > target
        return
    i = min(int(at), len(values) - 2)
    value = values[i] + (at - i) * (values[i + 1] - values[i])
    assert value <= target + 1e-6
    assert at == 0 or value == pytest.approx(target, abs=1e-6)
