"""Exact art filters: deterministic functions of the picture, in numpy and Pillow.

Lengths (blur radius, tile, dot) are fractions of the picture's shorter side, so a filter looks the
same at every resolution. A new filter is one function and one line in FILTERS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image, ImageFilter

from modeling.concepts.grammar.colours import colour_rgb
from modeling.editors.pixels import (
    blurred,
    colour_edges,
    filtered,
    grid,
    luminance,
    mix,
    odd_window,
    ramp,
    shorter_side,
)

FILTER_KEYS = frozenset(
    {"filter", "colour", "dark", "middle", "light", "strength", "palette", "tone", "side"}
)
Filter = Callable[[np.ndarray, Mapping[str, str]], np.ndarray]

# Colours along the lightness axis, from black to white; interpolated linearly.
_PALETTES = {
    "thermal": ("#00004a", "#6a00a8", "#e0245a", "#ff9a00", "#ffffd0"),
    "rainbow": ("#7a00c8", "#0050ff", "#00c878", "#fff000", "#ff2020"),
    "fire": ("#100000", "#9a0000", "#ff6000", "#ffd000", "#ffffe0"),
    "sunset": ("#1a1040", "#7a2a6a", "#e8605a", "#ffb060", "#fff0b0"),
    "ocean": ("#001428", "#004a6e", "#0090a8", "#60d8d0", "#f0fff8"),
    "forest": ("#0a1a08", "#24502a", "#5a9040", "#b0c860", "#f4f4d0"),
    "ice": ("#101a40", "#3c6cb0", "#80b8e8", "#c8e8fa", "#ffffff"),
    "candy": ("#6a1a6a", "#e04090", "#ff90b8", "#a0e8f0", "#fffbe0"),
    "aurora": ("#080828", "#203a6a", "#20a080", "#80f0a0", "#f0d0ff"),
    "desert": ("#2a1408", "#8a4a20", "#c88848", "#e8c890", "#b8e0f0"),
    "night": ("#000800", "#003a08", "#109020", "#50e860", "#d8ffd8"),
    "vaporwave": ("#20104a", "#8030c0", "#ff60c0", "#60d0ff", "#f8f0ff"),
}
# Brightness offset, contrast and saturation factors, and warmth (red up, blue down).
_TONES = {
    "contrast": (0.0, 1.8, 1.1, 0.0),
    "harsh": (0.0, 3.5, 1.2, 0.0),
    "flat": (0.0, 0.5, 1.0, 0.0),
    "faded": (0.22, 0.45, 0.6, 0.0),
    "dark": (-0.22, 0.9, 1.0, 0.0),
    "night": (-0.42, 0.7, 0.9, 0.0),
    "bright": (0.2, 1.0, 1.0, 0.0),
    "blown": (0.4, 1.1, 1.0, 0.0),
    "grey": (0.0, 1.0, 0.0, 0.0),
    "noir": (-0.05, 2.2, 0.0, 0.0),
    "muted": (0.0, 1.0, 0.4, 0.0),
    "vivid": (0.0, 1.1, 1.7, 0.0),
    "saturated": (0.0, 1.1, 3.0, 0.0),
    "warm": (0.0, 1.0, 1.0, 0.12),
    "hot": (0.0, 1.0, 1.0, 0.28),
    "cool": (0.0, 1.0, 1.0, -0.12),
    "cold": (-0.03, 1.0, 1.0, -0.28),
}
_WHITE = np.ones(3, np.float32)
_BLACK = np.zeros(3, np.float32)


class FilterError(ValueError):
    """An unknown filter, a missing or unknown parameter, or a picture of the wrong kind."""


def apply_filter(image: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    """Apply the filter that `edit` names to a uint8 [H, W, 3] image; returns the same shape.

    An edit without the key "filter" returns a copy. Keys that belong to no filter are ignored, so
    the edit of a combination can be passed whole. Raises FilterError.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise FilterError(
            f"a filter takes a uint8 image [H, W, 3], not {image.dtype} {list(image.shape)}"
        )
    if "filter" not in edit:
        return image.copy()
    name = edit["filter"]
    if name not in FILTERS:
        raise FilterError(f"unknown filter {name!r}: use one of {', '.join(FILTERS)}")
    try:
        result = FILTERS[name](image.astype(np.float32) / 255, edit)
    except KeyError as error:
        raise FilterError(f"the filter {name!r} lacks the parameter {error}") from error
    except ValueError as error:
        raise FilterError(f"the filter {name!r}: {error}") from error
    return np.rint(np.clip(result, 0, 1) * 255).astype(np.uint8)


def _colour(edit: Mapping[str, str], key: str = "colour") -> np.ndarray:
    return np.asarray(colour_rgb(edit[key]), np.float32) / 255


