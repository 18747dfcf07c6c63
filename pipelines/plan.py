"""`denoised-weights plan`: what a run of this configuration takes, before anything is started.

Work (pipelines/plan_work.py) ÷ rates (pipelines/plan_rates.py) = time, stage after stage. What a
plan leaves out: waiting for machines, failures, gradients between workers, reading from storage.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from modeling.cost import ANCHORS
from pipelines.config import checks as config_checks
from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.plan_rates import Rates, assumed, edit_rate
from pipelines.plan_rates import to_json as rates_to_json
from pipelines.plan_work import (
    Shapes,
    StageWork,
    actors_of,
    candidate_editors,
    concept_counts,
    work_of,
)

OWN = ("calibrate", "json", "price")
"""Words of this command; all others are the configuration's."""


@dataclass(frozen=True)
class Row:
    """One stage of a plan."""

    stage: str
    work: str
    counts: dict[str, float]
    """What is done, how often."""
    flops: float
    stored_bytes: float
    devices: int
    """GPUs in use; where there are none, actors or workers on CPU cores."""
    busy_hours: float
    """Device-hours of work."""
    wall_hours: float
    held_hours: float
    """Device-hours of the whole cluster while the stage runs: what is paid for."""
    money: float | None
    basis: dict[str, list[str]]
    """Where rates come from, what takes longest first → the names of the rates."""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Alternative:
    """Another configuration, by the same model; it says nothing of quality."""

    words: str
    what: str
    held_hours: float
    of_total: float
    """Its device-hours, as a part of the plan's."""


@dataclass(frozen=True)
class Plan:
    """All rows, and what follows from them."""

    rows: list[Row]
    device: str
    """GPU | actor: what device-hours are of."""
    devices: int
    busy_hours: float
    wall_hours: float
    held_hours: float
    flops: float
    stored_bytes: float
    money: float | None
    dominant: str
    alternatives: list[Alternative]
    """Those that bring the device-hours to half or less; else the best three."""


def plan(words: Sequence[str]) -> int:
    """Print the plan, or write it as JSON. ConfigError if the words are wrong.

    `--json` prints JSON in place of the table, `json=FILE` writes it beside the table;
    `--calibrate` or calibrate=true measures here first; price=P is plan.price.
    """
    from pipelines.plan_table import table

    own, rest = _own(words)
    config = load_config(rest)
    shapes = Shapes(config)
    rates = assumed(config, shapes)
    machine = None
    if own.get("calibrate") == "true":
        from pipelines.calibration import calibrate

        rates, machine = calibrate(config, shapes, rates)
    made = make_plan(config, shapes, rates)
    data = to_json(config, made, rates, shapes, rest) | {"measured_on": machine}
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    target = own.get("json", "")
    if target and target != "-":
        try:
            Path(target).write_text(text)
        except OSError as error:
            raise ConfigError(f"json={target}: cannot be written ({error.strerror})") from error
    print(text if target == "-" else table(config, made), end="")
    return 0


def _own(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    own: dict[str, str] = {}
    rest: list[str] = []
    for word in words:
        flag = {"--json": "json=-", "--calibrate": "calibrate=true"}.get(word, word)
        key, equals, value = flag.partition("=")
        if key not in OWN:
            rest.append(word)
            continue
        if key in own:
            raise ConfigError(f"{key} is given twice")
        if not equals or not value:
            raise ConfigError(f"{word!r} is not of the form {key}=value")
        own[key] = value
    if own.get("calibrate", "false") not in ("true", "false"):
        raise ConfigError(f"calibrate={own['calibrate']}: calibrate must be true or false")
    if "price" in own:
        rest.append(f"plan.price={own['price']}")
    return own, rest


def make_plan(config: Config, shapes: Shapes, rates: Rates) -> Plan:
    """The plan and, by the same rates, what would make it cheaper."""
    rows = rows_of(config, shapes, rates)
    held = sum(r.held_hours for r in rows)
    found = []
    for what, keys in alternatives(config, rates):
        try:
            other = changed(config, keys)
            hours = sum(r.held_hours for r in rows_of(other, shapes, with_editors(other, rates)))
        except ConfigError:
            continue  # half of it is not possible here, such as fewer than the 10 images needed
        words = " ".join(f"{k}={_word(v)}" for k, v in keys.items())
        found.append(Alternative(words, what, hours, hours / held if held else 1.0))
    found.sort(key=lambda a: a.held_hours)
    helps = [a for a in found if a.of_total <= 0.995]
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
        [a for a in helps if a.of_total <= 0.5] or helps[:3],
    )


def with_editors(config: Config, rates: Rates) -> Rates:
    """The rates with those of the configuration's own editors; measured ones keep their speed."""
    table = dict(rates.table)
    for editor in candidate_editors(config):
        name = f"edit {editor}"
        rate = edit_rate(config, editor, actors_of(config))
        if name in table and table[name].flops:
            faster = table[name].flops / rate.flops
            rate = replace(rate, per_second=table[name].per_second * faster)
        table[name] = rate if name not in table or rate.flops else table[name]
    return Rates(table, rates.weights)


