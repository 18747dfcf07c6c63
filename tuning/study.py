"""One-factor studies on the validation concepts: `python -m tuning.study RUN_DIR STUDY…`.

A study is a file `tuning/studies/STUDY.yaml`: keys for all of its variants, and each variant's own.
Every variant branches the finished run: stages that its configuration leaves as they are are shared
(hard links), the others are made in RUN_DIR-STUDY-VARIANT, and all that were finished are skipped.
The methods are scored on the validation concepts; no study opens a test set. Writes
tuning/results/RUN/STUDY.json and docs/RUN-STUDY.png (RUN: the run's folder), and prints a table.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipelines.artifacts import ArtifactError, RunDir
from pipelines.config import Config, ConfigError, flat, load_config, to_dict
from pipelines.contenders import CEILING, PREDICTION
from pipelines.log import log
from pipelines.machine import machine
from pipelines.report_curves import COLOURS
from pipelines.report_numbers import Numbers, plural, summarise
from pipelines.session import ray_session
from pipelines.stages import BY_NAME, STAGES, depends_on, finished, made_with
from tuning.panels import panels, save

ROOT = Path(__file__).parents[1]
STUDIES = Path(__file__).parent / "studies"
VALIDATION = ("adapt.split=val", "evaluate.scratch_steps=0", "evaluate.continued=false")
SHOWN = (PREDICTION, "ridge", "nearest text", "mean adapter", "zero LoRA")


@dataclass
class Study:
    """`axis`: what varies; `keys` hold for all variants; `variants`: name → further keys."""

    axis: str = "???"
    keys: list[str] = field(default_factory=list)
    variants: dict[str, list[str]] = field(default_factory=dict)


def load_study(name: str) -> Study:
    """Raises ConfigError for a file that is not there, or is no study."""
    path = STUDIES / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in STUDIES.glob("*.yaml")))
        raise ConfigError(f"no study {name!r}; there are {known}")
    try:
        tree = OmegaConf.merge(OmegaConf.structured(Study), OmegaConf.load(path))
        study = OmegaConf.to_object(tree)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path.name}: {str(error).splitlines()[0]}") from error
    assert isinstance(study, Study)
    if not study.variants:
        raise ConfigError(f"{path.name}: it has no variants")
    return study


def keys_of(source: RunDir) -> list[str]:
    """`key=value` for what a run's configuration has other than its preset."""
    config = to_dict(made_with(source))
    words = [f"preset={config['preset']}"]
    if config["images"]["source"] == "folder":  # presets say something else of photographs
        words += ["images.source=folder", f"images.path={config['images']['path']}"]
    preset = flat(to_dict(load_config(words)))
    other = {k: v for k, v in flat(config).items() if v != preset[k] and k != "run_dir"}
    return merged(words, [f"{k}={json.dumps(v)}" for k, v in other.items()])


def merged(*words: Sequence[str]) -> list[str]:
    """`key=value` words of several lists; of one key, the last counts."""
    return list({w.partition("=")[0]: w for w in itertools.chain(*words)}.values())


def shared_stages(config: Config, source: RunDir) -> list[str]:
    """Finished stages of a run, in order, that this configuration leaves as they are.

    Raises ConfigError if there are none: every variant would be a run of its own.
    """
    out = []
    for stage in STAGES:
        marker = finished(source, stage.name)
        if marker is None or marker["config"] != depends_on(stage, config):
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
        for name in (*BY_NAME[stage].outputs, f"stages/{stage}.json"):
            old, new = source / name, part / name
            new.parent.mkdir(parents=True, exist_ok=True)
            if old.is_dir():
                shutil.copytree(old, new, copy_function=os.link)
            elif old.exists():  # not every configuration makes all outputs
                os.link(old, new)
    part.rename(to)


def measured(run_dir: RunDir, keys: Sequence[str]) -> Numbers:
    """Means per held-out set of one branch, and what its stages took."""
    rows = run_dir.read_table("evaluation/rows.parquet").to_pylist()
    methods = list(dict.fromkeys(r["method"] for r in rows))
    sets = summarise(rows, methods)
    kept = ("methods", "against", "concepts", "seeds", "last_step")
    made = {s.name: finished(run_dir, s.name) for s in STAGES}
    return {
        "keys": list(keys),
        "sets": {h: {k: s[k] for k in kept} for h, s in sets.items()},
        "losses": (made["generator"] or {}).get("summary", {}),
        "seconds": {n: m["seconds"] for n, m in made.items() if m and n != "report"},
        "commit": (made["evaluate"] or {}).get("commit", ""),
    }


