"""Exact editors: they draw the true edit of a picture and need no network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from modeling.concepts.concept import Concept
from modeling.concepts.grammar.families import FAMILIES
from modeling.editors.avatars import ATTRIBUTES, portrait, render
from modeling.editors.filters import FILTER_KEYS, apply_filter
from modeling.editors.interface import EditError, EditResult, Source, change
from modeling.reasons import one_line


class ExactEditor(ABC):
    """An editor that draws one picture at a time."""

    @abstractmethod
    def draw(self, source: Source, concept: Concept) -> EditResult:
        """Edit one picture; raises EditError where that is impossible."""

    def edit(self, sources: Sequence[Source], concept: Concept) -> list[EditResult | EditError]:
        """Edit each picture; see Editor."""
        return [self._try(source, concept) for source in sources]

    def _try(self, source: Source, concept: Concept) -> EditResult | EditError:
        try:
            return self.draw(source, concept)
        except EditError as error:
            return error
        except Exception as error:  # one bad picture must not lose the others; it is recorded
            return EditError(f"{type(error).__name__}: {one_line(error)}")


class AvatarEditor(ExactEditor):
    """Draws the same portrait again with changed attributes, then applies an art filter."""

    name = "avatar"

    def supports(self, family: str) -> bool:
        """Every family of the grammar."""
        return family in FAMILIES

    def draw(self, source: Source, concept: Concept) -> EditResult:
        """Exact edit of a drawn portrait; raises EditError for any other source."""
        _check_edit(self.name, concept, frozenset(ATTRIBUTES) | FILTER_KEYS)
        if source.avatar_seed is None:
            raise EditError(
                f"the editor {self.name!r} cannot edit {source.image_id!r}: it is no drawn "
                "portrait; use the editor 'filter' for photographs"
            )
        height, width = source.image.shape[:2]
        if height != width:
            raise EditError(f"a portrait is square, {source.image_id!r} is {height} x {width}")
        attributes = {k: v for k, v in concept.edit.items() if k not in FILTER_KEYS}
        drawn = source.image
        if attributes:
            drawn = render(portrait(source.avatar_seed), height, attributes)
        return _result(source, apply_filter(drawn, concept.edit))


class FilterEditor(ExactEditor):
    """Applies an art filter to any picture."""

    name = "filter"

    def supports(self, family: str) -> bool:
        """The art families."""
        return family in FAMILIES and not FAMILIES[family].needs_avatar

    def draw(self, source: Source, concept: Concept) -> EditResult:
        """Exact edit of any picture; raises EditError for a concept that is no art filter."""
        _check_edit(self.name, concept, FILTER_KEYS)
        return _result(source, apply_filter(source.image, concept.edit))


def _check_edit(editor: str, concept: Concept, allowed: frozenset[str]) -> None:
    if not concept.edit:
        raise EditError(f"the concept {concept.text!r} has no exact edit: use a diffusion editor")
    foreign = sorted(set(concept.edit) - allowed)
    if foreign:
        raise EditError(f"the editor {editor!r} cannot do {concept.text!r}: it sets {foreign}")


def _result(source: Source, image: np.ndarray) -> EditResult:
    return EditResult(image, {"exactness": 1.0, "change": change(source.image, image)})
