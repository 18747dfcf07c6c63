"""The methods of Table 1 by name, besides those that stage `evaluate` knows."""

from __future__ import annotations

from pipelines.config.schema import Config
from pipelines.config.sections.scoring import BASELINES
from pipelines.presentation.cells import ABOUT

E2GAN = "E²GAN"
E2GAN_BY_OURS = "E²GAN, our fine-tune"
"""As long as E²GAN and from zero LoRA, in the basis that the prediction's fine-tune has."""
AS_LONG = "prediction, E²GAN’s budget"
"""From the prediction, but trained as E²GAN is: does the head start last?"""
TITLES = {
    "pix2pix": "9 ResNet blocks, from scratch",
    "pix2pix-zero-distilled": "Co-Mod-GAN, from scratch",
    E2GAN: "the base with LoRA, from zero",
    E2GAN_BY_OURS: "from zero, in the collection’s basis",
    AS_LONG: "from the prediction, trained as long",
    **ABOUT,
}


def scratch_methods(config: Config) -> list[str]:
    """Those configured that train a whole network; none without concepts for them."""
    methods = [m for m in BASELINES if m in config.compare.methods]
    return methods if config.compare.scratch_concepts else []
