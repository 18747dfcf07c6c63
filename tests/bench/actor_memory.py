"""What an actor takes of the memory, by stage: `python -m tests.bench.actor_memory [key=value …]`.

Runs `denoised-weights run preset=demo` in a fresh folder and reads the memory of all Ray Data
actors twice a second. Neither steps nor the load of the machine matter: fewer steps do as well.
Writes tests/bench/results/actor_memory.json; pipelines/runtime/pool.py rests on it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from pipelines.runtime.machine import machine

RESULT = Path(__file__).parent / "results" / "actor_memory.json"
ACTOR = re.compile(r"ray::MapWorker\(MapBatches\((\w+)\)\)")


def main(words: list[str]) -> int:
    most: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        command = ["-m", "pipelines", "run", "preset=demo", f"run_dir={folder}", *words]
        process = subprocess.Popen([sys.executable, *command])
        while process.poll() is None:
            time.sleep(0.5)
            for name, rss, own in actors(process.pid):
                before = most.setdefault(name, {"resident_mib": 0, "own_mib": 0})
                before["resident_mib"] = max(before["resident_mib"], rss >> 20)
                before["own_mib"] = max(before["own_mib"], own >> 20)
    if process.returncode:
        return process.returncode
    command_line = " ".join(["denoised-weights run preset=demo", *words])
    result = {"command": command_line, "actors": most, "machine": machine()}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(most))
    return 0


def actors(driver: int) -> list[tuple[str, int, int]]:
    """Class, resident memory and what of it no other process shares, bytes, of each actor."""
    found = []
    try:
        children = psutil.Process(driver).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    for child in children:
        try:
            name = ACTOR.match((child.cmdline() or [""])[0])
            if name:
                memory = child.memory_full_info()
                found.append((name[1], memory.rss, memory.uss))
        except psutil.Error:  # it has ended
            continue
    return found


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
