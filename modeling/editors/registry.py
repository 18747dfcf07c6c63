"""Every editor by its name: exact ones (exact.py) and diffusion models (diffusion/).

A new editor is one class and one line here; a published model of few steps that runs by the code
of one is an entry of diffusion/recipes.yaml. An editor's libraries are imported when it is made:
its name, which the command line checks, costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from modeling.editors.diffusion.recipes import recipes

if TYPE_CHECKING:
    from modeling.editors.interface import Editor


def _exact(kind: str) -> Callable[..., Editor]:
    """Makes an exact editor."""

    def make() -> Editor:
        editor: Editor = getattr(importlib.import_module("modeling.editors.exact"), kind)()
        return editor

    return make


def _diffusion(module: str, kind: str) -> Callable[..., Editor]:
    """Makes a diffusion editor."""

    def make(**options: Any) -> Editor:
        from modeling.editors.diffusion.core import EditorOptions

        editors = importlib.import_module(f"modeling.editors.diffusion.{module}")
        editor: Editor = getattr(editors, kind)(EditorOptions(**options))
        return editor

    return make


def _recipe(name: str) -> Callable[..., Editor]:
    """Makes an editor by its recipe; options that are given go first."""

    def make(**options: Any) -> Editor:
        recipe = recipes()[name]
        return METHODS[recipe.method](**{"name": name, **recipe.options, **options})

    return make


# Name -> how to make the editor. One line adds one.
EXACT: dict[str, Callable[..., Editor]] = {
    "avatar": _exact("AvatarEditor"),
    "filter": _exact("FilterEditor"),
}
METHODS: dict[str, Callable[..., Editor]] = {
    "img2img": _diffusion("img2img", "ImageToImage"),
    "instruct_pix2pix": _diffusion("instruct_pix2pix", "InstructPix2Pix"),
    "null_text": _diffusion("null_text", "NullTextInversion"),
    "controlnet": _diffusion("controlnet", "ControlNet"),
    "instruct_diffusion": _diffusion("instruct_diffusion", "InstructDiffusion"),
    "pix2pix_zero": _diffusion("pix2pix_zero", "Pix2PixZero"),
    "flux2_klein": _diffusion("flux2_klein", "Flux2Klein"),
}
DIFFUSION = METHODS | {name: _recipe(name) for name in recipes()}
REGISTRY = EXACT | DIFFUSION


def supports(name: str) -> Callable[[str], bool]:
    """Whether the editor can apply a family's concepts; a diffusion model takes any text."""
    return EXACT[name]().supports if name in EXACT else lambda family: True


def make_editor(name: str, **options: Any) -> Editor:
    """Make the editor registered as `name`; raises EditError that lists the names otherwise.

    options: of a diffusion editor, see EditorOptions.
    """
    if name not in REGISTRY:
        from modeling.editors.interface import EditError

        raise EditError(f"unknown editor {name!r}: use one of {', '.join(REGISTRY)}")
    return REGISTRY[name](**options)
