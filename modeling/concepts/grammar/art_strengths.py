"""Families of the category "art" whose atoms differ in strength, or by the name of a setting."""

from __future__ import annotations

from modeling.concepts.grammar.family import Family, named


def _graded(
    name: str, templates: tuple[str, ...], grades: dict[str, str], join: str = "as {}"
) -> Family:
    """A filter with a strength: `grades` maps the word in the text to the strength."""
    return named(
        name,
        "art",
        templates,
        join,
        {word: f"filter={name}, strength={grade}" for word, grade in grades.items()},
    )


_ADVERBS = {
    "slightly": "slight",
    "moderately": "moderate",
    "strongly": "strong",
    "extremely": "extreme",
}

ART_STRENGTHS = (
    named(
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
        _ADVERBS,
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
        _ADVERBS,
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
        _ADVERBS,
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
    named(
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
    named(
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
