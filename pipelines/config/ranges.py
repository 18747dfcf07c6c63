"""Numbers and words in their ranges: what each key may be, whatever the others are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter

from pipelines.config.error import ConfigError
from pipelines.config.schema import Config


def choice(key: str, value: object, allowed: Sequence[object]) -> None:
    if value not in allowed:
        raise ConfigError(f"{key}={value}: must be one of {', '.join(str(a) for a in allowed)}")


GENERATOR_LEAST = {
    "fold": 1,
    "width": 1,
    "depth": 1,
    "heads": 1,
    "steps": 1,
    "batch": 1,
    "blocks_per_concept": 0,
    "text_noise": 0,
    "image_steps": 0,
    "image_gan": 0,
    "image_denoising": 0,
    "image_concepts": 1,
    "image_batch": 1,
    "checkpoint_every": 1,
    "workers": 1,
}

SCRATCH_LEAST = {
    "epochs": 1,
    "batch": 1,
    "l1_weight": 0,
    "gan_weight": 0,
    "constant": 0,
    "jitter": 0,
}

LANGUAGE_MODEL_LEAST = {
    "temperature": 0,
    "max_tokens": 1,
    "timeout_s": 0.001,
    "retries": 0,
    "rate": 0,
    "concurrency": 1,
    "batch": 1,
    "input_price": 0,
    "output_price": 0,
}

LEAST = {
    "seed": 0,
    **{f"serve.limits.{key}": 0 for key in ("a_minute", "burst", "a_day")},
    "repeats": 1,
    "max_error_fraction": 0,
    "images.size": 16,
    "images.count": 10,
    "images.paired": 1,
    "editing.pilots": 1,
    "editing.batch": 0,
    "editing.size": 0,
    "editing.inversions": 0,
    "editing.part": 1,
    "editing.least_images": 0,
    **{
        f"llm.{key}.{category}": 0
        for key in ("counts", "test", "val", "paraphrases")
        for category in ("art", "characteristic", "facial")
    },
    "llm.per_request": 1,
    "llm.paraphrased_together": 1,
    "llm.round_requests": 1,
    "llm.requests": 1,
    **{f"llm.writer.{key}": least for key, least in LANGUAGE_MODEL_LEAST.items()},
    **{f"llm.paraphraser.{key}": least for key, least in LANGUAGE_MODEL_LEAST.items()},
    "translator.width": 4,
    "translator.downs": 1,
    "translator.edge_kernel": 1,
    "translator.blocks": 1,
    "translator.heads": 1,
    "translator.feed_forward": 1,
    "discriminator.width": 1,
    "lora.rank": 1,
    "base.concepts": 1,
    "base.steps": 1,
    "base.batch": 1,
    "base.checkpoint_every": 1,
    "base.workers": 1,
    "gans.steps": 0,
    "gans.batch": 1,
    "gans.checkpoints": 1,
    "gans.concepts_per_batch": 0,
    "gans.pilots": 1,
    "gans.pilot_steps": 1,
    "ranks.steps": 0,
    "weights.block_size": 8,
    "weights.concepts": 0,
    **{f"generator.{key}": least for key, least in GENERATOR_LEAST.items()},
    **{f"rival.{key}": least for key, least in GENERATOR_LEAST.items()},
    "refine.steps": 0,
    "refine.iterations": 1,
    "refine.scored": 1,
    "refine.clip": 0,
    "refine.start_noise": 0,
    "refine.width": 1,
    "refine.depth": 1,
    "refine.heads": 1,
    "refine.concepts": 1,
    "refine.pairs": 2,
    "refine.checkpoint_every": 1,
    "refine.workers": 1,
    "refine.basis_concepts": 0,
    "starts.joint_steps": 0,
    "starts.reptile_steps": 0,
    "starts.concepts": 1,
    "starts.pairs": 1,
    "starts.inner_steps": 1,
    "adapt.steps": 0,
    "adapt.learned_steps": 0,
    "adapt.learned_pairs": 1,
    "adapt.batch": 1,
    "adapt.coreset": 1,
    "adapt.ddim_steps": 1,
    "evaluate.images": 1,
    "evaluate.scratch_steps": 0,
    "evaluate.scratch_concepts": 1,
    "compare.concepts": 0,
    "compare.scratch_concepts": 0,
    "compare.scratch_repeats": 1,
    "compare.images": 2,
    "compare.epochs": 1,
    "compare.e2gan_epochs": 1,
    "compare.coreset": 1,
    "compare.timed_repeats": 1,
    **{f"pix2pix.{key}": least for key, least in SCRATCH_LEAST.items()},
    "pix2pix.width": 1,
    "pix2pix.blocks": 1,
    "pix2pix.downs": 0,
    "pix2pix.discriminator_width": 1,
    "pix2pix.discriminator_layers": 1,
    **{f"comodgan.{key}": least for key, least in SCRATCH_LEAST.items()},
    "comodgan.channel_base": 1,
    "comodgan.channel_max": 1,
    "comodgan.z_dim": 1,
    "comodgan.w_dim": 1,
    "comodgan.mapping_layers": 1,
    "comodgan.r1": 0,
    "comodgan.r1_interval": 1,
    "comodgan.ema_images": 0,
    "comodgan.path_length": 0,
    "report.pictures": 0,
    "report.concepts": 0,
    "cluster.actors": 0,
    "cluster.stall_timeout_s": 1,
    "cluster.cpus_per_actor": 0,
    "cluster.gpus_per_actor": 0,
    "cluster.training_cpus": 0,
    "cluster.least_workers": 0,
    "cluster.nodes": 1,
    "cluster.gpus_per_node": 0,
    "plan.price": 0,
    "plan.overhead_s": 0,
}

RATES = (
    "base.lr",
    "gans.lr",
    "generator.lr",
    "generator.image_lr",
    "rival.lr",
    "rival.image_lr",
    "refine.lr",
    "starts.lr",
    "starts.rate",
    "adapt.lr",
    "adapt.basis_lr",
    "pix2pix.lr",
    "pix2pix.discriminator_lr",
    "comodgan.lr",
    "comodgan.discriminator_lr",
    "plan.gpu_tflops",
    "plan.editor_tflops",
    "plan.training_utilisation",
    "plan.finetune_utilisation",
    "plan.editor_utilisation",
    "plan.core_gflops",
    "plan.exact_edits_per_s",
    "plan.texts_per_s",
    "plan.texts_loaded_per_s",
    "plan.files_per_s",
    "plan.requests_per_s",
    "plan.write_mb_per_s",
)

FRACTIONS = (
    "translator.dropout",
    "gans.ema",
    "generator.ema",
    "rival.ema",
    "refine.ema",
    "adapt.ema",
    "pix2pix.dropout",
    "comodgan.dropout",
    "plan.training_utilisation",
    "plan.finetune_utilisation",
    "plan.editor_utilisation",
)


MAPPED_LEAST = {
    "lora.ranks": 1,
    "editing.exponents": 0,
    "editing.least": -1,
    "editing.steps": 1,
    "editing.guidance": 0,
    "editing.image_guidance": 0,
    "cluster.editor_actors": 1,
    "cluster.editor_gpus": 0,
    "plan.evaluations": 1,
}
"""Of every value in these mappings."""

MAPPED_RATES = ("editing.strength",)


def check_ranges(c: Config) -> None:
    """Raise ConfigError on a number out of its range, or that is none."""
    for key, least in LEAST.items():
        value = attrgetter(key)(c)
        if not least <= value < math.inf:  # nor NaN
            raise ConfigError(f"{key}={value}: must be at least {least}")
    for key in RATES:
        value = attrgetter(key)(c)
        if not 0 < value < math.inf:
            raise ConfigError(f"{key}={value}: must be more than 0")
    for key, least in MAPPED_LEAST.items():
        for name, value in attrgetter(key)(c).items():
            if not least <= value < math.inf:
                raise ConfigError(f"{key}.{name}={value}: must be at least {least}")
    for key in MAPPED_RATES:
        for name, value in attrgetter(key)(c).items():
            if not 0 < value < math.inf:
                raise ConfigError(f"{key}.{name}={value}: must be more than 0")
    for key in FRACTIONS:
        value = attrgetter(key)(c)
        if not 0 <= value < 1:
            raise ConfigError(f"{key}={value}: must lie in [0, 1)")
