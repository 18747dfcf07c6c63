"""What the stages are, what each depends on, and when its finished work may be skipped.

A finished stage leaves `stages/<name>.json`: the part of the configuration it depends on, the
identity of its inputs, and size + CRC of every file it wrote (inventory.py). A later run skips the
stage only if all three still hold; a changed configuration is an error that names the key, never a
silent mix.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

from modeling.reasons import one_line
from pipelines.config import tree as config_tree
from pipelines.config.derived import precision_of, resolve_editor
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.config.sections.finetune import Refine
from pipelines.config.sections.scoring import Starts
from pipelines.runtime import ledger
from pipelines.runtime.heartbeat import beating, forget
from pipelines.runtime.inventory import (
    files_of,
    inventory,
    known_files,
    record_files,
    table_of,
    told_by,
    unchanged,
    write_known,
)
from pipelines.runtime.log import log
from pipelines.runtime.row_notes import folder_of
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_table import BY_NAME, FEATURES, SOURCES, STAGES, Stage, StageError
from pipelines.runtime.terminal import end_bar

TIMED = ("metrics.json", "timings.json")
"""Files of one concept with measured seconds among what they say (gans, adapt)."""


def _lookup(tree: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        tree = tree[part]
    return tree


def depends_on(stage: Stage, config: Config) -> dict[str, Any]:
    """The configuration that decides this stage's result."""
    tree = config_tree.to_dict(config)
    tree["editor"] = resolve_editor(config)
    if not (config.refine.steps or config.refine.basis_concepts):
        tree["refine"] = vars(Refine())  # switched off, its other keys decide nothing
    if not (config.starts.joint_steps or config.starts.reptile_steps):
        tree["starts"] = vars(Starts())
    keys = stage.sections
    if stage.name == "gans" and not config.gans.steps and config.gans.pilot_score == "fd":
        keys += FEATURES
    return {key: _lookup(tree, key) for key in keys}


