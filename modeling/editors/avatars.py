"""Portraits drawn by DiceBear's "avataaars" style, re-rendered exactly with changed attributes.

A portrait is a dict of attributes drawn from an integer. An edit replaces some attributes, so the
same person comes back with, say, indigo hair and everything else pixel for pixel as it was.
The style is extended with worn things and backgrounds that it lacks (crown, scarf, stripes, ...).
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from PIL import Image

from modeling.concepts.grammar.colours import colour_rgb

NONE = "none"


class AvatarError(ValueError):
    """An attribute, a value or a size that no portrait can be drawn with."""


@dataclass(frozen=True)
class Portrait:
    """A person: the value of every attribute, drawn from `seed`."""

    seed: int
    attributes: Mapping[str, str] = field(hash=False)


# Attribute -> DiceBear component whose variant it chooses ("none" leaves the component out).
_VARIANTS = {
    "top": "top",
    "clothes": "clothes",
    "graphic": "clothesGraphic",
    "eyes": "eyes",
    "eyebrows": "eyebrows",
    "mouth": "mouth",
    "beard": "facialHair",
    "glasses": "accessories",
    "pattern": "pattern",
    "wrinkles": "wrinkles",
}
# Attribute -> DiceBear colour.
_COLOURS = {
    "skin": "skin",
    "hair": "hair",
    "hat": "hat",
    "beard_colour": "facialHair",
    "clothes_colour": "clothes",
    "glasses_colour": "accessories",
    "background": "background",
    "pattern_colour": "pattern",
}
# Attribute -> component of one variant, worn in the attribute's colour or not at all.
_WORN = {
    "scarf": "scarf",
    "mask": "mask",
    "crown": "crown",
    "headphones": "headphones",
    "horns": "horns",
    "halo": "halo",
    "face_paint": "facePaint",
    "eye_glow": "eyeGlow",
}
_OPTIONAL = {"top", "beard", "glasses", "pattern", "wrinkles"}
ATTRIBUTES = (*_VARIANTS, *_COLOURS, *_WORN)

_HAIR = (
    "#a55728",
    "#2c1b18",
    "#b58143",
    "#d6b370",
    "#724133",
    "#4a312c",
    "#ecdcbf",
    "#c93305",
)
_SKIN = ("#4f342b", "#614335", "#8d5a3a", "#ae5d29", "#d08b5b", "#e0a274", "#edb98a", "#f5cda4",
         "#ffdbb4")  # fmt: skip
_CLOTHES = ("#262e33", "#65c9ff", "#5199e4", "#25557c", "#e6e6e6", "#929598", "#3c4f5c", "#b1e2ff",
            "#a7ffc4", "#ffafb9", "#ffffb1", "#ff488e", "#ff5c5c", "#7a5ea8", "#3f7d58",
            "#f2a33c")  # fmt: skip
_FRAMES = ("#262e33", "#25557c", "#3c4f5c", "#7a4b2a", "#a3262a")
# Hats and bald heads are left out of sources: a change of hair must be visible in every portrait.
_TOPS = ("bigHair", "bob", "bun", "curly", "curvy", "dreads", "dreads01", "dreads02", "frida",
         "frizzle", "fro", "froBand", "longButNotTooLong", "miaWallace", "shaggy", "shaggyMullet",
         "shavedSides", "shortCurly", "shortFlat", "shortRound", "shortWaved", "straight01",
         "straight02", "straightAndStrand", "theCaesar", "theCaesarAndSidePart")  # fmt: skip
_SHIRTS = ("blazerAndShirt", "blazerAndSweater", "collarAndSweater", "graphicShirt", "hoodie",
           "overall", "shirtCrewNeck", "shirtCrewNeck", "shirtScoopNeck", "shirtVNeck")  # fmt: skip
_GRAPHICS = ("bat", "bear", "deer", "diamond", "pizza", "skull")
_EYES = ("default", "default", "default", "happy", "side", "squint", "wink")
_BROWS = (
    "default",
    "defaultNatural",
    "flatNatural",
    "raisedExcitedNatural",
    "upDownNatural",
)
_MOUTHS = ("default", "smile", "smile", "twinkle", "serious")
_BEARDS = (
    "beardLight",
    "beardMajestic",
    "beardMedium",
    "moustacheFancy",
    "moustacheMagnum",
)
_GLASSES = ("prescription01", "prescription02", "round", "wayfarers")


def portrait(seed: int) -> Portrait:
    """Draw a person from an integer; the same on every machine and library version."""
    if seed < 0:
        raise AvatarError(f"a portrait's seed must not be negative, got {seed}")

    def draw(name: str) -> float:
        digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:7], "big") / 2**56

    def pick(name: str, values: tuple[str, ...]) -> str:
        return values[int(draw(name) * len(values))]

    hair = pick("hair", _HAIR)
    attributes = {
        "top": pick("top", _TOPS),
        "hair": hair,
        "hat": "#25557c",
        "skin": pick("skin", _SKIN),
        "eyes": pick("eyes", _EYES),
        "eyebrows": pick("eyebrows", _BROWS),
        "mouth": pick("mouth", _MOUTHS),
        "clothes": pick("clothes", _SHIRTS),
        "clothes_colour": pick("clothes_colour", _CLOTHES),
        "graphic": pick("graphic", _GRAPHICS),
        "beard": pick("beard", _BEARDS) if draw("bearded") < 0.2 else NONE,
        "beard_colour": hair,
        "glasses": pick("glasses", _GLASSES) if draw("short-sighted") < 0.15 else NONE,
        "glasses_colour": pick("glasses_colour", _FRAMES),
        "background": _pale(draw("hue"), draw("paleness")),
        "pattern": NONE,
        "pattern_colour": "#ffffff",
        "wrinkles": NONE,
        **dict.fromkeys(_WORN, NONE),
        "flip": pick("flip", ("none", "horizontal")),
        "view": _view(draw("zoom"), draw("x"), draw("y")),
    }
    return Portrait(seed, attributes)


def render(person: Portrait, size: int, edit: Mapping[str, str] | None = None) -> np.ndarray:
    """Draw a portrait as uint8 [size, size, 3], with the attributes in `edit` replaced.

    Raises AvatarError for an unknown attribute or value and for a size below 8 pixels.
    """
    if size < 8:
        raise AvatarError(f"a portrait needs at least 8 pixels, got {size}")
    import resvg_py

    png = resvg_py.svg_to_bytes(
        svg_string=_svg(person, dict(edit or {})),
        width=size,
        height=size,
        skip_system_fonts=True,  # the drawings hold no text: looking for fonts only costs time
    )
    with Image.open(io.BytesIO(png)) as image:
        # resvg rounds one side of some square views up by a pixel
        return np.asarray(image.convert("RGB"), dtype=np.uint8)[:size, :size].copy()


def _svg(person: Portrait, edit: dict[str, str]) -> str:
    unknown = sorted(set(edit) - set(ATTRIBUTES))
    if unknown:
        raise AvatarError(f"unknown attribute {unknown[0]!r}: use one of {', '.join(ATTRIBUTES)}")
    from dicebear import Avatar

    style = _style()
    values = {**person.attributes, **edit}
    options: dict[str, Any] = {"seed": "portrait", "flip": values["flip"]}
    for attribute, component in _VARIANTS.items():
        value = values[attribute]
        known = style.components()[component].variants()
        if value == NONE and attribute in _OPTIONAL:
            options[f"{component}Probability"] = 0
        elif value in known:
            options[f"{component}Probability"] = 100
            options[f"{component}Variant"] = value
        else:
            names = [*known, *([NONE] if attribute in _OPTIONAL else [])]
            raise AvatarError(f"unknown {attribute} {value!r}: use one of {', '.join(names)}")
    for attribute, colour in _COLOURS.items():
        options[f"{colour}Color"] = _hex(attribute, values[attribute])
    for attribute, component in _WORN.items():
        worn = values[attribute] != NONE
        options[f"{component}Probability"] = 100 if worn else 0
        if worn:
            options[f"{component}Color"] = _hex(attribute, values[attribute])
    svg = str(Avatar(style, options))
    # DiceBear draws on a fixed canvas; a tighter view gives the face more of a small picture.
    return re.sub(r'viewBox="[^"]*"', f'viewBox="{values["view"]}"', svg, count=1)


def _hex(attribute: str, value: str) -> str:
    try:
        red, green, blue = colour_rgb(value)
    except ValueError as error:
        raise AvatarError(f"{attribute}: {error}") from error
    return f"#{red:02x}{green:02x}{blue:02x}"


def _pale(hue: float, paleness: float) -> str:
    """A pale colour: a pure hue mixed with 68 to 90 % white."""
    white = 0.68 + 0.22 * paleness
    pure = [min(max(abs((hue * 6 + shift) % 6 - 3) - 1, 0.0), 1.0) for shift in (0, 4, 2)]
    return "#" + "".join(f"{round(255 * (white + (1 - white) * channel)):02x}" for channel in pure)


def _view(zoom: float, x: float, y: float) -> str:
    """The visible square "x y width height" on the canvas of 280: head, hair and shoulders."""
    side = 244 + 16 * zoom
    left = 140 - side / 2 + 8 * (x - 0.5)
    return f"{left:.1f} {4 * y:.1f} {side:.1f} {side:.1f}"


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
def _style() -> Any:
    """The extended style, validated once per process."""
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
