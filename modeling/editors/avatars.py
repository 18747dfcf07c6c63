"""Portraits drawn by DiceBear's "avataaars" style, re-rendered exactly with changed attributes.

A portrait is a dict of attributes drawn from an integer. An edit replaces some attributes, so the
same person comes back with, say, indigo hair and everything else pixel for pixel as it was.
avatar_style.py extends the style by what it lacks (crown, scarf, stripes, ...).
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from modeling.concepts.grammar.colours import colour_rgb
from modeling.editors.avatar_style import avatar_style

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

_HAIR = ("#a55728", "#2c1b18", "#b58143", "#d6b370", "#724133", "#4a312c", "#ecdcbf", "#c93305")
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
_BROWS = ("default", "defaultNatural", "flatNatural", "raisedExcitedNatural", "upDownNatural")
_MOUTHS = ("default", "smile", "smile", "twinkle", "serious")
_BEARDS = ("beardLight", "beardMajestic", "beardMedium", "moustacheFancy", "moustacheMagnum")
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

    style = avatar_style()
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
