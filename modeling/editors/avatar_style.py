"""DiceBear's style "avataaars" with what it lacks: things worn, patterned backgrounds, wrinkles."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any

import numpy as np


def _path(d: str, colour: str | None = None, **attributes: str) -> dict[str, Any]:
    """An SVG path, filled with a colour of the style, or as `attributes` say."""
    fill: dict[str, Any] = {"fill": {"type": "color", "name": colour}} if colour else {}
    named = {key.replace("_", "-"): value for key, value in attributes.items()}
    return {"type": "element", "name": "path", "attributes": {"d": d, **fill, **named}}


def _line(d: str, colour: str, width: int) -> dict[str, Any]:
    stroke = {"stroke": {"type": "color", "name": colour}, "stroke-width": str(width)}
    return {
        "type": "element",
        "name": "path",
        "attributes": {"d": d, "fill": "none", "stroke-linecap": "round", **stroke},
    }


def _patterns() -> dict[str, list[dict[str, Any]]]:
    stripes = "".join(f"M{x} 0h22v280h-22Z" for x in range(-4, 280, 44))
    dots = "".join(
        f"M{x - 11} {y}a11 11 0 1 0 22 0a11 11 0 1 0 -22 0Z"
        for row, y in enumerate(range(14, 280, 36))
        for x in range(6 + 18 * (row % 2), 290, 36)
    )
    checks = "".join(
        f"M{x} {y}h28v28h-28Z"
        for row, y in enumerate(range(0, 280, 28))
        for x in range(28 * (row % 2), 280, 56)
    )
    rays = ""
    for ray in range(12):
        first, second = (2 * np.pi * (ray + half) / 12 for half in (0.0, 0.5))
        corners = [(140 + 300 * np.cos(a), 118 + 300 * np.sin(a)) for a in (first, second)]
        rays += "M140 118" + "".join(f"L{x:.1f} {y:.1f}" for x, y in corners) + "Z"
    shapes = {"stripes": stripes, "dots": dots, "checks": checks, "rays": rays}
    return {name: [_path(d, "pattern")] for name, d in shapes.items()}


def _circles(radius: int) -> str:
    """Two discs over the eyes."""
    return "".join(
        f"M{x - radius} 118a{radius} {radius} 0 1 0 {2 * radius} 0"
        f"a{radius} {radius} 0 1 0 {-2 * radius} 0Z"
        for x in (112, 168)
    )


_MASK = (
    "M80 100Q140 86 200 100L197 126Q190 144 166 142Q150 140 140 130Q130 140 114 142Q90 144 83 126Z"
)
_STREAKS = "M88 140L116 146M90 156L114 160M192 140L164 146M190 156L166 160"
_KNOT = "M104 186Q140 206 176 186Q190 190 186 212Q140 236 94 212Q90 190 104 186Z"
_TAIL = "M150 200L178 200L186 262L156 262Z"
_CUPS = "M62 98q0-10 12-10h14v56h-14q-12 0-12-10ZM218 98q0-10-12-10h-14v56h14q12 0 12-10Z"
_HORNS = "M96 60Q66 34 82 4Q94 30 124 40ZM184 60Q214 34 198 4Q186 30 156 40Z"
_CROWN = "M90 60L78 14L112 36L140 6L168 36L202 14L190 60Z"
_HALO = "M86 18a54 10 0 1 0 108 0a54 10 0 1 0 -108 0"
_WRINKLES = (
    "M112 62Q140 54 168 62M108 74Q140 66 172 74",  # forehead
    "M96 142Q104 152 102 164M184 142Q176 152 178 164",  # cheeks
    "M98 134Q110 142 122 136M158 136Q170 142 182 134",  # below the eyes
)


def _creases(lines: tuple[str, ...]) -> list[dict[str, Any]]:
    ink = {
        "fill": "none",
        "stroke": "black",
        "stroke_opacity": ".35",
        "stroke_width": "4",
    }
    return [_path(" ".join(lines), **ink)]


def _extras() -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Component name -> variant -> shapes, in the coordinates of the whole canvas."""
    worn = {
        "facePaint": [_line(_STREAKS, "facePaint", 11)],
        "mask": [_path(_MASK + _circles(14), "mask", fill_rule="evenodd")],
        "eyeGlow": [
            _path(_circles(20), "eyeGlow", opacity=".55"),
            _path(_circles(13), "eyeGlow"),
        ],
        "scarf": [
            _path(_TAIL, "scarf"),
            _path(_TAIL, fill="black", fill_opacity=".16"),
            _path(_KNOT, "scarf"),
        ],
        "headphones": [
            _line("M76 112Q72 20 140 20Q208 20 204 112", "headphones", 13),
            _path(_CUPS, "headphones"),
        ],
        "horns": [_path(_HORNS, "horns")],
        "crown": [_path(_CROWN, "crown")],
        "halo": [_line(_HALO, "halo", 9)],
    }
    return {
        "pattern": _patterns(),
        "wrinkles": {"light": _creases(_WRINKLES[:1]), "deep": _creases(_WRINKLES)},
        **{name: {"worn": shapes} for name, shapes in worn.items()},
    }


# Where each extra component enters the drawing order: just before this component.
_BEFORE = {
    "pattern": None,  # behind everything
    "wrinkles": "mouth",
    "facePaint": "mouth",
    "scarf": "mouth",
    "mask": "eyes",
    "eyeGlow": "eyebrows",
    "headphones": "accessories",
    "horns": "accessories",
    "crown": "accessories",
    "halo": "accessories",
}


@functools.cache
def avatar_style() -> Any:
    """dicebear's Style of "avataaars" with the extras, validated once per process."""
    from dicebear import Style

    definition = json.loads((files("dicebear_styles") / "avataaars.json").read_text("utf-8"))
    # The style never gives, say, clothes the skin's colour; an exact edit must be able to.
    for colour in definition["colors"].values():
        colour.pop("notEqualTo", None)
    elements = definition["canvas"]["elements"]
    for name, variants in _extras().items():
        definition["components"][name] = {
            "width": 280,
            "height": 280,
            "variants": {variant: {"elements": shapes} for variant, shapes in variants.items()},
        }
        definition["colors"][name] = {"values": ["#ffffff"]}
        before = _BEFORE[name]
        names = [element.get("name") for element in elements]
        place = 0 if before is None else names.index(before)
        elements.insert(place, {"type": "component", "name": name})
    return Style(definition)
