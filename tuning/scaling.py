"""Held-out quality against the number of training concepts, on the validation concepts.

`python -m tuning.scaling RUN_DIR NAME COUNT… [key=value…]` branches a finished run for every count:
concepts, pairs, base and adapters are shared (hard links), the weight dataset is cut to COUNT
concepts, and the weight generator and all controls are made from those. Finished counts are
skipped. Writes tuning/results/NAME/scaling.json and docs/NAME-scaling.png.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines.artifacts import RunDir
from pipelines.contenders import CEILING, PREDICTION
from pipelines.report_curves import COLOURS
from pipelines.report_numbers import Numbers, plural, summarise
from pipelines.stages import BY_NAME, STAGES
from tuning.panels import panels, save

ROOT = Path(__file__).parents[1]
SHARED = ("concepts", "pairs", "base", "gans")
FIXED = ("adapt.split=val", "repeats=1", "rival.train=false", "evaluate.scratch_steps=0")
SHOWN = (PREDICTION, "ridge", "nearest text", "mean adapter", "zero LoRA")


def branch(run_dir: Path, to: Path) -> None:
    """A run directory with the shared stages of another, as hard links."""
    part = to.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    for stage in STAGES:
        if stage.name not in SHARED:
            continue
        for name in (*stage.outputs, f"stages/{stage.name}.json"):
            source, target = run_dir / name, part / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, copy_function=os.link)
            else:
                os.link(source, target)
    part.rename(to)


def measured(run_dir: RunDir, count: int) -> Numbers:
    """Means per held-out set of one branch."""
    rows = run_dir.read_table("evaluation/rows.parquet").to_pylist()
    methods = list(dict.fromkeys(r["method"] for r in rows))
    sets = summarise(rows, methods)
    return {
        "concepts": count,
        "sets": {h: {k: s[k] for k in ("methods", "against", "concepts")} for h, s in sets.items()},
        "seconds": {
            name: run_dir.read_json(f"stages/{name}.json")["seconds"]
            for name in ("generator", "adapt", "evaluate")
        },
    }


def figure(points: Sequence[Numbers], path: Path) -> None:
    """One panel per held-out set: L1 at step 0 and after the fine-tune against concepts."""
    from matplotlib.ticker import NullLocator

    held = list(points[0]["sets"])
    titles = [f"{points[0]['sets'][h]['concepts']} {plural(h)}" for h in held]
    fig, axes = panels(titles, "training concepts", "mean L1 (dashed: after the fine-tune)")
    counts = [p["concepts"] for p in points]
    for ax, name in zip(axes, held, strict=True):
        for method in (*SHOWN, CEILING):
            for when, style in (("before", "-"), ("after", "--")):
                if method == CEILING and when == "before":
                    continue
                values = [p["sets"][name]["methods"][method][when]["l1"] for p in points]
                label = method if when == "before" or method == CEILING else None
                width = 2.6 if method == PREDICTION else 1.3
                colour = COLOURS[method][0]
                ax.plot(
                    counts, values, style, color=colour, lw=width, marker="o", ms=3, label=label
                )
        ax.set_xscale("log", base=2)
        ax.set_xticks(counts, [str(c) for c in counts])
        ax.xaxis.set_minor_locator(NullLocator())
    save(fig, axes, path)


def main(words: Sequence[str]) -> int:
    from pipelines.__main__ import main as command

    plain = [w for w in words if "=" not in w]
    if len(plain) < 3:
        print(__doc__, file=sys.stderr)
        return 2
    given = [w for w in words if "=" in w]
    source, name, counts = Path(plain[0]), plain[1], sorted(int(c) for c in plain[2:])
    points: list[dict[str, Any]] = []
    for count in counts:
        folder = source.parent / f"{source.name}-{count}"
        if not folder.exists():
            branch(source, folder)
        for stage in ("weights", "generator", "adapt", "evaluate"):
            keys = [*given, *FIXED, f"run_dir={folder}", f"weights.concepts={count}"]
            status = command([BY_NAME[stage].name, *keys])
            if status:
                return status
        points.append(measured(RunDir(str(folder)), count))
        out = RunDir(str(ROOT / "tuning" / "results" / name))
        out.write_json("scaling.json", {"given": given, "fixed": FIXED, "points": points})
    figure(points, ROOT / "docs" / f"{name}-scaling.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
