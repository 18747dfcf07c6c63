"""Editors turn a source picture into its edited twin; sources are loaded by their ids.

The editors here are exact: they need no network. The diffusion editors (modeling/diffusion_editors)
implement the same protocol. A new editor is one class and one line in REGISTRY.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from modeling.avatars import ATTRIBUTES, portrait, render
from modeling.concepts.grammar import FAMILIES
from modeling.concepts.planning import Concept
from modeling.filters import FILTER_KEYS, apply_filter
from modeling.images import ImageError, decode_image, list_images

AVATARS = "avatars"


class EditError(ValueError):
    """An editor that does not exist, or a concept or a source that it cannot edit."""


@dataclass(frozen=True)
class Source:
    """A picture to edit: uint8 [H, W, 3]; `avatar_seed` is set where it is a drawn portrait."""

    image_id: str
    image: np.ndarray = field(repr=False)
    avatar_seed: int | None = None


@dataclass(frozen=True)
class EditResult:
    """The edited picture, uint8 of the source's shape, and the editor's scores of it.

    Scores are higher the better, except "change", which is `change`.
    """

    image: np.ndarray = field(repr=False)
    scores: dict[str, float]


class Editor(Protocol):
    """Edits pictures to one concept; the same inputs give the same pictures."""

    @property
    def name(self) -> str:
        """The editor's name in the registry."""

    def supports(self, family: str) -> bool:
        """Tell whether the editor can apply the concepts of this family."""

    def edit(self, sources: Sequence[Source], concept: Concept) -> list[EditResult | EditError]:
        """Edit each of `sources`; a failed one gives its EditError, and the others are not lost."""


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
            return EditError(f"{type(error).__name__}: {error}")


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


def _diffusion(module: str, kind: str) -> Callable[..., Editor]:
    """Makes a diffusion editor; diffusers is imported only then."""

    def make(**options: Any) -> Editor:
        from modeling.diffusion_editors.core import EditorOptions

        editors = importlib.import_module(f"modeling.diffusion_editors.{module}")
        editor: Editor = getattr(editors, kind)(EditorOptions(**options))
        return editor

    return make


# Name -> how to make the editor. One line adds one.
EXACT: dict[str, Callable[..., Editor]] = {"avatar": AvatarEditor, "filter": FilterEditor}
DIFFUSION: dict[str, Callable[..., Editor]] = {
    "img2img": _diffusion("img2img", "ImageToImage"),
    "instruct_pix2pix": _diffusion("instruct_pix2pix", "InstructPix2Pix"),
    "null_text": _diffusion("null_text", "NullTextInversion"),
    "controlnet": _diffusion("controlnet", "ControlNet"),
    "instruct_diffusion": _diffusion("instruct_diffusion", "InstructDiffusion"),
    "pix2pix_zero": _diffusion("pix2pix_zero", "Pix2PixZero"),
}
REGISTRY = EXACT | DIFFUSION


def supports(name: str) -> Callable[[str], bool]:
    """Whether the editor can apply a family's concepts; a diffusion model takes any text."""
    return EXACT[name]().supports if name in EXACT else lambda family: True


def make_editor(name: str, **options: Any) -> Editor:
    """Make the editor registered as `name`; raises EditError that lists the names otherwise.

    options: of a diffusion editor, see EditorOptions.
    """
    if name not in REGISTRY:
        raise EditError(f"unknown editor {name!r}: use one of {', '.join(REGISTRY)}")
    return REGISTRY[name](**options)


def source_ids(source: str | Path, count: int = 0, first_seed: int = 0) -> list[str]:
    """List the ids of the first `count` source pictures.

    source: "avatars" (portraits of the seeds first_seed, first_seed + 1, ...) or a folder of
    pictures, whose ids are file names; count 0 takes the whole folder.
    Raises ImageError when a folder is missing or too small, or avatars are asked for without
    a count.
    """
    if count < 0 or first_seed < 0:
        raise ImageError(f"count and first_seed must not be negative: {count}, {first_seed}")
    if str(source) == AVATARS:
        if count == 0:
            raise ImageError("say how many avatars: they have no end, so count must be 1 or more")
        return [f"avatar-{seed:07d}" for seed in range(first_seed, first_seed + count)]
    names = [path.name for path in list_images(source)]
    if count > len(names):
        raise ImageError(f"{count} pictures wanted, but {source} holds {len(names)}")
    return names[: count or None]


def load_source(image_id: str, source: str | Path, size: int) -> Source:
    """Load one source by its id at [size, size, 3].

    Raises ImageError for a corrupt or missing file and for an id that is not of this source.
    """
    if str(source) == AVATARS:
        prefix, _, digits = image_id.partition("-")
        if prefix != "avatar" or not (digits.isascii() and digits.isdigit()):
            raise ImageError(f"{image_id!r} is no avatar's id (avatar-0000000)")
        return Source(image_id, render(portrait(int(digits)), size), int(digits))
    if Path(image_id).name != image_id:
        raise ImageError(f"{image_id!r} is no file name inside {source}")
    path = Path(source) / image_id
    try:
        return Source(image_id, decode_image(path.read_bytes(), size))
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error}") from error
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def avatar_sources(count: int, size: int, first_seed: int = 0) -> Iterator[Source]:
    """Yield `count` portraits, each drawn when it is asked for."""
    ids = source_ids(AVATARS, count, first_seed)
    return (load_source(image_id, AVATARS, size) for image_id in ids)


def folder_sources(path: str | Path, size: int) -> Iterator[Source]:
    """Yield the pictures of a folder in the order of their names; raises ImageError."""
    ids = source_ids(path)
    return (load_source(image_id, path, size) for image_id in ids)


# Name -> the function that yields sources, for callers that need no ids.
SOURCES: dict[str, Callable[..., Iterator[Source]]] = {
    AVATARS: avatar_sources,
    "folder": folder_sources,
}


def _check_edit(editor: str, concept: Concept, allowed: frozenset[str]) -> None:
    if not concept.edit:
        raise EditError(f"the concept {concept.text!r} has no exact edit: use a diffusion editor")
    foreign = sorted(set(concept.edit) - allowed)
    if foreign:
        raise EditError(f"the editor {editor!r} cannot do {concept.text!r}: it sets {foreign}")


def change(source: np.ndarray, edited: np.ndarray) -> float:
    """Mean |edited - source| / 255 of two uint8 pictures of one shape."""
    return float(np.abs(edited.astype(np.int16) - source.astype(np.int16)).mean()) / 255


def _result(source: Source, image: np.ndarray) -> EditResult:
    return EditResult(image, {"exactness": 1.0, "change": change(source.image, image)})