def _choose(edit: Mapping[str, str], key: str, values: Mapping[str, object]) -> str:
    if edit[key] not in values:
        raise ValueError(f"{key} {edit[key]!r} is none of {', '.join(values)}")
    return edit[key]


def _grade(
    edit: Mapping[str, str], slight: float, moderate: float, strong: float, extreme: float
) -> float:
    grades = {"slight": slight, "moderate": moderate, "strong": strong, "extreme": extreme}
    return grades[_choose(edit, "strength", grades)]


def _duotone(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    return mix(_colour(edit, "dark"), _colour(edit, "light"), luminance(x))


def _monochrome(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    colour = _colour(edit)
    return ramp([colour * 0.15, colour, mix(colour, _WHITE, 0.85)], luminance(x))


def _tint(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    return mix(x, _colour(edit), _grade(edit, 0.22, 0.35, 0.5, 0.7))


def _sketch(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    """Colour dodge of the grey picture by its blur leaves white paper and soft strokes."""
    grey = 0.1 + 0.9 * luminance(x)
    dodge = np.clip(grey / blurred(grey, 0.05), 0, 1)
    stroke = np.clip(2.2 * (1 - dodge) + 0.25 * (1 - grey), 0, 1)
    return mix(_WHITE, _colour(edit), stroke)


def _line_art(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    return mix(_WHITE, _colour(edit), colour_edges(x))


def _neon(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    edges = colour_edges(x)
    light = np.clip(edges + 0.8 * blurred(edges, 0.03), 0, 1)
    core = mix(_colour(edit), _WHITE, 0.6 * edges**4)
    return mix(np.asarray([0.02, 0.02, 0.07], np.float32), core, light)


def _chalk(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    board = mix(_colour(edit), _BLACK, 0.12)
    return mix(board, _WHITE, 0.92 * colour_edges(x))


def _halftone(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    row, column = grid(x)
    wave = 2 * np.pi * 11  # dots along a side
    u, v = (row + column) * np.sqrt(0.5), (row - column) * np.sqrt(0.5)
    screen = 0.5 + 0.25 * (np.cos(wave * u) + np.cos(wave * v))
    ink = np.clip((screen - blurred(luminance(x), 0.01)) * 5 + 0.5, 0, 1)
    return mix(_WHITE, _colour(edit), ink)


def _hatching(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    row, column = grid(x)
    dark = 1 - blurred(luminance(x), 0.01)
    ink = np.zeros_like(dark)
    for turn, threshold in ((1, 0.0), (-1, 0.3)):
        line = 0.5 + 0.5 * np.cos(2 * np.pi * 11 * (row + turn * column) * np.sqrt(0.5))
        ink = np.maximum(ink, np.clip((dark - threshold - 1 + line) * 4 + 0.5, 0, 1))
    return mix(_WHITE, _colour(edit), np.maximum(ink, colour_edges(x)))


def _stencil(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    ink = np.clip((0.58 - blurred(luminance(x), 0.008)) * 12 + 0.5, 0, 1)
    return mix(_WHITE, _colour(edit), ink)


def _emboss(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    grey = blurred(luminance(x), 0.008)
    shift = max(1, round(0.015 * shorter_side(x)))
    padded = np.pad(grey, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
    lit, shaded = padded[2 * shift :, 2 * shift :], padded[: -2 * shift, : -2 * shift]
    colour = _colour(edit)
    relief = np.clip(0.5 + 1.4 * (lit - shaded), 0, 1)
    return ramp([colour * 0.2, 0.1 + 0.8 * colour, mix(colour, _WHITE, 0.9)], relief)


def _vignette(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    row, column = grid(x)
    height, width = x.shape[0] / shorter_side(x), x.shape[1] / shorter_side(x)
    radius = np.hypot(2 * row / height - 1, 2 * column / width - 1)
    return mix(x, _colour(edit), np.clip((radius - 0.55) / 0.6, 0, 1))


def _frame(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    row, column = grid(x)
    height, width = x.shape[0] / shorter_side(x), x.shape[1] / shorter_side(x)
    gap = np.minimum(np.minimum(row, height - row), np.minimum(column, width - column))
    return np.where(gap < 0.09, _colour(edit), x)


def _glow(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    row, column = grid(x)
    row, column = row / row.max(), column / column.max()
    ways = {"top": 1 - row, "bottom": row, "left": 1 - column, "right": column}
    return mix(x, _colour(edit), 0.85 * ways[_choose(edit, "side", ways)] ** 1.5)


def _pop_art(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    grey = blurred(luminance(x), 0.01)
    first, second = (np.clip((grey - t) * 12 + 0.5, 0, 1) for t in (0.36, 0.72))
    lower = mix(_colour(edit, "dark"), _colour(edit, "middle"), first)
    return mix(lower, _colour(edit, "light"), second)


def _palette(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    codes = _PALETTES[_choose(edit, "palette", _PALETTES)]
    return ramp([np.asarray(colour_rgb(c), np.float32) / 255 for c in codes], luminance(x))


def _sepia(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    brown = luminance(x) * np.asarray([1.12, 0.92, 0.68], np.float32)
    return mix(x, brown, _grade(edit, 0.35, 0.65, 1.0, 1.0)) - _grade(edit, 0, 0, 0, 0.15)


def _posterise(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    levels = _grade(edit, 6, 4, 3, 2)
    return np.clip(np.floor(x * levels), 0, levels - 1) / (levels - 1)


def _mosaic(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    tiles = _grade(edit, 24, 16, 11, 7)  # along the shorter side
    height, width = x.shape[:2]
    small = (
        min(width, max(1, round(tiles * width / shorter_side(x)))),
        min(height, max(1, round(tiles * height / shorter_side(x)))),
    )
    picture = Image.fromarray(np.rint(x * 255).astype(np.uint8))
    picture = picture.resize(small, Image.Resampling.BOX)
    return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST), np.float32) / 255


def _blur(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    return blurred(x, _grade(edit, 0.018, 0.032, 0.055, 0.09))


def _oil(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    """The commonest colour of a coarse palette in a window: flat dabs with hard edges."""
    window = odd_window(x, _grade(edit, 0.03, 0.055, 0.09, 0.13))
    levels = _grade(edit, 12, 9, 7, 5)
    dabs = filtered(np.rint(x * levels) / levels, ImageFilter.ModeFilter(window))
    return np.clip((dabs - 0.5) * 1.15 + 0.5, 0, 1)


def _watercolour(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    wash = blurred(filtered(x, ImageFilter.MedianFilter(odd_window(x, 0.04))), 0.01)
    pale = mix(wash, _WHITE, _grade(edit, 0.15, 0.3, 0.48, 0.65))
    return pale * (1 - 0.3 * colour_edges(wash))


def _solarise(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    """Lightness above the threshold is turned over, as by light on a half-developed print."""
    threshold = _grade(edit, 0.85, 0.7, 0.55, 0.35)
    return np.where(x > threshold, threshold * (1 - x) / (1 - threshold), x)


def _scanlines(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    row, _ = grid(x)
    line = 0.5 + 0.5 * np.cos(2 * np.pi * 12 * row)
    return x * (1 - _grade(edit, 0.3, 0.5, 0.75, 1.0) * line)


def _aberration(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    shift = _grade(edit, 0.02, 0.04, 0.065, 0.1) * shorter_side(x)
    columns = np.arange(x.shape[1], dtype=np.float32)

    def moved(channel: int, by: float) -> np.ndarray:
        at = np.clip(columns + by, 0, x.shape[1] - 1)
        left = np.floor(at).astype(int)
        right = np.minimum(left + 1, x.shape[1] - 1)
        return mix(x[:, left, channel], x[:, right, channel], at - left)

    return np.stack([moved(0, shift), x[..., 1], moved(2, -shift)], axis=-1)


def _tone(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    brightness, contrast, saturation, warmth = _TONES[_choose(edit, "tone", _TONES)]
    x = mix(luminance(x), x, saturation)
    x = (x - 0.5) * contrast + 0.5 + brightness
    return x + warmth * np.asarray([1.0, 0.2, -1.0], np.float32)


def _negative(x: np.ndarray, edit: Mapping[str, str]) -> np.ndarray:
    grey = luminance(x)
    kinds = {
        "colour": 1 - x,
        "grey": (1 - grey) * _WHITE,
        "lightness": x + 1 - 2 * grey,
    }
    return kinds[_choose(edit, "tone", kinds)]


FILTERS: dict[str, Filter] = {
    "duotone": _duotone,
    "monochrome": _monochrome,
    "tint": _tint,
    "sketch": _sketch,
    "line_art": _line_art,
    "neon": _neon,
    "chalk": _chalk,
    "halftone": _halftone,
    "hatching": _hatching,
    "stencil": _stencil,
    "emboss": _emboss,
    "vignette": _vignette,
    "frame": _frame,
    "glow": _glow,
    "pop_art": _pop_art,
    "palette": _palette,
    "sepia": _sepia,
    "posterise": _posterise,
    "mosaic": _mosaic,
    "blur": _blur,
    "oil": _oil,
    "watercolour": _watercolour,
    "solarise": _solarise,
    "scanlines": _scanlines,
    "aberration": _aberration,
    "tone": _tone,
    "negative": _negative,
}
