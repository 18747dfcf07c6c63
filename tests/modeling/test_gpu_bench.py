"""`python -m tests.bench.gpu`: its rows exist, at tiny sizes, where only torch is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from pipelines.config.load import load_config
from pipelines.stages.base import translator_config
from tests.bench.gpu import PRECISIONS
from tests.bench.gpu_rows import Sizes

ABSENT = (
    "ray diffusers transformers peft omegaconf yaml pyarrow fsspec cv2 PIL dicebear resvg resvg_py"
    " cleanfid sklearn scipy pipelines"
)
WITHOUT = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({ABSENT!r}.split()))
sys.argv = ["gpu", "--small", "out=" + sys.argv[1]]
runpy.run_module("tests.bench.gpu", run_name="__main__")
"""


def test_every_row_is_measured_with_torch_alone(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    subprocess.run([sys.executable, "-c", WITHOUT, str(out)], check=True)
    rows = json.loads(out.read_text())["rows"]
    assert [r for r in rows if "failed" in r] == []
    assert {r["what"] for r in rows} == {
        "a new concept",
        "concepts trained together",
        "training step of the base",
        "training step of the weight generator",
        "pix2pix",
    }
    assert {r["precision"] for r in rows} <= set(PRECISIONS)
    assert all(r["seconds"] > 0 and r["rate"] > 0 and r["batch"] > 0 for r in rows)


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
