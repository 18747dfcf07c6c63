"""The pairs of a fine-tune that an editor of the run makes."""

from __future__ import annotations

import numpy as np

from modeling.editors.interface import EditError, EditResult, Source
from modeling.editors.registry import make_editor
from modeling.editors.sources import AVATARS, ChangedPictureError, load_source, source_ids
from modeling.images import ImageError
from pipelines.config.schema import Config
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.editing import editor_options
from pipelines.stages.source_list import sources_of
from pipelines.stages.sources import location
from pipelines.use.finetune_editors import concept_of
from pipelines.use.finetune_request import FinetuneError

FRESH = 2 * 10**6
"""First of the avatars that fine-tunes are given: none is among the pairs or is judged on."""
TESTED = 16
"""Pictures, besides those trained on, that an editor makes to score the fine-tune."""

Pairs = list[tuple[np.ndarray, np.ndarray]]
"""Source and edit, uint8 [S, S, 3] each."""


def edited_pairs(config: Config, run: RunDir, text: str, editor: str, images: int) -> Pairs:
    """`images` pairs to train on and TESTED more, the last, to score it.

    FinetuneError if the editor cannot make the edit; fewer where it fails on some.
    """
    sources = _sources(config, run, images + TESTED)
    made = make_editor(editor, **editor_options(config, editor))
    results = made.edit(sources, concept_of(text, editor))
    pairs = [
        (s.image, r.image)
        for s, r in zip(sources, results, strict=True)
        if isinstance(r, EditResult)
    ]
    if len(pairs) <= TESTED:
        error = next(r for r in results if isinstance(r, EditError))
        raise FinetuneError(f"the editor made {len(pairs)} of {len(sources)} pictures: {error}")
    return pairs


def _sources(config: Config, run: RunDir, count: int) -> list[Source]:
    """Fresh avatars, or the first of the run's own pictures that can be read."""
    size, where = config.images.size, location(config.images)
    if where == AVATARS:
        return [load_source(name, where, size) for name in source_ids(where, count, FRESH)]
    sources: list[Source] = []
    for name, recorded in sources_of(config, run).items():
        if len(sources) == count:
            break
        try:
            sources.append(load_source(name, where, size, recorded))
        except ImageError as error:  # as `pairs` left it out
            log(f"finetune: {error}")
        except ChangedPictureError as error:
            log(f"finetune: {error}")
            raise FinetuneError(f"the picture {name} is not the one that the run has") from error
    if len(sources) < count:
        most = len(sources) - TESTED
        raise FinetuneError(f"the run has {len(sources)} pictures: images can be {most} at most")
    return sources
