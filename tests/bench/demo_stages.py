"""How long the demo takes, stage by stage: `python -m tests.bench.demo_stages [key=value …]`.

Runs `denoised-weights run preset=demo` in a fresh run directory, as a user does (own process, Ray
started and stopped). Writes tests/bench/results/demo_stages.json and the README's picture,
docs/demo.png. Use an otherwise idle machine: the load average before the run is recorded.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import finished
from pipelines.runtime.stage_table import STAGES

RESULTS = Path(__file__).parent / "results"
PICTURE = Path(__file__).parents[2] / "docs" / "demo.png"


def main(words: list[str]) -> int:
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "pipelines",
            "run",
            "preset=demo",
            f"run_dir={folder}",
            *words,
        ]
        begun = time.perf_counter()
        process = subprocess.Popen(command)
        most = 0
        while process.poll() is None:
            time.sleep(1)
            try:
                most = max(most, len(psutil.Process(process.pid).children(recursive=True)) + 1)
            except psutil.NoSuchProcess:
                break
        total = time.perf_counter() - begun
        if process.wait():
            return process.returncode
        run = RunDir(folder)
        markers = {s.name: finished(run, s.name) or {} for s in STAGES}
        result = {
            "command": "denoised-weights run preset=demo " + " ".join(words),
            "seconds": round(total, 1),
            "stages": {k: m["seconds"] for k, m in markers.items()},
            "outside_stages": round(total - sum(m["seconds"] for m in markers.values()), 1),
            "most_processes": most,
            "load_average_before": load,
            "machine": machine(),
            "versions": markers["report"]["versions"],
            "commit": markers["report"]["commit"],
            "result": markers["evaluate"]["summary"]["l1"],
        }
        shutil.copy(Path(folder, "report", "pictures.png"), PICTURE)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "demo_stages.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({k: result[k] for k in ("seconds", "stages")}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
