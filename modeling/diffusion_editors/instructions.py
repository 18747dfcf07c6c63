"""What a diffusion editor is told for a concept, by method and category."""

from __future__ import annotations

from collections.abc import Mapping

from modeling.concepts import Concept

TEMPLATES: Mapping[str, Mapping[str, str]] = {
    # describes the result
    "prompt": {
        "facial": "a photo of a person, {text}",
        "characteristic": "a photo of a person, {text}",
        "art": "a portrait of a person, {text}",
        "combined": "a portrait of a person, {text}",
    },
    # says what to do
    "instruction": {
        "facial": "change the face of the person: {text}",
        "characteristic": "change the person: {text}",
        "art": "change the style of the picture: {text}",
        "combined": "change the picture of the person: {text}",
    },
}


def instruction(
    style: str, concept: Concept, templates: Mapping[str, Mapping[str, str]] = TEMPLATES
) -> str:
    """The text for one concept; `templates` (as TEMPLATES, any part of it) go first."""
    given = templates.get(style, {}).get(concept.category)
    template = given or TEMPLATES[style][concept.category]
    return template.replace("{text}", concept.text)
