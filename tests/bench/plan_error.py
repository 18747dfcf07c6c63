"""How far a plan is from the run: `python -m tests.bench.plan_error`.

Plans the presets whose stages have been timed, on this kind of machine, with assumed and with
measured rates, and compares. Writes results/plan_error.json. Use an otherwise idle machine: the
load average before is recorded.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipelines.config.load import load_config
from pipelines.plan.calibration import calibrate
from pipelines.plan.command import make_plan
from pipelines.plan.outcome import Plan
from pipelines.plan.rates import assumed, to_json
from pipelines.plan.shapes import Shapes
from pipelines.runtime.machine import machine
from tests.bench.demo_stages import RESULTS

ROOT = Path(__file__).parents[2]
TIMED = {
    "demo": (RESULTS / "demo_stages.json", "stages"),
    "small": (ROOT / "tuning/results/small/summary.json", "stage_seconds"),
}


def compared(plan: Plan, took: dict[str, float]) -> dict[str, Any]:
    """Planned seconds, and planned ÷ measured, of the stages that were timed."""
    planned = {r.stage: r.wall_hours * 3600 for r in plan.rows if r.stage in took}
    both = {s: {"planned": round(v, 1), "ratio": round(v / took[s], 2)} for s, v in planned.items()}
    total = sum(planned.values())
    return {
        "stages": both,
        "planned": round(total, 1),
        "ratio": round(total / sum(took.values()), 2),
    }


def main() -> int:
    load = os.getloadavg()
    presets = {}
    for preset, (file, key) in TIMED.items():
        config = load_config([f"preset={preset}"])
        took = json.loads(file.read_text())[key]
        shapes = Shapes(config)
        before = assumed(config, shapes)
        after, _ = calibrate(config, shapes, before)
        presets[preset] = {
            "measured": took,
            "of": str(file.relative_to(ROOT)),
            "assumed": compared(make_plan(config, shapes, before), took),
            "calibrated": compared(make_plan(config, shapes, after), took),
            "rates": to_json(after),
        }
    result = {
        "command": "python -m tests.bench.plan_error",
        "presets": presets,
        "load_average_before": load,
        "machine": machine(),
    }
    path = Path(RESULTS, "plan_error.json")
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    for preset, one in presets.items():
        print(preset, json.dumps({k: one[k] for k in ("assumed", "calibrated")}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
