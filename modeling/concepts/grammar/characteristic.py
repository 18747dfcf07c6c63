"""Families of the category "characteristic": backgrounds, clothes, things worn, characters."""

from __future__ import annotations

from modeling.concepts.grammar.family import Family, coloured, named


def _worn(
    name: str, noun: str, other: str, edit: dict[str, str], hides: tuple[str, ...] = ()
) -> Family:
    """Something worn, in every colour. `noun` begins with its article if it takes one."""
    article, _, bare = noun.partition(" ") if noun.startswith("a ") else ("", "", noun)
    head = f"{article} " if article else ""
    return coloured(
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
    return coloured(
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


CHARACTERISTIC = (
    coloured(
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
    coloured(
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
    named(
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
    named(
        "baldness",
        "characteristic",
        ("{it}", "the look of {it}", "{it} without much hair"),
        "with {}",
        {"a bald head": "top=none", "a balding head": "top=sides"},
        hides=("hair",),
    ),
    coloured(
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
    named(
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
