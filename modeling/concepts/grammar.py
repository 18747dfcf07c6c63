"""The grammar of concepts: named colours and families of related edits.

A family is a set of atoms that differ in one or two words ("indigo hair", "teal hair"), so that an
unseen atom lies between seen ones for a text encoder and for the pictures alike. The categories are
the paper's (Sec. 3.1): facial modification, characteristic and art.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

CATEGORIES = ("facial", "characteristic", "art")  # also the order of the parts in a combination

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


class Atom(NamedTuple):
    """One edit with its text, e.g. ("indigo hair", {"hair": "indigo"})."""

    text: str
    edit: dict[str, str]


class _Row(NamedTuple):
    slots: dict[str, str]
    edit: dict[str, str]


@dataclass(frozen=True)
class Family:
    """Atoms that share a meaning and differ in a word or two.

    templates: noun phrases with slots; the first gives an atom's text, the others paraphrase it.
    join: how the phrase is attached to other text ("on {}" makes "on a coral background").
    wholes: sentences that paraphrase an atom only where it leads.
    rows: the slot values and the edit of each atom.
    hides: attributes that the edit makes invisible; families that set them are no partners.
    """

    name: str
    category: str
    needs_avatar: bool
    templates: tuple[str, ...]
    join: str
    rows: tuple[_Row, ...]
    wholes: tuple[str, ...] = ()
    hides: frozenset[str] = frozenset()

    @cached_property
    def keys(self) -> frozenset[str]:
        """The attributes that some atom of the family sets."""
        return frozenset(key for row in self.rows for key in row.edit)

    def atoms(self) -> list[Atom]:
        """Return every atom in its fixed order."""
        return [Atom(_say(self.templates[0], row.slots), dict(row.edit)) for row in self.rows]

    def phrases(self, index: int, *, leading: bool) -> list[str]:
        """Return the ways of saying atom `index`, the atom's own text first.

        leading: at the head of a text; otherwise attached to what stands before it.
        """
        slots = self.rows[index].slots
        nouns = [_say(template, slots) for template in self.templates]
        joined = [_say(self.join, {"": noun}) for noun in nouns]
        if not leading:
            return joined
        wholes = [_say(template, slots) for template in self.wholes]
        leads = [f"{lead} {text}" for lead in _LEADS for text in joined]
        return list(dict.fromkeys([*nouns, *wholes, *leads]))

    def compatible(self, other: Family) -> bool:
        """Tell whether atoms of both families can be applied to one picture independently."""
        return not (self.keys & (other.keys | other.hides) or other.keys & (self.keys | self.hides))


_LEADS = ("a portrait", "the same person", "a picture of someone")


def _say(template: str, slots: Mapping[str, str]) -> str:
    text = template
    for slot, value in slots.items():
        text = text.replace("{" + slot + "}", value)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def _family(
    name: str,
    category: str,
    templates: tuple[str, ...],
    join: str,
    rows: list[tuple[dict[str, str], dict[str, str]]],
    wholes: tuple[str, ...] = (),
    hides: tuple[str, ...] = (),
) -> Family:
    return Family(
        name=name,
        category=category,
        needs_avatar=category != "art",
        templates=templates,
        join=join,
        rows=tuple(_Row(dict(slots), dict(edit)) for slots, edit in rows),
        wholes=wholes,
        hides=frozenset(hides),
    )


def _coloured(
    name: str,
    category: str,
    templates: tuple[str, ...],
    join: str,
    edit: dict[str, str],
    colours: tuple[str, ...] = tuple(CORE_COLOURS),
    wholes: tuple[str, ...] = (),
    hides: tuple[str, ...] = (),
) -> Family:
    """One atom per colour; "{colour}" in the templates and the edit stands for its name."""
    rows = [
        ({"colour": c}, {key: value.replace("{colour}", c) for key, value in edit.items()})
        for c in colours
    ]
    return _family(name, category, templates, join, rows, wholes, hides)


def _named(
    name: str,
    category: str,
    templates: tuple[str, ...],
    join: str,
    edits: dict[str, str],
    hides: tuple[str, ...] = (),
) -> Family:
    """One atom per entry; "{it}" in the templates stands for its key.

    An edit is written "attribute=value, attribute=value".
    """
    rows = [
        ({"it": it}, dict(pair.split("=") for pair in edit.split(", ")))
        for it, edit in edits.items()
    ]
    return _family(name, category, templates, join, rows, (), hides)


_HAIR = (*CORE_COLOURS, *HAIR_COLOURS)
_SKIN = (*CORE_COLOURS, *SKIN_COLOURS)


def _beard(name: str, style: str, noun: str, other: str) -> Family:
    return _coloured(
        name,
        "facial",
        (f"a {{colour}} {noun}", f"a {noun} dyed {{colour}}", f"{other} in {{colour}}"),
        "with {}",
        {"beard": style, "beard_colour": "{colour}"},
        _HAIR,
        (f"a person who has grown a {{colour}} {noun}",),
    )


def _worn(
    name: str, noun: str, other: str, edit: dict[str, str], hides: tuple[str, ...] = ()
) -> Family:
    """Something worn, in every colour. `noun` begins with its article if it takes one."""
    article, _, bare = noun.partition(" ") if noun.startswith("a ") else ("", "", noun)
    head = f"{article} " if article else ""
    return _coloured(
        name,
        "characteristic",
        (f"{head}{{colour}} {bare}", f"{noun} in {{colour}}", f"{other} coloured {{colour}}"),
        "wearing {}",
        edit,
        wholes=(f"a person who wears {head}{{colour}} {bare}",),
        hides=hides,
    )


def _hat(name: str, noun: str, other: str, style: str) -> Family:
    return _worn(name, noun, other, {"top": style, "hat": "{colour}"}, hides=("hair",))


def _glasses(name: str, noun: str, other: str, style: str, *, dark: bool = False) -> Family:
    edit = {"glasses": style, "glasses_colour": "{colour}"}
    return _worn(name, noun, other, edit, hides=("eyes", "eye_glow") if dark else ())


def _garment(name: str, noun: str, other: str, style: str) -> Family:
    return _worn(name, noun, other, {"clothes": style, "clothes_colour": "{colour}"})


def _pattern(name: str, adjective: str, noun: str, style: str) -> Family:
    return _coloured(
        name,
        "characteristic",
        (
            f"a background with {{colour}} {noun}",
            f"{{colour}} {noun}",
            f"a {adjective} {{colour}} backdrop",
        ),
        "against {}",
        {"pattern": style, "pattern_colour": "{colour}"},
        wholes=(f"a person in front of {{colour}} {noun}",),
    )


def _statue(colour: str) -> dict[str, str]:
    keys = ("skin", "hair", "beard_colour", "clothes_colour")
    return {**dict.fromkeys(keys, colour), "eyes": "default", "glasses": "none"}


_FACIAL = (
    _coloured(
        "hair",
        "facial",
        ("{colour} hair", "hair dyed {colour}", "{colour} coloured hair"),
        "with {}",
        {"hair": "{colour}"},
        _HAIR,
        ("a person whose hair is {colour}",),
    ),
    _coloured(
        "skin",
        "facial",
        ("{colour} skin", "skin that is {colour}", "{colour} coloured skin"),
        "with {}",
        {"skin": "{colour}"},
        _SKIN,
        ("a person whose skin is {colour}",),
    ),
    _beard("full_beard", "beardMajestic", "full beard", "a big bushy beard"),
    _beard("short_beard", "beardLight", "short beard", "a trimmed beard"),
    _beard("moustache", "moustacheMagnum", "moustache", "facial hair on the upper lip"),
    _coloured(
        "glowing_eyes",
        "facial",
        ("glowing {colour} eyes", "eyes that glow {colour}", "shining {colour} eyes"),
        "with {}",
        {"eye_glow": "{colour}"},
        wholes=("a person whose eyes glow {colour}",),
        hides=("eyes",),
    ),
    _coloured(
        "face_paint",
        "facial",
        ("{colour} face paint", "cheeks painted {colour}", "{colour} war paint on the cheeks"),
        "with {}",
        {"face_paint": "{colour}"},
        wholes=("a person with stripes of {colour} on the face",),
    ),
    _named(
        "expression",
        "facial",
        ("{it} expression", "{it} face", "{it} look"),
        "with {}",
        {
            "a happy": "eyes=happy, eyebrows=raisedExcited, mouth=smile",
            "a laughing": "eyes=closed, eyebrows=raisedExcited, mouth=smile",
            "an angry": "eyes=squint, eyebrows=angry, mouth=grimace",
            "a furious": "eyes=squint, eyebrows=angry, mouth=screamOpen",
            "a sad": "eyes=default, eyebrows=sadConcerned, mouth=sad",
            "a crying": "eyes=cry, eyebrows=sadConcerned, mouth=sad",
            "a worried": "eyes=default, eyebrows=sadConcerned, mouth=concerned",
            "a surprised": "eyes=surprised, eyebrows=raisedExcited, mouth=disbelief",
            "a screaming": "eyes=surprised, eyebrows=raisedExcited, mouth=screamOpen",
            "a disgusted": "eyes=squint, eyebrows=frownNatural, mouth=vomit",
            "a silly": "eyes=winkWacky, eyebrows=upDown, mouth=tongue",
            "a winking": "eyes=wink, eyebrows=upDown, mouth=twinkle",
            "a sleepy": "eyes=closed, eyebrows=flatNatural, mouth=serious",
            "a bored": "eyes=eyeRoll, eyebrows=flatNatural, mouth=serious",
            "a lovestruck": "eyes=hearts, eyebrows=raisedExcited, mouth=smile",
            "a dizzy": "eyes=xDizzy, eyebrows=upDown, mouth=disbelief",
            "a sceptical": "eyes=side, eyebrows=upDown, mouth=serious",
            "a calm": "eyes=closed, eyebrows=default, mouth=twinkle",
        },
    ),
    _named(
        "eyes",
        "facial",
        ("{it} eyes", "a pair of {it} eyes", "eyes that look {it}"),
        "with {}",
        {
            "closed": "eyes=closed",
            "wide open": "eyes=surprised",
            "heart-shaped": "eyes=hearts",
            "crossed-out": "eyes=xDizzy",
            "rolling": "eyes=eyeRoll",
            "winking": "eyes=wink",
            "squinting": "eyes=squint",
            "tearful": "eyes=cry",
        },
    ),
    _named(
        "age",
        "facial",
        ("{it}", "someone who looks like {it}", "somebody resembling {it}"),
        "as {}",
        {
            "an elderly person": (
                "hair=silver, beard_colour=silver, wrinkles=deep, "
                "glasses=prescription02, glasses_colour=charcoal"
            ),
            "a very old person": "hair=white, beard_colour=white, wrinkles=deep, glasses=none",
            "a middle-aged person": "hair=ash grey, beard_colour=ash grey, wrinkles=light",
            "a balding old person": "top=sides, hair=silver, beard_colour=silver, wrinkles=deep",
            "an old person with a white beard": (
                "hair=white, beard=beardMedium, beard_colour=white, wrinkles=light"
            ),
            "a baby": "top=none, beard=none, glasses=none, eyes=surprised, mouth=twinkle",
        },
    ),
)

_CHARACTERISTIC = (
    _coloured(
        "background",
        "characteristic",
        ("a {colour} background", "a background painted {colour}", "a plain {colour} backdrop"),
        "on {}",
        {"background": "{colour}"},
        wholes=("a person in front of a {colour} wall",),
    ),
    _pattern("striped_background", "striped", "stripes", "stripes"),
    _pattern("dotted_background", "dotted", "polka dots", "dots"),
    _pattern("checked_background", "checked", "checks", "checks"),
    _pattern("sunburst_background", "radiating", "sun rays", "rays"),
    _coloured(
        "clothes",
        "characteristic",
        ("{colour} clothes", "clothes in {colour}", "{colour} clothing"),
        "wearing {}",
        {"clothes_colour": "{colour}"},
        wholes=("a person dressed in {colour}",),
    ),
    _garment("hoodie", "a hoodie", "a hooded sweatshirt", "hoodie"),
    _garment("overalls", "overalls", "dungarees", "overall"),
    _garment("blazer", "a blazer", "a suit jacket", "blazerAndShirt"),
    _hat("beanie", "a beanie", "a knitted winter cap", "winterHat03"),
    _hat("cat_ear_beanie", "a cat-ear beanie", "a knitted cap with cat ears", "winterHat04"),
    _hat("earflap_hat", "a knitted earflap hat", "a woollen hat with earflaps", "winterHat02"),
    _hat("trapper_hat", "a trapper hat", "a furry hat with ear covers", "winterHat1"),
    _hat("wide_brimmed_hat", "a wide-brimmed hat", "a big sun hat", "hat"),
    _hat("turban", "a turban", "a wrapped head cloth", "turban"),
    _hat("headscarf", "a headscarf", "a hijab", "hijab"),
    _glasses("glasses", "glasses", "spectacles", "prescription01"),
    _glasses("round_glasses", "round glasses", "circular spectacles", "round"),
    _glasses("sunglasses", "sunglasses", "dark shades", "wayfarers", dark=True),
    _glasses("goggles", "oversized sunglasses", "big oval shades", "kurt", dark=True),
    _glasses("eyepatch", "a eyepatch", "a patch over one eye", "eyepatch"),
    _worn("scarf", "a scarf", "a winter scarf", {"scarf": "{colour}"}),
    _worn("eye_mask", "a superhero mask", "a mask around the eyes", {"mask": "{colour}"}),
    _worn("crown", "a crown", "a royal crown", {"crown": "{colour}"}, hides=("top",)),
    _worn("headphones", "headphones", "big headphones", {"headphones": "{colour}"}),
    _worn("horns", "devil horns", "a pair of horns", {"horns": "{colour}"}, hides=("top",)),
    _worn("halo", "a halo", "a glowing ring above the head", {"halo": "{colour}"}),
    _named(
        "hairstyle",
        "characteristic",
        ("{it}", "hair styled as {it}", "the hairstyle {it}"),
        "with {}",
        {
            "big flowing hair": "top=bigHair",
            "a bob haircut": "top=bob",
            "hair in a bun": "top=bun",
            "big curly hair": "top=curly",
            "long wavy hair": "top=curvy",
            "long dreadlocks": "top=dreads",
            "short dreadlocks": "top=dreads01",
            "wild spiky hair": "top=dreads02",
            "flowers in the hair": "top=frida",
            "a quiff": "top=frizzle",
            "an afro": "top=fro",
            "an afro with a headband": "top=froBand",
            "shoulder-length hair": "top=longButNotTooLong",
            "a blunt bob with a fringe": "top=miaWallace",
            "shaggy hair": "top=shaggy",
            "a mullet": "top=shaggyMullet",
            "long hair with shaved sides": "top=shavedSides",
            "short curly hair": "top=shortCurly",
            "short flat hair": "top=shortFlat",
            "a short round haircut": "top=shortRound",
            "short wavy hair": "top=shortWaved",
            "long loose straight hair": "top=straight01",
            "very long straight hair": "top=straight02",
            "straight hair with a loose strand": "top=straightAndStrand",
            "a buzz cut": "top=theCaesar",
            "a buzz cut with a side parting": "top=theCaesarAndSidePart",
        },
    ),
    _named(
        "baldness",
        "characteristic",
        ("{it}", "the look of {it}", "{it} without much hair"),
        "with {}",
        {"a bald head": "top=none", "a balding head": "top=sides"},
        hides=("hair",),
    ),
    _coloured(
        "statue",
        "characteristic",
        (
            "a {colour} statue",
            "a statue carved from {colour} stone",
            "a sculpture in solid {colour}",
        ),
        "as {}",
        _statue("{colour}"),
        (
            "gold",
            "silver",
            "copper",
            "rust",
            "white",
            "black",
            "emerald",
            "teal",
            "tan",
            "cream",
            "grey",
            "rose",
            "lavender",
            "navy",
            "icy blue",
            "brown",
        ),
        ("a person turned into {colour} stone",),
    ),
    _named(
        "persona",
        "characteristic",
        ("{it}", "somebody dressed up as {it}", "a character who is {it}"),
        "as {}",
        {
            "a white walker": (
                "skin=icy blue, hair=white, beard_colour=white, eye_glow=cyan, "
                "clothes_colour=charcoal"
            ),
            "a zombie": (
                "skin=zombie green, hair=olive, eyes=xDizzy, mouth=vomit, clothes_colour=brown"
            ),
            "an albino": "skin=albino, hair=platinum blond, beard_colour=platinum blond",
            "a pirate": (
                "glasses=eyepatch, glasses_colour=black, beard=beardMedium, "
                "beard_colour=dark brown, top=hat, hat=black"
            ),
            "a clown": (
                "skin=white, top=fro, hair=red, face_paint=red, clothes_colour=yellow, mouth=smile"
            ),
            "an alien": "skin=lime, top=none, beard=none, eye_glow=black, clothes_colour=silver",
            "a vampire": (
                "skin=deathly pale, hair=black, beard=none, eye_glow=red, "
                "clothes=blazerAndShirt, clothes_colour=black"
            ),
            "a devil": "skin=red, horns=burgundy, clothes_colour=black",
            "an angel": "halo=gold, hair=blond, clothes_colour=white",
            "a wizard": (
                "top=hat, hat=indigo, beard=beardMajestic, beard_colour=white, "
                "clothes_colour=indigo"
            ),
            "a witch": "top=hat, hat=black, skin=zombie green, clothes_colour=black",
            "a king": "crown=gold, beard=beardMedium, beard_colour=brown, clothes_colour=crimson",
            "a queen": "crown=gold, top=straight01, beard=none, clothes_colour=purple",
            "a superhero": "mask=red, scarf=red, clothes_colour=blue",
            "a burglar": "mask=black, top=winterHat03, hat=black, clothes_colour=charcoal",
            "a ninja": "top=hijab, hat=black, clothes_colour=black, beard=none",
            "a nerd": (
                "glasses=prescription01, glasses_colour=black, top=shortFlat, "
                "clothes=collarAndSweater, clothes_colour=olive"
            ),
            "a punk": "top=frizzle, hair=magenta, clothes_colour=black",
            "a goth": "hair=black, skin=deathly pale, clothes_colour=black, face_paint=black",
            "a hippie": "top=froBand, glasses=round, glasses_colour=violet, clothes_colour=orange",
            "a farmer": "top=hat, hat=tan, clothes=overall, clothes_colour=blue",
            "a lumberjack": (
                "top=winterHat03, hat=rust, beard=beardMajestic, "
                "beard_colour=chestnut, clothes_colour=red"
            ),
            "Santa Claus": (
                "top=winterHat03, hat=red, beard=beardMajestic, beard_colour=white, "
                "clothes_colour=red"
            ),
            "a snow-covered person": "hair=white, beard_colour=white, clothes_colour=white",
            "a mermaid": "top=bigHair, hair=turquoise, beard=none, clothes_colour=emerald",
            "a fairy": "top=frida, hair=pink, beard=none, clothes_colour=lavender",
            "a rock star": (
                "top=dreads, glasses=wayfarers, glasses_colour=black, clothes_colour=black"
            ),
            "a film star": (
                "top=bob, beard=none, glasses=kurt, glasses_colour=white, "
                "clothes=blazerAndShirt, clothes_colour=crimson"
            ),
            "a radio host": "headphones=black, clothes=hoodie, clothes_colour=grey",
            "an ogre": "skin=olive, top=none, beard=none, mouth=grimace, clothes_colour=brown",
            "a werewolf": (
                "skin=brown, hair=dark brown, beard=beardMajestic, "
                "beard_colour=dark brown, eye_glow=gold"
            ),
            "a ghost": (
                "skin=white, hair=silver, beard_colour=silver, clothes_colour=white, eye_glow=black"
            ),
        },
    ),
)


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
    return _coloured(name, "art", templates, "as {}", edit, colours)


def _graded(
    name: str, templates: tuple[str, ...], grades: dict[str, str], join: str = "as {}"
) -> Family:
    """A filter with a strength: `grades` maps the word in the text to the strength."""
    return _named(
        name,
        "art",
        templates,
        join,
        {word: f"filter={name}, strength={grade}" for word, grade in grades.items()},
    )


_DARK = ("black", "charcoal", "navy", "indigo", "purple", "plum", "burgundy", "brown", "rust",
         "forest green", "teal", "blue")  # fmt: skip
_LIGHT = ("white", "cream", "peach", "coral", "orange", "gold", "yellow", "lime", "mint",
          "turquoise", "sky blue", "lavender", "pink", "silver")  # fmt: skip
_TRIADS = (
    ("navy", "red", "cream"), ("indigo", "magenta", "yellow"), ("black", "orange", "cream"),
    ("purple", "turquoise", "yellow"), ("burgundy", "coral", "mint"),
    ("forest green", "gold", "pink"), ("teal", "salmon", "white"), ("blue", "lime", "white"),
    ("plum", "rose", "sky blue"), ("charcoal", "cyan", "peach"), ("brown", "tan", "turquoise"),
    ("black", "red", "yellow"),
)  # fmt: skip

_ART = (
    _family(
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
    _family(
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
    _family(
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
            for c in (
                "red",
                "orange",
                "gold",
                "lime",
                "emerald",
                "cyan",
                "blue",
                "violet",
                "magenta",
                "pink",
                "white",
                "black",
            )
            for text, side in (
                ("above", "top"),
                ("below", "bottom"),
                ("the left", "left"),
                ("the right", "right"),
            )
        ],
    ),
    _family(
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
    _named(
        "palette",
        "art",
        ("a {it} picture", "a picture in {it} colours", "a {it} colour map"),
        "as {}",
        {
            word: f"filter=palette, palette={name}"
            for word, name in {
                "thermal camera": "thermal",
                "rainbow": "rainbow",
                "fire": "fire",
                "sunset": "sunset",
                "ocean": "ocean",
                "forest": "forest",
                "ice": "ice",
                "candy": "candy",
                "aurora": "aurora",
                "desert": "desert",
                "night vision": "night",
                "vaporwave": "vaporwave",
            }.items()
        },
    ),
    _graded(
        "sepia",
        ("a {it} sepia photograph", "a {it} old brown photo", "a {it} antique photograph"),
        {"faint": "slight", "moderate": "moderate", "classic": "strong", "deep": "extreme"},
    ),
    _graded(
        "posterise",
        (
            "a {it} posterised picture",
            "a picture {it} reduced to flat colours",
            "a {it} colour-reduced picture",
        ),
        {
            "slightly": "slight",
            "moderately": "moderate",
            "strongly": "strong",
            "extremely": "extreme",
        },
    ),
    _graded(
        "mosaic",
        (
            "a {it} pixelated picture",
            "a picture {it} tiled in squares",
            "a {it} tessellated mosaic",
        ),
        {
            "finely": "slight",
            "moderately": "moderate",
            "coarsely": "strong",
            "very coarsely": "extreme",
        },
    ),
    _graded(
        "blur",
        ("a {it} blurred photograph", "a {it} out-of-focus photo", "a {it} unsharp picture"),
        {
            "slightly": "slight",
            "moderately": "moderate",
            "strongly": "strong",
            "extremely": "extreme",
        },
    ),
    _graded(
        "oil",
        (
            "an oil painting with {it} strokes",
            "a canvas painted in {it} strokes",
            "a painting with {it} brushwork",
        ),
        {"fine": "slight", "medium": "moderate", "broad": "strong", "very broad": "extreme"},
    ),
    _graded(
        "watercolour",
        ("a {it} watercolour painting", "a {it} aquarelle", "a {it} wash of watercolours"),
        {"faint": "extreme", "pale": "strong", "light": "moderate", "rich": "slight"},
    ),
    _graded(
        "solarise",
        (
            "a {it} solarised photograph",
            "a photo {it} solarised in the darkroom",
            "a {it} solarised print",
        ),
        {
            "slightly": "slight",
            "moderately": "moderate",
            "strongly": "strong",
            "extremely": "extreme",
        },
    ),
    _graded(
        "scanlines",
        (
            "an old television picture with {it} scan lines",
            "a screen showing {it} scan lines",
            "a cathode-ray picture with {it} lines",
        ),
        {"faint": "slight", "visible": "moderate", "heavy": "strong", "black": "extreme"},
    ),
    _graded(
        "aberration",
        (
            "a picture with {it} colour fringes",
            "a 3D anaglyph with {it} colour shift",
            "a photo with {it} chromatic aberration",
        ),
        {"slight": "slight", "moderate": "moderate", "strong": "strong", "extreme": "extreme"},
    ),
    _named(
        "tone",
        "art",
        ("a {it} photograph", "a photo that is {it}", "a {it} picture"),
        "as {}",
        {
            word: f"filter=tone, tone={name}"
            for word, name in {
                "high contrast": "contrast",
                "harsh very high contrast": "harsh",
                "low contrast": "flat",
                "washed-out": "faded",
                "dark underexposed": "dark",
                "very dark": "night",
                "bright overexposed": "bright",
                "blown-out very bright": "blown",
                "black-and-white": "grey",
                "high contrast black-and-white": "noir",
                "muted": "muted",
                "vivid": "vivid",
                "extremely saturated": "saturated",
                "warm": "warm",
                "very warm": "hot",
                "cool": "cool",
                "very cold": "cold",
            }.items()
        },
    ),
    _named(
        "negative",
        "art",
        ("a {it} negative", "a {it} inverted picture", "a {it} film negative"),
        "as {}",
        {
            "colour": "filter=negative, tone=colour",
            "black-and-white": "filter=negative, tone=grey",
            "lightness-only": "filter=negative, tone=lightness",
        },
    ),
)

FAMILIES: dict[str, Family] = {f.name: f for f in (*_FACIAL, *_CHARACTERISTIC, *_ART)}