def cluster_devices(config: Config) -> tuple[str, int]:
    """What is paid for: all GPUs of the cluster, or without GPUs its actors."""
    c = config.cluster
    gpus = c.nodes * c.gpus_per_node
    if gpus:
        return "GPU", gpus
    if c.gpus_per_actor or c.gpu_training:
        raise ConfigError(
            "cluster.gpus_per_node=0: this configuration works on GPUs, say how many there are"
            " (cluster.nodes=4 cluster.gpus_per_node=8)"
        )
    return "actor", c.actors


def rows_of(config: Config, shapes: Shapes, rates: Rates) -> list[Row]:
    stages = work_of(config, shapes, rates.weights, concept_counts(config))
    return [_row(config, stage, rates) for stage in stages]


def _row(config: Config, stage: StageWork, rates: Rates) -> Row:
    kind, whole = cluster_devices(config)
    count, notes = stage.pool.devices, list(stage.notes)
    if stage.pool.gpus:
        room = math.floor(whole / stage.pool.gpus)
        if stage.stage in ("base", "generator") and count > room:
            raise ConfigError(
                f"{stage.stage}.workers={count}: the cluster has room for {room} workers with a"
                " GPU each (cluster.nodes, cluster.gpus_per_node)"
            )
        if count > room:
            notes.append(f"room for {room} of {count} actors")
        count = max(1, min(count, room))
    times: list[tuple[float, str, str]] = []
    busy = flops = wall = 0.0
    for work in stage.work:
        rate = rates.table[work.rate]
        seconds = work.count / rate.per_second
        shared = min(work.devices or count, count)
        times.append((seconds / shared, rate.source, work.rate))
        busy += seconds * (stage.pool.gpus or 1)
        wall += seconds / shared
        flops += work.count * rate.flops
    in_use = math.ceil(count * stage.pool.gpus) if stage.pool.gpus else count
    wall += stage.starts * config.plan.overhead_s
    if kind == "GPU" and not stage.pool.gpus:
        busy = 0.0
        if wall > 600:
            notes.append("works on CPU cores while the GPUs wait")
    elif in_use < whole and wall > 600:
        notes.append(f"{whole - in_use} of {whole} {kind}s wait")
    basis: dict[str, list[str]] = {}
    for _, source, name in sorted(times, key=lambda t: -t[0]):
        basis[source] = list(dict.fromkeys([*basis.get(source, []), name]))
    held = wall * whole / 3600
    return Row(
        stage.stage,
        stage.summary,
        {w.what: w.count for w in stage.work},
        flops,
        stage.stored,
        in_use,
        busy / 3600,
        wall / 3600,
        held,
        held * config.plan.price if config.plan.price else None,
        basis,
        notes,
    )


def alternatives(config: Config, rates: Rates) -> list[tuple[str, dict[str, Any]]]:
    """Changes worth knowing the effect of: what they are, and the keys that make them."""
    c, out = config, []

    def half(key: str, what: str) -> None:
        value = config_tree.flat(config_tree.to_dict(c))[key]
        if value >= 2:
            out.append((what, {key: value // 2}))

    editors = candidate_editors(c)
    if len(editors) > 1:
        out += [(f"{e} alone", {"editor": e}) for e in editors]
        slowest = min(editors, key=lambda e: rates.table[f"edit {e}"].per_second)
        fewer = [e for e in editors if e != slowest]
        out.append((f"without {slowest}, the slowest editor", {"editing.candidates": fewer}))
        half("editing.pilots", "half the images to choose an editor on")
    if "null_text" in editors and c.editing.inversions < c.images.count:
        key = {"editing.inversions": c.images.count}
        out.append(("null-text inversion of an image once for all concepts", key))
    if any(rates.table[f"edit {e}"].flops for e in editors):
        one = {"editor": "img2img", "plan.evaluations": {"img2img": 4}}
        out.append(("one distilled editor, 4 steps without guidance", one))
    half("images.count", "half the images a concept")
    half("concepts.train_combinations", "half the combinations")
    half("concepts.paired_combinations", "half the combinations without an adapter")
    half("gans.steps", "half the steps of an adapter")
    half("base.steps", "half the steps of the base")
    half("generator.steps", "half the steps of the weight generator")
    half("generator.image_steps", "half its steps on the image loss")
    half("repeats", "fewer seeds")
    half("evaluate.scratch_concepts", "half as many concepts trained from scratch")
    if c.rival.train:
        out.append(("no rival", {"rival.train": False}))
    if c.evaluate.ceiling:
        out.append(("no adapters trained on the held-out concepts", {"evaluate.ceiling": False}))
    return out


def changed(config: Config, keys: dict[str, Any]) -> Config:
    """A copy of the configuration with other values, checked."""
    tree = config_tree.to_dict(config)
    for key, value in keys.items():
        place = tree
        *sections, last = key.split(".")
        for section in sections:
            place = place[section]
        place[last] = value
    other = config_tree.from_dict(tree)
    config_checks.check(other)
    return other


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(value)}]"
    if isinstance(value, dict):
        return "'{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}'"
    return str(value)


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
