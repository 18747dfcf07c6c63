"""What a finished run shows, small enough to commit.

`python -m tuning.result RUN_DIR NAME [TIMES]` writes to tuning/results/NAME the tables rows and
memory (every score) and summary.json (means, intervals, wins, times, the machine), draws
docs/NAME.png (L1 along the fine-tune), and prints the table of docs/results.md.

TIMES: a file of `tests.bench.serial_times`. With it, the seconds that summary.json compares (how
soon a method reaches what another does) are its seconds a step, measured one after another on an
idle machine, and not those of `evaluate`, whose actors share the machine.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.presentation.curves import COLOURS
from pipelines.presentation.numbers import summarise
from pipelines.presentation.scores import Numbers
from pipelines.presentation.words import plural
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.contenders import (
    CEILING,
    CONTINUED,
    IDENTITY,
    PREDICTION,
    REFERENCES,
    SCRATCH,
    SHUFFLED,
    WEIGHTS_ONLY,
    is_generator,
)
from pipelines.stages.evaluation_tables import load_rows
from tuning.panels import panels, save

ROOT = Path(__file__).parents[1]
KEPT = ("preset", "seed", "methods", "features", "times", "machine", "adapters", "memory", "sets")


def condensed(summary: Mapping[str, Any]) -> Numbers:
    """The parts of a report's summary.json that a reader of the results needs."""
    out = {key: summary[key] for key in KEPT}
    out["stage_seconds"] = {name: s["seconds"] for name, s in summary["stages"].items()}
    out["hours"] = round(sum(out["stage_seconds"].values()) / 3600, 2)
    out["commits"] = sorted({s["commit"] for s in summary["stages"].values()})
    losses = summary["losses"]
    out["losses"] = {"compared": losses["compared"], "lost": len(losses["lost"])}
    adapters = dict(out["adapters"])
    adapters["not_better_than_identity"] = adapters.pop("failing")
    out["adapters"] = adapters
    return out


def serial(rows: Sequence[Mapping[str, Any]], seconds: Mapping[str, float]) -> list[Numbers]:
    """The rows of `evaluate` with the seconds that their steps take in a serial pass.

    seconds: of `predict`, of an `adapter_step` and of a `scratch_step`. A control's start is free.
    """
    out = []
    for row in rows:
        method = row["method"]
        step = seconds["scratch_step" if method == SCRATCH else "adapter_step"]
        generated = is_generator(method) or method in (SHUFFLED, CONTINUED)
        spent = row["step"] * step + (seconds["predict"] if generated else 0.0)
        out.append({**row, "seconds": spent})
    return out


def reach_lines(sets: Mapping[str, Numbers]) -> list[str]:
    """How soon the prediction's fine-tunes reach what the references do at their full budget."""
    lines = []
    for held, numbers in sets.items():
        for goal, by_method in numbers["reach"].items():
            for method in (PREDICTION, CONTINUED):
                found = by_method.get(method)
                if found:
                    ratio = found["mean_ratio"]
                    lines.append(
                        f"{plural(held)}: {method} reaches {goal} ({found['l1']:.4f},"
                        f" {found['seconds']:.2f} s) in the mean"
                        + (f" {ratio:.1f} times sooner" if ratio else " never")
                        + f"; {found['reached']} of {found['total']} single runs"
                    )
    return lines


def table(sets: Mapping[str, Numbers], methods: Sequence[str]) -> str:
    """Markdown: a row per method, two columns (step 0, after) and wins per held-out set."""
    heads, rule = ["start"], ["---"]
    for held, numbers in sets.items():
        name = f"{numbers['concepts']} {plural(held)}"
        heads += [f"{name}, step 0", f"after {numbers['last_step']}", "prediction wins"]
        rule += ["---", "---", "---"]
    lines = [heads, rule]
    for method in methods:
        cells = [f"**{method}**" if method == PREDICTION else method]
        for numbers in sets.values():
            ends = numbers["methods"][method]
            for when in ("before", "after"):
                end = ends[when]
                skip = end is None or (method in REFERENCES and when == "before")
                cells.append("" if skip else f"{end['l1']:.4f}")
            cells.append(_wins(numbers["against"].get(method)))
        lines.append(cells)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _wins(against: Numbers | None) -> str:
    """'24, 22* of 24': wins before and after; a star where the interval does not exclude zero."""
    if not against or not against["before"]:
        return ""
    parts = []
    for when in ("before", "after"):
        c = against[when]
        if c:
            mark = {"better": "", "worse": " (loses)", "undecided": "*", "few": "*"}[c["verdict"]]
            parts.append(f"{c['wins']}{mark}")
    return f"{', '.join(parts)} of {against['before']['total']}"


def figure(sets: Mapping[str, Numbers], methods: Sequence[str], path: Path) -> None:
    """One panel per held-out set: mean L1 against fine-tuning steps."""
    drawn = [m for m in methods if m not in (SHUFFLED, *REFERENCES) and WEIGHTS_ONLY not in m]
    titles = [f"{numbers['concepts']} {plural(held)}" for held, numbers in sets.items()]
    fig, axes = panels(titles, "fine-tuning steps", "mean L1 to the true edit")
    for ax, numbers in zip(axes, sets.values(), strict=True):
        for method in drawn:
            curve = numbers["methods"][method]["curve"]
            colour = COLOURS.get(method, ("#64748b", ""))[0]
            if method == IDENTITY:
                ax.axhline(curve[-1]["l1"], color=colour, lw=1, ls=":", label=method)
                continue
            ours = method == PREDICTION
            ax.plot(
                [p["step"] for p in curve],
                [p["l1"] for p in curve],
                color=colour,
                lw=2.8 if ours else 1.4,
                marker="o",
                ms=5 if ours else 3,
                zorder=5 if ours else 3,
                label=method,
            )
        for method, style in ((CEILING, "--"), (CONTINUED, ":"), (SCRATCH, "-.")):
            curve = numbers["methods"].get(method, {}).get("curve")
            if curve:
                end = numbers["methods"][method]["after"]
                few = end["concepts"] < numbers["concepts"]
                label = f"{method}, {end['step']} steps"
                label += f" ({end['concepts']} concepts)" if few else ""
                ax.axhline(curve[-1]["l1"], color="#0f172a", lw=1.2, ls=style, label=label)
    save(fig, axes, path)


def main(words: Sequence[str]) -> int:
    if len(words) not in (2, 3):
        print(__doc__, file=sys.stderr)
        return 2
    run_dir, name = RunDir(words[0]), words[1]
    summary = run_dir.read_json("report/summary.json")
    if words[2:]:
        times = json.loads(Path(words[2]).read_text())
        rows = load_rows(run_dir)
        summary["sets"] = summarise(serial(rows, times["seconds"]), summary["methods"])
        summary["times"]["serial"] = times
    out = RunDir(str(ROOT / "tuning" / "results" / name))
    for kind in ("rows", "memory"):
        out.write(f"{kind}.parquet", run_dir.read(f"evaluation/{kind}.parquet"))
    out.write_json("summary.json", condensed(summary))
    figure(summary["sets"], summary["methods"], ROOT / "docs" / f"{name}.png")
    print(table(summary["sets"], summary["methods"]))
    print("\n".join(reach_lines(summary["sets"])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
