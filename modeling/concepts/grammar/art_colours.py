"""Families of the category "art" whose atoms differ in colour."""

from __future__ import annotations

from modeling.concepts.grammar.colours import COLOURS, CORE_COLOURS
from modeling.concepts.grammar.family import Family, coloured, make_family


def _luma(name: str) -> float:
    red, green, blue = COLOURS[name]
    return 0.299 * red + 0.587 * green + 0.114 * blue


_INKS = tuple(name for name in CORE_COLOURS if _luma(name) < 185)  # seen on white paper
_LIGHTS = tuple(name for name in CORE_COLOURS if _luma(name) > 45)  # seen in the dark


def _ink(
    name: str, templates: tuple[str, ...], colours: tuple[str, ...] = tuple(CORE_COLOURS)
) -> Family:
    """A filter with one colour."""
    edit = {"filter": name, "colour": "{colour}"}
    return coloured(name, "art", templates, "as {}", edit, colours)


_DARK = ("black", "charcoal", "navy", "indigo", "purple", "plum", "burgundy", "brown", "rust",
         "forest green", "teal", "blue")  # fmt: skip
_LIGHT = ("white", "cream", "peach", "coral", "orange", "gold", "yellow", "lime", "mint",
          "turquoise", "sky blue", "lavender", "pink", "silver")  # fmt: skip
_LAMPS = ("red", "orange", "gold", "lime", "emerald", "cyan", "blue", "violet", "magenta", "pink",
          "white", "black")  # fmt: skip
_TRIADS = (
    ("navy", "red", "cream"), ("indigo", "magenta", "yellow"), ("black", "orange", "cream"),
    ("purple", "turquoise", "yellow"), ("burgundy", "coral", "mint"),
    ("forest green", "gold", "pink"), ("teal", "salmon", "white"), ("blue", "lime", "white"),
    ("plum", "rose", "sky blue"), ("charcoal", "cyan", "peach"), ("brown", "tan", "turquoise"),
    ("black", "red", "yellow"),
)  # fmt: skip

ART_COLOURS = (
    make_family(
        "duotone",
        "art",
        (
            "a {dark} and {light} duotone print",
            "a two-colour print in {dark} and {light}",
            "a duotone with {dark} shadows and {light} highlights",
        ),
        "as {}",
        [
            ({"dark": d, "light": w}, {"filter": "duotone", "dark": d, "light": w})
            for d in _DARK
            for w in _LIGHT
        ],
    ),
    _ink(
        "monochrome",
        (
            "a {colour} monochrome picture",
            "a picture in shades of {colour}",
            "a single-colour picture in {colour}",
        ),
    ),
    make_family(
        "tint",
        "art",
        (
            "a photograph {how} tinted {colour}",
            "a picture washed {how} with {colour}",
            "a photo {how} coloured {colour}",
        ),
        "as {}",
        [
            ({"how": how, "colour": c}, {"filter": "tint", "colour": c, "strength": strength})
            for c in CORE_COLOURS
            for how, strength in (("slightly", "slight"), ("strongly", "strong"))
        ],
    ),
    _ink(
        "sketch",
        (
            "a {colour} pencil sketch",
            "a sketch drawn in {colour} pencil",
            "a {colour} crayon drawing",
        ),
        _INKS,
    ),
    _ink(
        "line_art",
        (
            "a line drawing in {colour} ink",
            "an outline drawn with a {colour} pen",
            "{colour} ink contours on paper",
        ),
        _INKS,
    ),
    _ink(
        "neon",
        (
            "glowing {colour} neon outlines",
            "a {colour} neon sign",
            "{colour} glowing contours in the dark",
        ),
        _LIGHTS,
    ),
    _ink(
        "chalk",
        (
            "a chalk drawing on a {colour} board",
            "white chalk lines on {colour}",
            "a blackboard drawing on {colour} slate",
        ),
        _INKS,
    ),
    _ink(
        "halftone",
        (
            "a {colour} halftone print",
            "a newspaper print of {colour} dots",
            "a comic print in {colour} dots",
        ),
        _INKS,
    ),
    _ink(
        "hatching",
        (
            "a {colour} cross-hatched engraving",
            "an etching hatched in {colour}",
            "a drawing of {colour} hatching lines",
        ),
        _INKS,
    ),
    _ink(
        "stencil",
        ("a {colour} stencil print", "a stencil sprayed in {colour}", "a {colour} linocut"),
        _INKS,
    ),
    _ink(
        "emboss",
        ("an embossed {colour} relief", "a relief pressed in {colour}", "a {colour} embossing"),
    ),
    _ink(
        "vignette",
        (
            "a photograph with a {colour} vignette",
            "a photo fading to {colour} at the edges",
            "a picture with {colour} corners",
        ),
    ),
    _ink(
        "frame",
        (
            "a picture in a {colour} frame",
            "a photo with a {colour} border",
            "a {colour} framed picture",
        ),
    ),
    make_family(
        "glow",
        "art",
        (
            "a photograph with {colour} light from {side}",
            "a picture lit {colour} from {side}",
            "a photo with a {colour} glow from {side}",
        ),
        "as {}",
        [
            ({"colour": c, "side": text}, {"filter": "glow", "colour": c, "side": side})
            for c in _LAMPS
            for text, side in (
                ("above", "top"),
                ("below", "bottom"),
                ("the left", "left"),
                ("the right", "right"),
            )
        ],
    ),
    make_family(
        "pop_art",
        "art",
        (
            "a pop-art poster in {a} {b} and {c}",
            "a three-colour screen print in {a} {b} and {c}",
            "a poster printed in {a} {b} and {c}",
        ),
        "as {}",
        [
            ({"a": a, "b": b, "c": c}, {"filter": "pop_art", "dark": a, "middle": b, "light": c})
            for a, b, c in _TRIADS
        ],
    ),
)
