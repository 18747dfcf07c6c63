"""The paper's Table 1, and what a reader must know before putting ours beside it."""

from __future__ import annotations

from typing import Any

from pipelines.comparison.methods import E2GAN
from pipelines.config.schema import Config
from pipelines.stages.contenders import PREDICTION

PAPER = {
    "pix2pix-zero-distilled": {"fd": 144.81, "seconds": 112 * 60.0, "epochs": 200},
    "pix2pix": {"fd": 99.20, "seconds": 659.8, "epochs": 200},
    E2GAN: {"fd": 93.86, "seconds": 198.5, "epochs": 100},
    PREDICTION: {"fd": 89.93, "seconds": 43.3, "epochs": 20},
}
"""Clean-FID, mean over 45 held-out concepts, and seconds on one H100."""


def differences(config: Config, summary: dict[str, Any]) -> list[str]:
    """In sentences; summary: as of `numbers.summarise`, with `times`."""
    c = config
    times = summary["times"]["machine"]
    where = times["gpu"] or f"{times['processor']}, {times['cores']} cores"
    features = summary["features"] or "no features"
    out = [
        f"Images are {c.images.size}×{c.images.size} (paper: 256×256); true edits by the editor"
        f" {c.editor!r} (paper: diffusion models).",
        f"Distances are over {features} (paper: Inception), at n = {summary['images'][0]}.",
        f"Seconds on {where}, one actor (paper: one H100).",
        f"{summary['table']['concepts']} concepts in the table above (paper: 45), {c.repeats} seeds"
        f" of the methods that adapt the base, {c.compare.scratch_repeats} of those from scratch.",
        f"pix2pix at width {c.pix2pix.width} and batch {c.pix2pix.batch} (paper: 64, 1); the"
        " weights trained are in the table.",
        "pix2pix-zero-distilled is trained on the same true edits as all others, not on edits by"
        " pix2pix-zero: its row shows what the network and its budget give.",
        "E²GAN’s ranks are those of the run’s adapters (lora.rank, lora.ranks; `denoised-weights"
        " ranks` searches them), its coreset that of our fine-tune.",
    ]
    if not c.gans.gan_weight:
        out.append("Adapters are trained by L1 alone here (gans.gan_weight=0), in every row.")
    return out
