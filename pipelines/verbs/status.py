"""`status run_dir=RUN`: how far a run is, from its directory alone, wherever it is being made."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.runtime import heartbeat
from pipelines.runtime.log import span
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.run_lock import holder
from pipelines.runtime.stage_graph import finished
from pipelines.runtime.stage_table import BY_NAME, SIDE_STAGES

SILENT_SECONDS = 60.0
"""A stage that was not heard from for so long is not running, as far as can be told."""
WATCH_SECONDS = 5.0
NOT_BEGUN, BEGUN, SILENT = "not begun", "begun", "silent"
"""BEGUN: by a version without heartbeats, and not finished."""


@dataclass
class Row:
    """One stage. Times in seconds."""

    stage: str
    state: str
    done: int = 0
    total: int = 0
    unit: str = ""
    rate: float = 0.0
    left: float | None = None
    bad: int = 0
    attempts: int = 0
    seconds: float = 0.0
    heard: float | None = None
    """Since the last sign of life, by the two machines' clocks."""
    note: str = ""
    reason: str = ""
    planned: float | None = None
    money: float | None = None
    """Spent so far, at the plan's devices and the price given."""
    planned_money: float | None = None


def run(given: Mapping[str, str], free: Sequence[str], flags: Collection[str]) -> int:
    """1 if a stage has failed or gone silent, 0 otherwise."""
    price = _price(given)
    run_dir = RunDir(given["run_dir"])
    if not run_dir.exists("config.yaml"):
        raise ConfigError(f"{run_dir.uri} holds no run: it has no config.yaml")
    plan = _planned(run_dir, price) if price is not None or "--plan" in flags else {}
    shown = ""
    while True:
        rows = rows_of(run_dir, plan)
        held = holder(run_dir)
        if "--json" in flags:
            told = {"run": run_dir.uri, "held_by": held and asdict(held)}
            text = json.dumps({**told, "stages": [asdict(r) for r in rows]}, indent=2)
        else:
            text = "\n".join([run_dir.uri, "held by " + str(held or "nobody"), *table(rows)])
        ended = all(r.state == heartbeat.FINISHED for r in rows if r.stage not in ASIDE)
        bad = any(r.state in (heartbeat.FAILED, SILENT) for r in rows)
        if "--watch" not in flags or ended:
            print(text)
            return int(bad)
        if text != shown:
            print(("\x1b[H\x1b[J" if sys.stdout.isatty() else "") + text, flush=True)
            shown = text
        time.sleep(WATCH_SECONDS)


ASIDE = {s.name for s in SIDE_STAGES}


def rows_of(run_dir: RunDir, plan: Mapping[str, Row] | None = None) -> list[Row]:
    """A row a stage, in order; those beside the pipeline only once they were begun."""
    rows = []
    for name in BY_NAME:
        row = _row(run_dir, name)
        if row.state == NOT_BEGUN and name in ASIDE:
            continue
        planned = (plan or {}).get(name)
        if planned is not None:
            row.planned, row.planned_money = planned.planned, planned.planned_money
            if planned.planned and planned.planned_money is not None:
                row.money = planned.planned_money * row.seconds / planned.planned
        rows.append(row)
    return rows


def _row(run_dir: RunDir, name: str) -> Row:
    beat = heartbeat.read(run_dir, name)
    done = run_dir.exists(f"stages/{name}.json")
    if beat is None:  # of a version before there were heartbeats, or not begun
        if done:
            seconds = float((finished(run_dir, name) or {}).get("seconds", 0.0))
            return Row(name, heartbeat.FINISHED, seconds=seconds, bad=_bad(run_dir, name))
        begun = run_dir.exists(f"stages/{name}.started.json")
        return Row(name, BEGUN if begun else NOT_BEGUN)
    row = Row(name, beat.state, attempts=beat.attempts, seconds=beat.seconds, reason=beat.reason)
    if done and beat.state != heartbeat.RUNNING:
        row.state, row.bad = heartbeat.FINISHED, _bad(run_dir, name)
        row.done = row.total = beat.total
        row.unit = beat.unit
        return row
    row.heard = max(0.0, time.time() - beat.at)
    counted = beat
    training = heartbeat.read(run_dir, name, heartbeat.TRAINING)
    if training is not None and beat.at - training.at < SILENT_SECONDS:  # the worker knows more
        counted, row.heard = training, min(row.heard, max(0.0, time.time() - training.at))
    row.done, row.total, row.unit = counted.done, counted.total, counted.unit
    row.rate, row.note, row.bad, row.left = counted.rate, counted.note, counted.bad, counted.left
    if row.state == heartbeat.RUNNING and row.heard > SILENT_SECONDS:
        row.state = SILENT
    if row.state != heartbeat.RUNNING:
        row.left = None
    return row


