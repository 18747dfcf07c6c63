"""The tests of the maths as other processors run them.

    python -m tests.processors [--quick]

The vector instructions of a processor and the number of threads choose the kernels, and these the
order of additions and the last bits of random normals. Both can be limited from outside, so that
one machine shows what others make of a tolerance (tests/rounding.py). Of the switches there are,
those are kept that change results; what Intel's libraries choose on Intel's own processors cannot
be seen on others.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time

PROCESSORS = {
    # x86-64 of 2008: plain loops in PyTorch, SSE4 in its convolutions, SSE3 in MKL. OpenBLAS, which
    # only NumPy and SciPy use, is left as the machine has it: old ones are wrong on some processors
    "no vectors": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_CBWR": "COMPATIBLE",
    },
    # most machines that have no AVX-512
    "AVX2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_CBWR": "AVX2",
    },
    # sums in two parts
    "two threads": {"TEST_THREADS": "2"},
}
"""Environment by name; the machine's own kernels are `make test`'s."""

MATHS = ["tests/modeling"]
QUICK = [
    f"tests/modeling/{name}" for name in ("test_rounding.py", "targets", "weights", "baselines")
]
"""Whole rooms, so that a new test is among them: for `make test` those with networks of our own."""


def run(name: str, tests: list[str]) -> bool:
    """Run the tests as on this processor; whether they pass."""
    print(f"{name}: {' '.join(f'{k}={v}' for k, v in PROCESSORS[name].items())}", flush=True)
    # two threads of one process, or one of two
    processes = [] if "TEST_THREADS" in PROCESSORS[name] else ["-n", "2", "--dist", "loadfile"]
    begun = time.perf_counter()
    command = [sys.executable, "-m", "pytest", *processes, *tests]
    passed = not subprocess.run(command, env=os.environ | PROCESSORS[name], check=False).returncode
    print(f"{name}: {'passed' if passed else 'FAILED'}, {time.perf_counter() - begun:.0f} s")
    return passed


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.processors")
    parser.add_argument("--quick", action="store_true", help="the one that differs most, in part")
    if parser.parse_args().quick:
        return not run("no vectors", QUICK)
    failed = [name for name in PROCESSORS if not run(name, MATHS)]
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
