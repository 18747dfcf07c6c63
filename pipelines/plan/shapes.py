"""The networks of a configuration, in weights, FLOPs and bytes, built without memory."""

from __future__ import annotations

from contextlib import suppress

from modeling.cost import TranslatorCost
from modeling.editors.avatars import portrait, render
from modeling.editors.registry import EXACT
from modeling.images import ImageError, PictureFolder, decode_image, encode_png
from modeling.weights.codec import BlockLayout
from pipelines.config.schema import Config
from pipelines.plan.counts import candidate_editors
from pipelines.stages.base import discriminator_config, translator_config

PHOTO_BYTES = 1.7
"""A photograph's PNG, bytes a pixel: FFHQ's own at 128×128, 1.95 GB for 70,000."""

FLOAT = 4

MOMENTS = 2
"""What Adam keeps beside each weight."""


def text_dim(config: Config) -> int:
    """Size of the text embedding; CLIP's (ViT-L) unless it is the packaged encoder's."""
    return 384 if config.text_encoder == "minilm" else 768


def png_bytes(config: Config) -> float:
    """Of one picture: a few of the source's own where they are there, else a photograph's."""
    size, count = config.images.size, 4
    if any(name not in EXACT for name in candidate_editors(config)):
        return PHOTO_BYTES * size**2
    if config.images.source == "avatars":
        return sum(len(encode_png(render(portrait(i), size))) for i in range(count)) / count
    sizes = _photo_bytes(config.images.path, size, count)
    return sum(sizes) / len(sizes) if sizes else PHOTO_BYTES * size**2


def _photo_bytes(where: str, size: int, count: int) -> list[int]:
    """PNG bytes of a folder's first pictures, without those that cannot be read here."""
    sizes: list[int] = []
    with suppress(ImageError):
        folder = PictureFolder(where)
        for file in folder.listing().pictures[:count]:
            with suppress(ImageError):
                sizes.append(len(encode_png(decode_image(folder.read(file.image_id), size))))
    return sizes


class Shapes:
    """The networks of a configuration without their weights, and what follows from their shapes."""

    def __init__(self, config: Config) -> None:
        dim = text_dim(config)
        self.cost = TranslatorCost(
            translator_config(config, dim),
            discriminator_config(config),
            config.images.size,
            config.lora.rank,
            config.lora.ranks,
        )
        adapted = self.cost.adapted
        self.layout = BlockLayout.build(
            adapted.shapes, adapted.groups, config.weights.grouping, config.weights.block_size
        )
        self.text_dim = dim
        # safetensors' header: each tensor's name, dtype, shape and place; PEFT's JSON: its keys and
        # the layers (to write it takes an import of seconds)
        header = sum(len(name) + 64 for name in adapted.shapes)
        layers = sum(len(name) for name in adapted.shapes if ".lora_A." in name)
        self.adapter_bytes = FLOAT * adapted.n_weights + header + 900 + layers
