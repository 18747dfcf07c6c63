"""Table 1, curves, and how soon the prediction is where others end."""

from __future__ import annotations

import pytest

from pipelines.comparison.numbers import curve, lines, summarise
from pipelines.comparison.table import markdown
from tests.pipelines.comparison.hand_made import METHODS, rows


def test_the_table_holds_only_concepts_that_all_methods_have() -> None:
    found = summarise(rows(), METHODS)
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
    reach = summarise(rows(), METHODS)["reach"]
    zero = reach["zero LoRA"]["fd"]  # ends at 25 + c after 10 s; ours is there after 5 epochs
    assert zero["at"] == pytest.approx(2.5) and zero["sooner"] == pytest.approx(4)
    assert zero["reached"] == zero["concepts"] == 6
    scratch = reach["pix2pix"]["fd"]
    assert scratch["at"] is None and scratch["sooner"] is None and scratch["reached"] == 0
    assert scratch["concepts"] == 3


def test_sentences_and_table_say_losses_too() -> None:
    found = summarise(rows(), METHODS)
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
