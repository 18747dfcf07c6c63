"""What a translation is without a service: picture in, one of four merged adapters, picture out."""

from __future__ import annotations

import os
import sys
import time
from functools import cache
from pathlib import Path

import torch

from modeling.images import encode_png, open_picture
from pipelines.config.load import load_config
from pipelines.runtime.run_dir import RunDir
from pipelines.use.adapter_names import Ask
from pipelines.use.parts import Loaded, Merged, TextPart, TranslatorPart, WeightPart
from pipelines.use.saved_run import saved_config

RUN = "SERVING_RUN"
"""Environment variable with the run directory: servers are started by others' commands."""
CONCEPTS = ("green hair", "a photograph tinted gold", "blue skin", "red hair, wearing grey clothes")


class Work:
    """The base and the adapters of CONCEPTS, predicted and merged; one thread."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        given = load_config([f"run_dir={os.environ[RUN]}"])
        run = RunDir(given.run_dir)
        config = saved_config(run, given)
        text, weights = TextPart(config, run), WeightPart(config, run, "cpu")
        self.translator = TranslatorPart(config, run, "cpu")
        self.merged: dict[str, Merged] = {}
        for concept in CONCEPTS:
            ask = Ask(concept, 0, config.adapt.t, 1)
            (made,) = weights.predict([(ask, text.encode([concept])[0])])
            assert isinstance(made, Loaded)
            self.merged[concept] = self.translator.merge(made)

    def answer(self, concept: str, picture: bytes) -> bytes:
        """PNG in, PNG out."""
        pixels = open_picture(picture).seen
        (made,) = self.translator.translate([(pixels, [self.merged[concept]])])
        return encode_png(made)


@cache
def work() -> Work:
    """Of this process."""
    return Work()


def rate(picture: bytes, seconds: float) -> float:
    """Answers a second of this process, one after another, by the adapters in turn."""
    own, made, begun = work(), 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        own.answer(CONCEPTS[made % len(CONCEPTS)], picture)
        made += 1
    return made / (time.perf_counter() - begun)


if __name__ == "__main__":
    shown = Path(sys.argv[1]).read_bytes()
    rate(shown, 1.0)
    print(rate(shown, float(sys.argv[2])))
