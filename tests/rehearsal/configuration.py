"""A run of so many concepts with as little work at each as the checks allow."""

from __future__ import annotations

import itertools
import json

DRAWN = ("hair", "skin", "background", "striped_background", "clothes")
ART = ("duotone", "monochrome", "tint", "sketch", "neon", "halftone", "frame", "glow")
HELD_OUT = 85 + 40
"""Concepts of the paper's test sets, and for validation, whatever the count."""


def words(concepts: int, run_dir: str) -> list[str]:
    """A configuration of so many concepts, held-out ones included."""
    combine = [[a, b, art] for a, b in itertools.combinations(DRAWN, 2) for art in ART]
    combine = [c for c in combine if set(c[:2]) != {"background", "striped_background"}]
    singles = 20 * len((*DRAWN, *ART))
    given = {
        "preset": "tiny",
        "run_dir": run_dir,
        "images.size": 16,
        "images.count": 10,
        "images.paired": 1,
        "concepts.families": [*DRAWN, *ART],
        "concepts.atoms_per_family": 20,
        "concepts.combine": combine,
        "concepts.train_combinations": concepts - singles - HELD_OUT,
        "concepts.paired_families": [],
        "concepts.paired_combinations": 0,
        "concepts.val_combinations": 40,
        "concepts.test_atoms": 0,
        "concepts.test_combinations": 85,
        "concepts.paraphrases": 0,
        "translator.width": 4,
        "translator.heads": 1,
        "discriminator.width": 4,
        "base.steps": 10,
        "gans.steps": 1,
        "gans.batch": 1,
        "gans.concepts_per_batch": 64,
        "generator.image_steps": 0,
        "rival.train": False,
        "refine.steps": 0,
        "refine.basis_concepts": 0,
        "adapt.learned_steps": 0,
        "adapt.basis": False,
        "adapt.steps": 1,
        "adapt.batch": 1,
        "adapt.keep": [],
        "evaluate.images": 2,
        "max_error_fraction": 1.0,
    }
    return [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in given.items()]