def _differences(old: Any, new: Any, key: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        prefix = f"{key}." if key else ""
        return [
            line
            for k in sorted(old.keys() | new.keys())
            for line in _differences(old.get(k), new.get(k), f"{prefix}{k}")
        ]
    return [] if old == new else [f"{key}={old} then, {key}={new} now"]


def _marker(name: str) -> str:
    return f"stages/{name}.json"


def _started(name: str) -> str:
    return f"stages/{name}.started.json"


def finished(run: RunDir, name: str) -> dict[str, Any] | None:
    """The marker of a finished stage, or None."""
    return run.read_json(_marker(name)) if run.exists(_marker(name)) else None


def made_with(run: RunDir) -> Config:
    """The configuration that a run's finished stages were made with; ArtifactError without one.

    config.yaml is that of the last command; a stage's own marker says what its files were made of.
    """
    tree = config_tree.from_yaml(run.read("config.yaml").decode())
    for stage in STAGES:
        for key, value in (finished(run, stage.name) or {"config": {}})["config"].items():
            _put(tree, key, value)
    tree |= {"run_dir": run.uri, "redo": []}
    return config_tree.from_dict(tree)


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    """A section of a record may lack keys that are new; those of the tree stay."""
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[last] = tree.get(last, {}) | value if isinstance(value, dict) else value


def identity(marker: Mapping[str, Any]) -> str:
    """What a finished stage's result is, for the stages that build on it."""
    if "identity" in marker:
        return str(marker["identity"])
    return _identity(marker["config"], marker["files"])


def _identity(config: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """TIMED are left out: an adapter that is made again is the same, its seconds are not. So is the
    list of pictures: what came of them is in the pairs.
    """
    left_out = (*TIMED, SOURCES)
    kept = {f: told_by(s) for f, s in files.items() if f.rpartition("/")[2] not in left_out}
    text = json.dumps([config, kept], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ancestors(name: str) -> list[str]:
    """All stages that this one builds on, in order."""
    hit = set(BY_NAME[name].needs)
    for stage in reversed(STAGES):
        if stage.name in hit:
            hit |= set(stage.needs)
    return [s.name for s in STAGES if s.name in hit]


def followers(names: Iterable[str]) -> list[str]:
    """These stages and all that build on them, in order."""
    hit = set(names)
    for stage in BY_NAME.values():
        if hit & set(stage.needs):
            hit.add(stage.name)
    return [name for name in BY_NAME if name in hit]


def check_redo(names: Iterable[str]) -> None:
    """Raise ConfigError if one is no stage."""
    unknown = sorted(set(names) - set(BY_NAME))
    if unknown:
        raise ConfigError(f"redo={unknown[0]}: no such stage; there are {', '.join(BY_NAME)}")


def redo(config: Config, run: RunDir, names: Iterable[str]) -> None:
    """Delete the work of these stages and of all that follow.

    Raises ConfigError, and deletes nothing, if a stage that stays was made with another
    configuration: the stages could not be made again on top of it.
    """
    names = list(names)
    check_redo(names)
    doomed = followers(names)
    for stage in STAGES:
        marker = finished(run, stage.name)
        if marker is not None and stage.name not in doomed:
            _check_config(run, stage, marker, depends_on(stage, config))
    for name in reversed(doomed):
        if finished(run, name) or run.exists(_started(name)):
            log(f"redo: deleting the work of {name}")
        for path in (_marker(name), table_of(name), _started(name), f"errors/{name}.parquet"):
            run.delete(path)
        run.delete(folder_of(name))
        for path in BY_NAME[name].outputs:
            run.delete(path)
        run.delete(f"train/{name}")
        forget(run, name)


def _with_defaults(recorded: Any, wanted: Any, default: Any) -> Any:
    """A record with the keys that did not exist when it was made, at their defaults.

    A new key's default means what was done before there was one.
    """
    if not isinstance(recorded, dict) or not isinstance(default, dict):
        return recorded
    filled = {k: default[k] for k in wanted if k not in recorded and k in default}
    return filled | {
        k: _with_defaults(v, wanted.get(k), default.get(k)) for k, v in recorded.items()
    }


def changes(stage: Stage, record: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What a stage's record was made with other than is wanted, "KEY=then, KEY=now"."""
    old = _with_defaults(record["config"], wanted, depends_on(stage, Config()))
    return _differences(old, wanted, "")


def _check_config(
    run: RunDir, stage: Stage, record: dict[str, Any], wanted: dict[str, Any]
) -> None:
    lines = changes(stage, record, wanted)
    if lines:
        more = f" (and {len(lines) - 1} more)" if len(lines) > 1 else ""
        raise ConfigError(
            f"{run.uri} holds work of stage {stage.name} made with another configuration:"
            f" {lines[0]}{more}. Give another run_dir, or redo=[{stage.name}] to make it again"
        )


def run_stage(
    config: Config, run: RunDir, name: str, before: Callable[[], object] = lambda: None
) -> None:
    """Run one stage unless its finished work still holds.

    before: called once it is clear that the stage has to run.
    Raises StageError if what it needs is not there, ConfigError if the run directory holds work
    made with another configuration.
    """
    stage = BY_NAME[name]
    wanted = depends_on(stage, config)
    inputs = {}
    for need in ancestors(name):
        marker = finished(run, need)
        if marker is None:
            raise StageError(
                f"{name} needs stage {need}, which has not finished in {run.uri}: run it first"
            )
        _check_config(run, BY_NAME[need], marker, depends_on(BY_NAME[need], config))
        if need in stage.needs:
            inputs[need] = identity(marker)
    marker = finished(run, name)
    if marker is not None:
        _check_config(run, stage, marker, wanted)
        if marker["inputs"] != inputs:
            raise StageError(
                f"{name} was made from other inputs than are there now: give redo=[{name}]"
            )
        recorded = files_of(run, marker)
        there = inventory(run, stage, config.verify, recorded)
        bad = sorted(f for f, s in recorded.items() if not unchanged(s, there.get(f)))
        if not bad:
            if there != recorded and not run.local and config.verify == "content":
                # copied into a store: with its stamps, so that contents are read this once
                write_known(run, name, there)
            log(f"{name}: finished earlier, {len(there)} files verified")
            return
        log(f"{name}: {len(bad)} of its files are missing or changed ({bad[0]}): making them again")
        # a concept's files are one unit, complete when its last one is there: it goes whole
        for path in sorted({"/".join(path.split("/")[:2]) for path in bad}):
            run.delete(path)
        write_known(run, name, recorded)  # for whoever goes on if this command is stopped
        run.delete(_marker(name))
    if run.exists(_started(name)):
        started = run.read_json(_started(name))
        _check_config(run, stage, started, wanted)
        if started["inputs"] != inputs:
            raise StageError(
                f"{name} was begun on other inputs than are there now: give redo=[{name}]"
            )
        log(f"{name}: continuing where it was stopped")
    known = known_files(run, name) if run.exists(table_of(name)) else {}
    before()
    record = {"stage": name, "config": wanted, "inputs": inputs, **provenance()}
    run.write_json(_started(name), record)
    run.write("config.yaml", config_tree.to_yaml(config).encode())
    log(f"{name}: {stage.summary}")
    begun = time.perf_counter()
    with ledger.keeping():
        try:
            with beating(run, name):
                summary = importlib.import_module(stage.module).run(config, run)
        finally:
            end_bar()
        seconds = time.perf_counter() - begun
        files = inventory(run, stage, config.verify, known)
    record |= {"seconds": round(seconds, 2), "summary": summary or {}}
    if "precision" in stage.sections:
        record["precision"] = precision_of(config, name)
    record |= {"identity": _identity(wanted, files), **record_files(run, name, files)}
    run.write_json(_marker(name), record)
    log(f"{name}: done in {seconds:.1f} s")


def record_errors(
    config: Config, run: RunDir, stage: str, errors: list[dict[str, str]], total: int
) -> None:
    """Write the `errors` table (key, reason); StageError if more than the allowed part is bad.

    Takes all errors of the stage, those of an earlier, stopped attempt included.
    """
    schema = pa.schema([("stage", pa.string()), ("key", pa.string()), ("reason", pa.string())])
    # equal runs leave equal errors
    rows = [{"stage": stage, "key": e["key"], "reason": one_line(e["reason"])} for e in errors]
    run.delete(f"errors/{stage}.parquet")
    if rows:
        run.write_table(f"errors/{stage}.parquet", pa.Table.from_pylist(rows, schema))
        log(f"{stage}: {len(rows)} of {total} rows bad, e.g. {rows[0]['key']}: {rows[0]['reason']}")
    if total and len(rows) > config.max_error_fraction * total:
        raise StageError(
            f"{stage}: {len(rows)} of {total} rows are bad, more than max_error_fraction="
            f"{config.max_error_fraction}; first: {rows[0]['key']}: {rows[0]['reason']}"
            f" (all in {run.url(f'errors/{stage}.parquet')})"
        )


@cache
def provenance() -> dict[str, Any]:
    """Package versions and git commit, saved beside the artifacts: of the code that is loaded."""
    packages = (
        "ray",
        "torch",
        "diffusers",
        "peft",
        "transformers",
        "clean-fid",
        "pyarrow",
        "numpy",
    )
    commit = ""
    try:
        root = Path(__file__).parent
        commit = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        pass  # an installed copy has no repository
    return {"versions": {p: metadata.version(p) for p in packages}, "commit": commit}
