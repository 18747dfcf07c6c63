"""Editors that may make a fine-tune's pairs, and what they can edit."""

from __future__ import annotations

from modeling.concepts.concept import Concept, concept_id
from modeling.concepts.saying import parse_concept
from modeling.editors.registry import EXACT, supports
from pipelines.config.derived import resolve_editor
from pipelines.config.schema import Config
from pipelines.use.finetune_request import FinetuneError, Request


def editors(config: Config) -> list[str]:
    """Editors that a client may name: those that can edit this run's kind of pictures."""
    exact = ["avatar", "filter"] if config.images.source == "avatars" else ["filter"]
    own = resolve_editor(config)
    return exact if own in (*exact, "best") else [*exact, own]


def check(config: Config, request: Request) -> None:
    """FinetuneError if the editor cannot be named or cannot make this edit."""
    if not request.editor:
        return
    if request.editor not in editors(config):
        raise FinetuneError(f"editor: must be one of {', '.join(editors(config))}")
    concept_of(request.concept, request.editor)


def concept_of(text: str, editor: str) -> Concept:
    """What an editor is asked for; FinetuneError if it cannot make that edit."""
    concept = parse_concept(text)
    if editor in EXACT:
        if concept is None or not all(supports(editor)(f) for f in concept.families):
            raise FinetuneError(
                f"the editor {editor!r} cannot make this edit: upload pairs, or say it as"
                " one of the run's concepts does (GET /v1/concepts/nearest)"
            )
        return concept
    return concept or Concept(concept_id(text), text, "characteristic", (), "test")
