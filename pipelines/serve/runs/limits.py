"""What a request to a run may hold, from the run's configuration."""

from __future__ import annotations

from pipelines.config.schema import Config
from pipelines.serve.runs.served import Limits
from pipelines.use.finetune_editors import editors


def limits(config: Config) -> Limits:
    """config: what `saved_config` gave."""
    s, a, g = config.serve, config.adapt, config.generator
    sequential = g.block_conditioning == "previous"  # which can be recovered directly only
    return Limits(
        max_text=s.max_text,
        max_image_bytes=s.max_image_bytes,
        max_pixels=s.max_pixels,
        size=config.images.size,
        # DDIM visits as many distinct time steps between t and 0 as it takes steps
        t_min=max(g.t_min, a.ddim_steps - 1 if a.sampler == "ddim" else 0),
        t_max=999,
        t=a.t,
        steps=a.ddim_steps if a.sampler == "ddim" else 1,
        max_steps=1 if sequential else s.max_steps,
        max_pairs=s.max_pairs,
        max_train_steps=s.max_finetune_steps,
        train_steps=min(a.steps, s.max_finetune_steps),
        learned_steps=a.learned_steps,
        max_upload_bytes=s.max_upload_bytes,
        editors=tuple(editors(config)),
        avatars=config.images.source == "avatars",
        max_ongoing=s.max_ongoing,
        max_queued=s.max_queued,
    )
