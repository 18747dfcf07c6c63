"""A new concept in seconds, on the machine at hand: `python -m tests.bench.gpu [--small] [out=…]`.

What the stages run with the paper's sizes, on random pictures, weights and prompts (speed does not
depend on them): a new concept (predicted, loaded, fine-tuned), at the recipe's batch and at larger
ones; concepts trained together, by each way of it, and one after another by PEFT; a step of the
base's and of the weight generator's training; a step of pix2pix; a new concept with one of the
switches changed. On a GPU if there is one. Imports `modeling/` alone and needs only torch, numpy
and safetensors; PEFT's row says so where it is missing. Writes its JSON to `out`, else prints it;
the file is written after every row, so one that is cut off keeps what it has. A row that fails is
kept, with the reason; so is one for which no time is left.
"""

from __future__ import annotations

import contextlib
import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from modeling import compiling
from modeling.precision import AUTO, PRECISIONS, use
from modeling.targets.lora import WAYS
from tests.bench.gpu_rows import SMALL, Bench, Sizes

LIMIT_S = 420
"""No row begins after so many seconds."""
NAMES = tuple(name for name in PRECISIONS if name != AUTO)
# dense TFLOP/s by the makers' data sheets, first match
PEAKS = {
    "H100 PCIe": {"float32": 51.0, "tf32": 378.0, "bfloat16": 756.0},
    "H100 NVL": {"float32": 60.0, "tf32": 417.5, "bfloat16": 835.0},
    "H100": {"float32": 67.0, "tf32": 494.7, "bfloat16": 989.4},
    "H200": {"float32": 67.0, "tf32": 494.7, "bfloat16": 989.4},
    "A100": {"float32": 19.5, "tf32": 156.0, "bfloat16": 312.0},
}


@contextlib.contextmanager
def without_benchmark() -> Iterator[None]:
    """cuDNN's first choice of a convolution, as torch has it by default."""
    torch.backends.cudnn.benchmark = False
    yield


@contextlib.contextmanager
def fused_adam() -> Iterator[None]:
    """Adam in one kernel. Not the stages': with a gradient laid out otherwise than its weight it is
    wrong without a word on a CPU, and an error on a GPU."""
    with mock.patch.object(torch.optim, "Adam", partial(torch.optim.Adam, fused=True)):
        yield


@contextlib.contextmanager
def compiled(device: str) -> Iterator[None]:
    """By torch.compile: the seconds of compiling are the row's alone."""
    compiling.use(True, device)
    try:
        yield
    finally:
        compiling.use(False, device)


@contextlib.contextmanager
def contiguous(network: torch.nn.Module) -> Iterator[None]:
    """The base's convolutions in torch's default layout."""
    network.to(memory_format=torch.contiguous_format)
    try:
        yield
    finally:
        network.to(memory_format=torch.channels_last)


class Report:
    """Rows as they come, each written at once."""

    def __init__(self, out: Path | None, device: str, small: bool) -> None:
        self.out, self.device, self.begun = out, device, time.perf_counter()
        self.rows: list[dict[str, Any]] = []
        self.about = about(device, small)

    def add(self, what: str, name: str, call: Callable[[], dict[str, Any]]) -> None:
        """One row, measured in the precision of this name, or the reason why there is none."""
        row: dict[str, Any] = {"what": what, "precision": name}
        if time.perf_counter() - self.begun > LIMIT_S:
            row["failed"] = f"not begun: {LIMIT_S} s were over"
        else:
            row |= self._measured(name, call)
        self.rows.append(row)
        print(json.dumps(row, ensure_ascii=False), file=sys.stderr, flush=True)
        if self.out:
            self.out.write_text(self.text())

    def _measured(self, name: str, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        cuda = self.device == "cuda"
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        resident = torch.cuda.memory_allocated() / 2**20 if cuda else None
        begun = time.perf_counter()
        try:
            use(name, self.device)
            row = call()
        except Exception as error:  # whatever a device lacks is a row of its own
            row = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
        gc.collect()  # the optimisers and what a failed row holds
        row["peak_mib"] = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
        row["resident_mib"] = resident  # of the peak, what the rows share
        row["row_s"] = time.perf_counter() - begun
        peaks = self.about["peak_tflops"]
        if "flops_per_s" in row:
            peak = peaks and peaks[name]
            row["mfu"] = row["flops_per_s"] / (peak * 1e12) if peak else None
        return row

    def text(self) -> str:
        took = time.perf_counter() - self.begun
        whole = {**self.about, "seconds": took, "rows": self.rows}
        return json.dumps(whole, indent=2, ensure_ascii=False) + "\n"


def about(device: str, small: bool) -> dict[str, Any]:
    """What the rows were measured on."""
    name, memory = "cpu", None
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        name, memory = properties.name, properties.total_memory / 2**20
    peaks = next((p for part, p in PEAKS.items() if part in name), None)
    return {
        "command": "python -m tests.bench.gpu" + (" --small" if small else ""),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "device": name,
        "device_mib": memory,
        "peak_tflops": peaks,
        "sizes": asdict(SMALL if small else Sizes()),
    }


def commit() -> str:
    """Of the working tree; "unknown" outside a checkout."""
    call = ["git", "rev-parse", "HEAD"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def measure(sizes: Sizes, report: Report) -> None:
    """Every row, the most telling first."""
    device = report.device
    names = NAMES if device == "cuda" else ("float32", "bfloat16")
    usual = "tf32" if device == "cuda" else "float32"
    bench = Bench(sizes, device)
    for batch in sizes.batches:
        for name in names:
            report.add("a new concept", name, partial(bench.concept, batch))
    for count in sizes.together:
        for name in names[-2:]:
            for way in WAYS:
                what = f"concepts trained together, {way}"
                report.add(what, name, partial(bench.together, count, way))
    for name in names[-2:]:
        report.add("concepts trained one after another, PEFT", name, bench.by_peft)
    for name in names:
        report.add("training step of the base", name, bench.base)
    for shape in sizes.generator_batches:
        for name in names:
            report.add(
                "training step of the weight generator",
                name,
                partial(bench.weight_generator, *shape),
            )
    for name in names:
        report.add("pix2pix", name, bench.pix2pix)
    switches: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
        "cuDNN's first choice": without_benchmark,
        "fused Adam": fused_adam,
        "default layout": partial(contiguous, bench.adapted.network),
    }
    for what, switch in switches.items():
        report.add(f"a new concept, {what}", usual, partial(switched, switch, bench.concept))
    if device == "cuda" or sizes is not SMALL:  # minutes on a CPU
        for name in names[-2:]:
            row = partial(switched, partial(compiled, device), bench.concept)
            report.add("a new concept, compiled", name, row)


def switched(
    switch: Callable[[], contextlib.AbstractContextManager[None]], row: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    with switch():
        return row()


def main(words: list[str]) -> int:
    small = "--small" in words
    paths = [w.removeprefix("out=") for w in words if w.startswith("out=")]
    if len(words) != small + len(paths) or len(paths) > 1:
        print("usage: python -m tests.bench.gpu [--small] [out=FILE.json]", file=sys.stderr)
        return 2
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = Report(Path(paths[0]) if paths else None, device, small)
    measure(SMALL if small else Sizes(), report)
    if not report.out:
        print(report.text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
