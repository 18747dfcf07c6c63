"""A plan as text for a terminal."""

from __future__ import annotations

from pipelines.config.schema import Config
from pipelines.plan.outcome import Plan, Row


def table(config: Config, made: Plan) -> str:
    """Rows, total, what dominates, what one gets for less, and what each row rests on."""
    device, priced = made.device, made.money is not None
    cells = [[made.each, "FLOPs", "stored", f"{device}-hours", "wall", "cost", "rates"]]
    for row in made.rows:
        sizes = [scaled(row.flops, "FLOP"), scaled(row.stored_bytes, "B")]
        cells.append([row.stage, *sizes, *_time_and_money(row), _basis(row)])
    sizes = [scaled(made.flops, "FLOP"), scaled(made.stored_bytes, "B")]
    cells.append(["total", *sizes, *_time_and_money(made), ""])
    if not priced:
        cells = [[*row[:5], row[6]] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *middle, last in cells:
        aligned = [c.rjust(w) for c, w in zip(middle, widths[1:-1], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *aligned, last]).rstrip())
    return "\n".join([*lines, "", *_findings(made), "", *_grounds(made)]) + "\n"


def _time_and_money(it: Row | Plan) -> list[str]:
    money = "" if it.money is None else f"{it.money:,.0f}"
    return [hours(it.held_hours), duration(it.wall_hours), money]


def _basis(row: Row) -> str:
    kinds = sorted({source.partition(" ")[0].rstrip(":") for source in row.basis})
    return " and ".join(kinds)


def _findings(made: Plan) -> list[str]:
    top = next(r for r in made.rows if r.stage == made.dominant)
    part = top.held_hours / made.held_hours if made.held_hours else 0.0
    who = f"{made.devices} {made.device}s"
    lines = [
        f"{who}, paid for while any of them works; they are busy for"
        f" {hours(made.busy_hours)} of {hours(made.held_hours)} {made.device}-hours.",
        f"{made.dominant} dominates: {part:.0%} of the {made.device}-hours.",
    ]
    if made.each != "stage":  # nothing else was tried
        return lines[: len(made.rows)]
    if not made.alternatives:
        return [*lines, "No change tried here makes the plan cheaper."]
    lines.append("For less, the part of them that is left:")
    for a in made.alternatives:
        lines += [f"  {a.of_total:>4.0%}  {a.what}: {a.words}", f"        quality: {a.quality}"]
    return lines


def _grounds(made: Plan) -> list[str]:
    lines = []
    for row in made.rows:
        lines.append(f"{row.stage}: {row.work}")
        lines += [f"  {', '.join(names)}: {source}" for source, names in row.basis.items()]
        lines += [f"  {note}" for note in row.notes]
    return lines


def scaled(value: float, unit: str) -> str:
    """1.5e13 → 15 TFLOP."""
    if not value:
        return ""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if value < 1000:
            return f"{value:.3g} {prefix}{unit}"
        value /= 1000
    return f"{value * 1000:,.0f} E{unit}"


def hours(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def duration(value: float) -> str:
    """Hours → the unit that a person would use."""
    if value >= 48:
        return f"{value / 24:,.1f} d"
    if value >= 1:
        return f"{value:.1f} h"
    return f"{value * 60:.1f} min" if value * 60 >= 1 else f"{value * 3600:.0f} s"
