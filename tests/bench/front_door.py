"""How soon the command line answers: `python -m tests.bench.front_door [repeats=9] [old=CHECKOUT]`.

Starts each command as a user does and waits for its end: wall-clock and peak memory, the median of
the repeats. old: another checkout, run in turn with this one, for a comparison on one machine.
Writes tests/bench/results/front_door.json. Use an idle machine: its load is recorded.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from pipelines.runtime.machine import machine

ROOT = Path(__file__).parents[2]
RESULT = Path(__file__).parent / "results" / "front_door.json"
COMMANDS = (
    "--help",
    "gans --help",
    "keys",
    "config preset=paper",
    "gan",
    "run imags.size=3",
    "run seed=x",
    "run gans.batch=0",
    "run weights.grouping=4",
    "run generator.heads=3",
    "run images.size=33",
    "plan seed=x",
)


def answered(words: str, checkout: Path) -> tuple[float, float]:
    """Seconds and MiB of one command."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", *words.split()],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, _, used = os.wait4(process.pid, 0)
    process.returncode = 0
    return time.perf_counter() - begun, used.ru_maxrss / 1024


def measured(words: str, checkout: Path, repeats: int) -> dict[str, float]:
    answered(words, checkout)  # bytecode and the file cache
    runs = [answered(words, checkout) for _ in range(repeats)]
    seconds, mib = zip(*runs, strict=True)
    return {
        "seconds": round(statistics.median(seconds), 3),
        "slowest": round(max(seconds), 3),
        "mib": round(statistics.median(mib), 1),
    }


def main(words: list[str]) -> int:
    given = dict(word.partition("=")[::2] for word in words)
    repeats = int(given.get("repeats", 9))
    checkouts = {"now": ROOT} | ({"old": Path(given["old"])} if "old" in given else {})
    load = os.getloadavg()
    found = {
        command: {name: measured(command, path, repeats) for name, path in checkouts.items()}
        for command in COMMANDS
    }
    commits = {
        name: subprocess.run(
            ["git", "describe", "--always", "--dirty"], cwd=path, capture_output=True, text=True
        ).stdout.strip()
        for name, path in checkouts.items()
    }
    result = {
        "command": "python -m tests.bench.front_door " + ("old=CHECKOUT" if "old" in given else ""),
        "repeats": repeats,
        "commits": commits,
        "load_average_before": load,
        "machine": machine(),
        "commands": found,
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    for command, row in found.items():
        print(f"{command:<24}", *(f"{k} {v['seconds']} s {v['mib']} MiB" for k, v in row.items()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
