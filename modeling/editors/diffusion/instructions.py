"""What a diffusion editor is told for a concept, by method and category."""

from __future__ import annotations

from collections.abc import Mapping

from modeling.concepts.concept import Concept
from modeling.editors.interface import EditError

TEMPLATES: Mapping[str, Mapping[str, str]] = {
    # describes the result
    "prompt": {
        "facial": "a photo of a person, {text}",
        "characteristic": "a photo of a person, {text}",
        "art": "a portrait of a person, {text}",
        "combined": "a portrait of a person, {text}",
    },
    # names who is to be seen, inside other sentences
    "subject": {
        "facial": "a person with {text}",
        "characteristic": "a person, {text}",
        "art": "a person, {text}",
        "combined": "a person, {text}",
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


def check_templates(templates: Mapping[str, Mapping[str, str]]) -> None:
    """Raise EditError for an unknown style or category, or a template without {text}."""
    for style, by_category in templates.items():
        if style not in TEMPLATES:
            raise EditError(f"templates.{style}: the styles are {', '.join(TEMPLATES)}")
        for category, template in by_category.items():
            if category not in TEMPLATES[style]:
                known = ", ".join(TEMPLATES[style])
                raise EditError(f"templates.{style}.{category}: the categories are {known}")
            if "{text}" not in template:
                raise EditError(f"templates.{style}.{category}: must contain {{text}}")
