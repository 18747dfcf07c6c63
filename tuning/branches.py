"""Trials of the kind `run`: a branch of a finished run, whose changed stages are made again.

Stages that a variant's configuration leaves as they are are shared as hard links, the others made
in RUN-STUDY-VARIANT beside the run; what is finished there is skipped. The methods are scored on
the validation concepts: no study opens a test set.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.presentation.numbers import summarise
from pipelines.presentation.scores import Numbers
from pipelines.runtime.inventory import table_of
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.stage_graph import changes, depends_on, finished, identity, run_stage
from pipelines.runtime.stage_table import BY_NAME, STAGES
from pipelines.stages.evaluation_tables import load_rows

VALIDATION = ("adapt.split=val", "evaluate.scratch_steps=0", "evaluate.continued=false")
MADE = STAGES[:-1]
"""All stages but the report."""


def shared_stages(config: Config, source: RunDir) -> list[str]:
    """Finished stages of a run, in order, that this configuration leaves as they are.

    Raises ConfigError if there are none: every variant would be a run of its own.
    """
    out = []
    for stage in STAGES:
        marker = finished(source, stage.name)
        if marker is None or changes(stage, marker, depends_on(stage, config)):
            break
        out.append(stage.name)
    if not out:
        raise ConfigError(
            f"{source.uri} shares no stage with this study: {STAGES[0].name} has not finished"
            " there, or was made with another configuration"
        )
    return out


def branch(source: Path, to: Path, stages: Sequence[str]) -> None:
    """A run directory with these stages of another, as hard links."""
    part = to.with_name(f"{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    for stage in stages:
        for name in (*BY_NAME[stage].outputs, f"stages/{stage}.json", table_of(stage)):
            old, new = source / name, part / name
            new.parent.mkdir(parents=True, exist_ok=True)
            if old.is_dir():
                shutil.copytree(old, new, copy_function=os.link)
            elif old.exists():  # not every configuration makes all outputs
                os.link(old, new)
    part.rename(to)


def folder_of(source: RunDir, study: str, variant: str) -> Path:
    """Where a variant's branch lies; ConfigError for a run that is no local folder."""
    if not source.local:
        raise ConfigError(f"run_dir={source.uri}: branches are hard links: give a local folder")
    slug = re.sub(r"[^a-z0-9]+", "-", variant.lower()).strip("-")
    home = Path(source.uri)
    return home.parent / f"{home.name}-{study}-{slug}"


def run_key(config: Config, source: RunDir) -> str:
    """What decides a variant's result: its configuration and the data that it starts from."""
    made = {s.name: depends_on(s, config) for s in MADE}
    first = finished(source, STAGES[0].name)
    text = json.dumps(["run", made, identity(first) if first else ""], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_variant(
    source: RunDir, folder: Path, config: Config, shared: Sequence[str]
) -> tuple[list[dict[str, Any]], Numbers]:
    """Make a variant's stages in its folder; the rows of its evaluation, and what was measured.

    Raises what the stages raise.
    """
    if not folder.exists() and shared:
        log(f"{folder.name}: shares {', '.join(shared)}")
        branch(Path(source.uri), folder, shared)
    run_dir = RunDir(str(folder))
    for stage in MADE:
        run_stage(config, run_dir, stage.name)
    rows = load_rows(run_dir)
    return rows, measured(run_dir, rows)


def measured(run_dir: RunDir, rows: Sequence[Mapping[str, Any]]) -> Numbers:
    """Means per held-out set of one branch, and what its stages took."""
    methods = list(dict.fromkeys(r["method"] for r in rows))
    sets = summarise(rows, methods)
    kept = ("methods", "against", "concepts", "seeds", "last_step")
    made = {s.name: finished(run_dir, s.name) for s in STAGES}
    return {
        "sets": {h: {k: s[k] for k in kept} for h, s in sets.items()},
        "losses": (made["generator"] or {}).get("summary", {}),
        "seconds": {n: m["seconds"] for n, m in made.items() if m and n != "report"},
        "commit": (made["evaluate"] or {}).get("commit", ""),
    }
