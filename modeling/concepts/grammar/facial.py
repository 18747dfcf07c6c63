"""Families of the category "facial": hair, skin, beards, eyes, expressions and ages."""

from __future__ import annotations

from modeling.concepts.grammar.colours import CORE_COLOURS, HAIR_COLOURS, SKIN_COLOURS
from modeling.concepts.grammar.family import Family, coloured, named

_HAIR = (*CORE_COLOURS, *HAIR_COLOURS)
_SKIN = (*CORE_COLOURS, *SKIN_COLOURS)


def _beard(name: str, style: str, noun: str, other: str) -> Family:
    return coloured(
        name,
        "facial",
        (f"a {{colour}} {noun}", f"a {noun} dyed {{colour}}", f"{other} in {{colour}}"),
        "with {}",
        {"beard": style, "beard_colour": "{colour}"},
        _HAIR,
        (f"a person who has grown a {{colour}} {noun}",),
    )


FACIAL = (
    coloured(
        "hair",
        "facial",
        ("{colour} hair", "hair dyed {colour}", "{colour} coloured hair"),
        "with {}",
        {"hair": "{colour}"},
        _HAIR,
        ("a person whose hair is {colour}",),
    ),
    coloured(
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
    coloured(
        "glowing_eyes",
        "facial",
        ("glowing {colour} eyes", "eyes that glow {colour}", "shining {colour} eyes"),
        "with {}",
        {"eye_glow": "{colour}"},
        wholes=("a person whose eyes glow {colour}",),
        hides=("eyes",),
    ),
    coloured(
        "face_paint",
        "facial",
        ("{colour} face paint", "cheeks painted {colour}", "{colour} war paint on the cheeks"),
        "with {}",
        {"face_paint": "{colour}"},
        wholes=("a person with stripes of {colour} on the face",),
    ),
    named(
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
    named(
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
    named(
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
