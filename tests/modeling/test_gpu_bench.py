"""Benchmarks for a GPU: their rows exist, at tiny sizes, where only torch is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from modeling.targets.lora import WAYS
from pipelines.config.load import load_config
from pipelines.stages.base import translator_config
from tests.bench.gpu import NAMES
from tests.bench.gpu_rows import Sizes
from tests.bench.together import PEFT, sizes

ABSENT = (
    "ray diffusers transformers peft omegaconf yaml pyarrow fsspec cv2 PIL dicebear resvg resvg_py"
    " cleanfid sklearn scipy pipelines"
)
WITHOUT = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}.split()))
name, out = sys.argv[1:]
sys.argv = [name, "--small", "out=" + out]
try:
    runpy.run_module(name, run_name="__main__")
except SystemExit as end:
    assert not end.code
"""


def measured(name: str, out: Path) -> list[dict[str, Any]]:
    subprocess.run([sys.executable, "-c", WITHOUT, f"tests.bench.{name}", str(out)], check=True)
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"]
    return rows


def test_every_row_is_measured_with_torch_alone(tmp_path: Path) -> None:
    rows = measured("gpu", tmp_path / "gpu.json")
    left_out = [r for r in rows if "failed" in r]
    assert {r["what"] for r in left_out} == {"concepts trained one after another, PEFT"}
    assert all("peft" in r["failed"] for r in left_out)
    rows = [r for r in rows if r not in left_out]
    assert {r["what"] for r in rows} == {
        "a new concept",
        *(f"concepts trained together, {way}" for way in WAYS),
        "training step of the base",
        "training step of the weight generator",
        "pix2pix",
        *(f"a new concept, {w}" for w in ("cuDNN's first choice", "fused Adam", "default layout")),
    }
    assert {r["precision"] for r in rows} <= set(NAMES)
    assert all(r["seconds"] > 0 and r["rate"] > 0 and r["batch"] > 0 for r in rows)


def test_every_way_of_several_concepts_is_measured_with_torch_alone(tmp_path: Path) -> None:
    rows = measured("together", tmp_path / "together.json")
    left_out = [r for r in rows if "failed" in r]
    assert all(r["way"] == PEFT and "peft" in r["failed"] for r in left_out)
    assert {r["way"] for r in rows} - {r["way"] for r in left_out} == set(WAYS)
    assert {r["network"] for r in rows} == {"translator", "discriminators"}
    assert len(measured("together", tmp_path / "together.json")) == len(rows)


def test_together_has_the_presets_sizes() -> None:
    for name, size in sizes("cuda").items():
        config = load_config([f"preset={name}"])
        shape = translator_config(config, size.translator.text_dim)
        assert size.translator == shape
        assert vars(size.critic).items() >= vars(config.discriminator).items()
        assert (size.rank, size.ranks) == (config.lora.rank, dict(config.lora.ranks))
        assert size.side == config.images.size and config.gans.batch in size.batches


def test_its_sizes_are_the_paper_presets() -> None:
    config, sizes = load_config(["preset=paper"]), Sizes()
    assert sizes.translator == translator_config(config, 768)
    assert vars(sizes.discriminator).items() >= vars(config.discriminator).items()
    assert (sizes.rank, sizes.ranks) == (config.lora.rank, dict(config.lora.ranks))
    assert (sizes.side, sizes.block_size) == (config.images.size, config.weights.block_size)
    for key, value in sizes.generator.items():
        expected = getattr(config.generator, key)
        assert value == (tuple(expected) if key == "channels" else expected), key
    adapt = config.adapt
    steps = sizes.pairs * sizes.epochs // sizes.batch
    assert (sizes.pairs, sizes.batch, steps) == (adapt.coreset, adapt.batch, adapt.steps)
    assert sizes.pix2pix_width == config.pix2pix.width
