"""`denoised-weights plan`: what a run of this configuration takes, before anything is started.

`command=compare` plans that stage (pipelines/comparison/planning.py), `command=tune` a study
(tuning/planning.py).

Work (pipelines/plan/work.py) ÷ rates (pipelines/plan/rates.py) = time, stage after stage. What a
plan leaves out: waiting for machines, failures, gradients between workers, reading from storage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from modeling.cost import ANCHORS
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.plan.alternatives import alternatives, changed, in_words
from pipelines.plan.estimate import cluster_devices, rows_of, with_editors
from pipelines.plan.outcome import Alternative, Plan, Row
from pipelines.plan.rates import Rates, assumed
from pipelines.plan.rates import to_json as rates_to_json
from pipelines.plan.shapes import Shapes
from pipelines.plan.table import table
from pipelines.runtime.log import log


@dataclass(frozen=True)
class Grounds:
    """What a plan rests on."""

    config: Config
    shapes: Shapes
    rates: Rates
    machine: dict[str, Any] | None
    """Where rates were measured, if they were."""


def grounds(config: Config, own: Mapping[str, str]) -> Grounds:
    """Assumed rates, or with calibrate=true those of this machine. own: `own_words`."""
    shapes = Shapes(config)
    rates = assumed(config, shapes)
    if own.get("calibrate") != "true":
        return Grounds(config, shapes, rates, None)
    from pipelines.plan.arrangement import advice, arrangements
    from pipelines.plan.calibration import calibrate

    rates, machine = calibrate(config, shapes, rates)
    if tried := arrangements(config):
        line, machine["collecting"] = advice(config, tried)
        log(f"plan: {line}")
    return Grounds(config, shapes, rates, machine)


def plan(config: Config, own: Mapping[str, str], words: Sequence[str]) -> int:
    """The plan of a run. words: what the configuration was made of; raises as `tell`."""
    on = grounds(config, own)
    return tell(on, make_plan(config, on.shapes, on.rates), own, words)


def tell(on: Grounds, made: Plan, own: Mapping[str, str], words: Sequence[str]) -> int:
    """Print a plan, or write it as JSON; ConfigError if it cannot be written.

    json=- prints JSON in place of the table, json=FILE writes it beside the table.
    """
    data = to_json(on.config, made, on.rates, on.shapes, words) | {"measured_on": on.machine}
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    target = own.get("json", "")
    if target and target != "-":
        try:
            Path(target).expanduser().write_text(text)
        except OSError as error:
            raise ConfigError(f"json={target}: cannot be written ({error.strerror})") from error
    print(text if target == "-" else table(on.config, made), end="")
    return 0


def make_plan(config: Config, shapes: Shapes, rates: Rates) -> Plan:
    """The plan and, by the same rates, what would make it cheaper."""
    rows = rows_of(config, shapes, rates)
    made = summed(config, rows)
    held, found = made.held_hours, []
    for what, keys, quality in alternatives(config, rates):
        try:
            other = changed(config, keys)
            hours = sum(r.held_hours for r in rows_of(other, shapes, with_editors(other, rates)))
        except ConfigError:
            continue  # half of it is not possible here, such as fewer than the 10 images needed
        words = " ".join(f"{k}={in_words(v)}" for k, v in keys.items())
        found.append(Alternative(words, what, hours, hours / held if held else 1.0, quality))
    found.sort(key=lambda a: a.held_hours)
    helps = [a for a in found if a.of_total <= 0.995]
    return replace(made, alternatives=helps[:3])


def summed(config: Config, rows: list[Row], each: str = "stage") -> Plan:
    """Rows with their sums, one after another; each: what a row is of."""
    held = sum(r.held_hours for r in rows)
    return Plan(
        rows,
        *cluster_devices(config),
        sum(r.busy_hours for r in rows),
        sum(r.wall_hours for r in rows),
        held,
        sum(r.flops for r in rows),
        sum(r.stored_bytes for r in rows),
        held * config.plan.price if config.plan.price else None,
        max(rows, key=lambda r: r.held_hours).stage,
        each=each,
    )


def to_json(
    config: Config, made: Plan, rates: Rates, shapes: Shapes, words: Sequence[str]
) -> dict[str, Any]:
    """The plan and all it rests on."""
    return {
        "command": " ".join(["denoised-weights plan", *words]),
        **asdict(made),
        "price": config.plan.price or None,
        "networks": {
            "translator": shapes.cost.weights,
            "discriminator": shapes.cost.critic_weights,
            "adapter": shapes.layout.n_weights,
            "blocks": shapes.layout.n_blocks,
            "adapter_bytes": round(shapes.adapter_bytes),
            **rates.weights,
        },
        "rates": rates_to_json(rates),
        "anchors": {
            name: {**asdict(a), "per_second": round(a.per_second, 1)} for name, a in ANCHORS.items()
        },
        "assumptions": asdict(config.plan),
    }
