"""Source images: where they are, and which of them are for training, validation and test."""

from __future__ import annotations

import random

from pipelines.config.sections.data import Images

COMPARED = 2
"""Pictures on each side that a kernel distance needs, which leaves out each one's with itself."""


def location(images: Images) -> str:
    """What modeling.editors.registry calls the source: "avatars", or a folder."""
    return "avatars" if images.source == "avatars" else images.path


def split_images(image_ids: list[str], seed: int) -> dict[str, str]:
    """80 % train, 10 % validation, 10 % test of the images (paper Sec. 5.1), by the seed."""
    shuffled = sorted(image_ids)
    random.Random(f"images-{seed}").shuffle(shuffled)
    tenth = max(1, len(shuffled) // 10)
    held = {i: "test" for i in shuffled[:tenth]} | {i: "val" for i in shuffled[tenth : 2 * tenth]}
    return {i: held.get(i, "train") for i in image_ids}
