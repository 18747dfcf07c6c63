"""Named colours: of anything, of hair, of skin."""

from __future__ import annotations

import re

# Ordered around the colour wheel, so that an evenly spaced sample of them is a varied one.
CORE_COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (224, 36, 36),
    "crimson": (166, 16, 58),
    "coral": (255, 120, 92),
    "salmon": (250, 164, 144),
    "rust": (176, 72, 28),
    "orange": (250, 128, 20),
    "peach": (255, 204, 164),
    "brown": (104, 62, 32),
    "tan": (205, 170, 125),
    "gold": (222, 178, 46),
    "yellow": (255, 232, 40),
    "cream": (250, 240, 206),
    "olive": (122, 122, 30),
    "lime": (164, 224, 20),
    "green": (40, 152, 50),
    "forest green": (20, 82, 40),
    "mint": (160, 240, 200),
    "emerald": (16, 178, 112),
    "teal": (0, 124, 128),
    "turquoise": (50, 214, 204),
    "cyan": (0, 216, 255),
    "sky blue": (132, 200, 250),
    "blue": (36, 84, 226),
    "navy": (18, 28, 98),
    "indigo": (76, 20, 152),
    "violet": (142, 72, 232),
    "lavender": (202, 182, 246),
    "purple": (130, 24, 146),
    "plum": (106, 44, 90),
    "magenta": (236, 30, 202),
    "pink": (255, 160, 206),
    "rose": (238, 62, 122),
    "burgundy": (104, 14, 38),
    "black": (20, 20, 22),
    "charcoal": (64, 68, 74),
    "grey": (140, 142, 146),
    "silver": (198, 202, 208),
    "white": (250, 250, 250),
}
HAIR_COLOURS: dict[str, tuple[int, int, int]] = {
    "auburn": (146, 54, 30),
    "blond": (232, 200, 118),
    "ginger": (208, 100, 42),
    "chestnut": (92, 46, 34),
    "copper": (190, 110, 66),
    "honey blond": (202, 144, 62),
    "platinum blond": (242, 232, 214),
    "strawberry blond": (232, 164, 118),
    "ash grey": (170, 168, 160),
    "dark brown": (58, 36, 24),
}
SKIN_COLOURS: dict[str, tuple[int, int, int]] = {
    "albino": (253, 234, 230),
    "deathly pale": (224, 226, 214),
    "porcelain": (250, 224, 208),
    "zombie green": (140, 164, 112),
    "jaundiced": (228, 202, 96),
    "sunburnt": (234, 112, 96),
    "tanned": (188, 118, 72),
    "deep brown": (78, 44, 30),
    "icy blue": (190, 224, 242),
    "ashen": (164, 160, 156),
}
COLOURS: dict[str, tuple[int, int, int]] = {**CORE_COLOURS, **HAIR_COLOURS, **SKIN_COLOURS}


def colour_rgb(value: str) -> tuple[int, int, int]:
    """Return the RGB of a named colour or of a "#rrggbb" code.

    Raises ValueError that lists the names for anything else.
    """
    if value in COLOURS:
        return COLOURS[value]
    if re.fullmatch(r"#[0-9a-fA-F]{6}", value):
        return int(value[1:3], 16), int(value[3:5], 16), int(value[5:7], 16)
    raise ValueError(f"unknown colour {value!r}: use #rrggbb or one of {', '.join(COLOURS)}")
