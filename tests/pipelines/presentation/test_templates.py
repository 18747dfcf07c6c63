"""The templates: every value is escaped, and none may be missing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from pipelines.presentation.cells import shots
from pipelines.presentation.curves import COLOURS, variable
from pipelines.presentation.html import ROOT, render

SUMMARY = {"preset": "tiny", "seed": 0}
TEMPLATES = sorted(p.relative_to(ROOT).as_posix() for p in ROOT.glob("*/templates/*.html"))


def test_a_value_is_escaped_and_markup_is_not() -> None:
    text = render("comparison/templates/page.html", section="<b>", summary=SUMMARY)
    assert "&lt;b&gt;" in text
    assert "<b>" in render("comparison/templates/page.html", section=Markup("<b>"), summary=SUMMARY)


def test_a_missing_value_is_an_error() -> None:
    with pytest.raises(UndefinedError, match="section"):
        render("comparison/templates/page.html", summary=SUMMARY)


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_template_turns_escaping_off(name: str) -> None:
    source = Path(ROOT, name).read_text()
    assert not re.search(r"\|\s*(safe|forceescape)|autoescape", source)


def test_every_method_has_its_colour_in_both_schemes() -> None:
    page = render("comparison/templates/page.html", section="", summary=SUMMARY)
    for method, (light, dark) in COLOURS.items():
        assert f"{variable(method)}: {light};" in page and f"{variable(method)}: {dark};" in page


def test_pictures_grow_by_whole_multiples_or_shrink_to_their_room() -> None:
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
    small = shots({"a": header + (32).to_bytes(4, "big")}, "source", "a beard", 112)
    assert [s.style for s in small] == ["--px: 32px; --times: 3"]
    large = {i: header + (256).to_bytes(4, "big") for i in "ab"}
    assert [(s.style, s.large) for s in shots(large, "source", "", 112)] == [
        ("width: 56px", True)
    ] * 2
    assert shots({}, "source", "a beard", 112) == []


def test_all_rooms_have_their_templates() -> None:
    assert {n.split("/")[0] for n in TEMPLATES} == {"presentation", "comparison", "report", "verbs"}
    assert ROOT.name == "pipelines"