def table(points: Mapping[str, Numbers]) -> str:
    """Markdown: a row per variant, L1 of the prediction before → after in each held-out set."""
    held = list(next(iter(points.values()))["sets"])
    lines = [["variant", *(plural(h) for h in held)], ["---"] * (1 + len(held))]
    for name, point in points.items():
        ends = [point["sets"][h]["methods"][PREDICTION] for h in held]
        lines.append([name, *(f"{e['before']['l1']:.4f} → {e['after']['l1']:.4f}" for e in ends)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def figure(axis: str, points: Mapping[str, Numbers], path: Path) -> None:
    """One panel per held-out set: L1 at step 0 and after the fine-tune.

    Over a logarithmic axis of the variants' numbers, or one place per variant if they are words.
    """
    from matplotlib.ticker import NullLocator

    first = next(iter(points.values()))
    numeric = all(name.isdigit() for name in points)
    places = [int(n) for n in points] if numeric else list(range(len(points)))
    titles = [f"{s['concepts']} {plural(h)}" for h, s in first["sets"].items()]
    how = "dashed" if numeric else "hollow"
    fig, axes = panels(titles, axis, f"mean L1 ({how}: after the fine-tune)")
    for ax, held in zip(axes, first["sets"], strict=True):
        for method in (*SHOWN, CEILING):
            ends = [p["sets"][held]["methods"].get(method) for p in points.values()]
            if not all(ends):
                continue
            for when, style in (("before", "-"), ("after", "--")):
                if method == CEILING and when == "before":
                    continue
                colour, ours = COLOURS[method][0], method == PREDICTION
                ax.plot(
                    places,
                    [e[when]["l1"] for e in ends if e],
                    ls=style if numeric else "none",
                    color=colour,
                    lw=2.6 if ours else 1.3,
                    marker="o",
                    ms=3 if numeric else 9 if ours else 6,
                    mfc=colour if when == "before" or numeric else "white",
                    label=method if when == "before" or method == CEILING else None,
                )
        if numeric:
            ax.set_xscale("log", base=2)
            ax.xaxis.set_minor_locator(NullLocator())
        else:
            ax.margins(x=0.2)
        ax.set_xticks(places, [textwrap.fill(name, 12) for name in points])
    save(fig, axes, path)


def run_study(source: Path, name: str) -> int:
    """Make, measure and draw all variants of a study; the exit status of a stage that fails."""
    from pipelines.__main__ import main as command

    study = load_study(name)
    run = RunDir(str(source))
    given = keys_of(run)
    points: dict[str, Numbers] = {}
    out = RunDir(str(ROOT / "tuning" / "results" / source.name))
    with ray_session(load_config(merged(given, study.keys)), run):
        for variant, own in study.variants.items():
            slug = re.sub(r"[^a-z0-9]+", "-", variant.lower()).strip("-")
            folder = source.parent / f"{source.name}-{name}-{slug}"
            # last, so that no study can open the test set
            words = merged(given, study.keys, own, VALIDATION, [f"run_dir={folder}"])
            if not folder.exists():
                shared = shared_stages(load_config(words), run)
                log(f"study {name}, {variant}: shares {', '.join(shared)}")
                branch(source, folder, shared)
            for stage in STAGES[:-1]:  # all but the report
                status = command([stage.name, *words])
                if status:
                    return status
            points[variant] = measured(RunDir(str(folder)), [*study.keys, *own])
            out.write_json(
                f"{name}.json",
                {
                    "axis": study.axis,
                    "split": "val",
                    "machine": machine(),
                    "order": list(points),
                    "variants": points,
                },
            )
    figure(study.axis, points, ROOT / "docs" / f"{source.name}-{name}.png")
    print(table(points))
    return 0


def main(words: Sequence[str]) -> int:
    if len(words) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    if "://" in words[0]:
        print("tuning.study: branches are hard links: give a local RUN_DIR", file=sys.stderr)
        return 2
    try:
        for name in words[1:]:
            status = run_study(Path(words[0]), name)
            if status:
                return status
    except (ConfigError, ArtifactError) as error:
        print(f"tuning.study: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