def _bad(run_dir: RunDir, name: str) -> int:
    path = f"errors/{name}.parquet"
    return run_dir.read_table(path, ["key"]).num_rows if run_dir.exists(path) else 0


def _price(given: Mapping[str, str]) -> float | None:
    if "price" not in given:
        return None
    try:
        price = float(given["price"])
    except ValueError as error:
        raise ConfigError(f"status: price={given['price']}: is no number") from error
    if not price >= 0:
        raise ConfigError(f"status: price={given['price']}: must be at least 0")
    return price


def _planned(run_dir: RunDir, price: float | None) -> dict[str, Row]:
    """What `plan` says of the run's configuration, by its assumed rates."""
    from pipelines.plan.estimate import rows_of as planned_rows
    from pipelines.plan.rates import assumed
    from pipelines.plan.shapes import Shapes

    config = config_tree.from_dict(config_tree.from_yaml(run_dir.read("config.yaml").decode()))
    shapes = Shapes(config)
    out = {}
    for row in planned_rows(config, shapes, assumed(config, shapes)):
        money = None if price is None else row.held_hours * price
        out[row.stage] = Row(
            row.stage, NOT_BEGUN, planned=row.wall_hours * 3600, planned_money=money
        )
    return out


def table(rows: Sequence[Row]) -> list[str]:
    """Lines for a terminal."""
    rows = [*rows, total(rows)]
    cells = [[r.stage, r.state, _counted(r), _time(r), _spent(r), _more(r)] for r in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(5)]
    return [
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[5]]).rstrip()
        for row in cells
    ]


def total(rows: Sequence[Row]) -> Row:
    """Of all stages: seconds and money."""

    def summed(values: list[float | None]) -> float | None:
        known = [v for v in values if v is not None]
        return sum(known) if known else None

    ended = sum(r.state == heartbeat.FINISHED for r in rows)
    return Row(
        "total",
        f"{ended} of {len(rows)}",
        bad=sum(r.bad for r in rows),
        seconds=sum(r.seconds for r in rows),
        planned=summed([r.planned for r in rows]),
        money=summed([r.money for r in rows]),
        planned_money=summed([r.planned_money for r in rows]),
    )


def _counted(row: Row) -> str:
    if not row.total:
        return ""
    rate = f", {row.rate:.3g}/s" if row.rate and row.state == heartbeat.RUNNING else ""
    return f"{row.done:,}/{row.total:,} {row.unit}{rate}"


def _time(row: Row) -> str:
    if row.left is not None:
        return f"{span(row.left)} left"
    if row.state == SILENT and row.heard is not None:
        return f"last heard {span(row.heard)} ago"
    return ""


def _spent(row: Row) -> str:
    parts = [span(row.seconds)] if row.seconds else []
    if row.planned is not None:
        parts.append(f"of {span(row.planned)} planned")
    if row.planned_money is not None:
        parts.append(f"({row.money or 0:,.2f} of {row.planned_money:,.2f})")
    return " ".join(parts)


def _more(row: Row) -> str:
    parts = [f"{row.bad} bad"] if row.bad else []
    if row.attempts > 1:
        parts.append(f"begun {row.attempts} times")
    parts += [text for text in (row.note, row.reason) if text and row.state != heartbeat.FINISHED]
    return "; ".join(parts)
