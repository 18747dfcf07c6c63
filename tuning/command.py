"""`denoised-weights tune study=NAME run_dir=RUN [key=value …]`: one study over a finished run.

Words that are a study's keys (`seeds=1`, `overfit.concepts=[…]`) override its YAML, the others the
run's configuration, for all variants alike. Writes RUN/tuning/NAME: trials.parquet, summary.json,
figure.png; prints the table. Started again, it runs the trials that have not ended.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.config.tree import from_dict, to_dict
from pipelines.runtime import tracking
from pipelines.runtime.actors import map_actors
from pipelines.runtime.foreign_output import foreign_output_to_file
from pipelines.runtime.log import log
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.run_lock import locked
from pipelines.runtime.session import ray_session
from pipelines.runtime.stage_graph import finished, provenance, record_errors
from pipelines.runtime.tracking import tell_rows, tracker
from tuning import branches, overfit_outcome, records, run_outcome
from tuning.export import markdown
from tuning.overfit import OVERFIT, generation_seconds, overfit_key
from tuning.study import Study, StudyError, expanded, load_study, own_words
from tuning.subjects import FOLDER as SUBJECTS
from tuning.subjects import TRUTH, ZERO, PrepareSubjects, Subject, chosen, subject_key
from tuning.trials import Trial, run_trials
from tuning.words import generator_words, keys_of, merged

FOLDER = "tuning"
ALL = pa.schema(
    [
        ("study", pa.string()),
        ("variant", pa.string()),
        ("trial", pa.string()),
        ("end", pa.string()),
        *records.ROWS,
    ]
)


def tune(words: Sequence[str]) -> int:
    """The command; its exit status. Raises ConfigError, StudyError and what the stages raise."""
    given = dict(w.partition("=")[::2] for w in words)
    of_study, of_config = own_words([w for w in words if w.partition("=")[0] != "study"])
    study = load_study(given["study"], of_study)
    name = Path(given["study"]).stem
    run_dir = RunDir(given["run_dir"])
    try:
        known = keys_of(run_dir)
    except ArtifactError as error:
        raise ConfigError(f"run_dir={given['run_dir']} holds no run to study: {error}") from error
    trials = planned(study, name, run_dir, known, of_config)
    session = load_config(merged(known, study.keys, of_config))
    tracking.check(session, run_dir)
    times: dict[str, Any] = {}
    alone = locked(run_dir, ["tune", *words], FOLDER)
    with foreign_output_to_file(), alone, ray_session(session, run_dir):
        failures = prepare(trials, run_dir)
        todo = [t for t in trials if t.key not in failures]
        failures |= run_trials(study, name, run_dir, todo)
        if study.trial == "overfit":
            times = timed(study, [t for t in todo if t.key not in failures], run_dir)
    summary = write(study, name, run_dir, trials, failures, times)
    tell_rows(
        tracker(session, run_dir, f"study {name}"),
        run_dir.read_table(f"{FOLDER}/{name}/trials.parquet").to_pylist(),
        "step",
        ("l1", "gap"),
        lambda row: row["variant"],
    )
    print(markdown(summary["table"]["heads"], summary["table"]["rows"]))
    home = f"{FOLDER}/{name}"
    log(f"study {name}: {run_dir.url(f'{home}/summary.json')}")
    if finished(run_dir, "report"):
        log("the report shows it after: denoised-weights report … redo='[report]'")
    bad = [{"key": f["trial"], "reason": f["reason"]} for f in summary["failed"]]
    record_errors(session, run_dir, f"tune-{name}", bad, len(trials))
    return 0


def planned(
    study: Study, name: str, run_dir: RunDir, known: Sequence[str], given: Sequence[str]
) -> list[Trial]:
    """All trials of a study; ConfigError if one's configuration is impossible.

    known: words of the run; given: the user's, for all variants.
    """
    if study.trial == "run":
        return _runs(study, name, run_dir, known, given)
    base = load_config(merged(known, given))
    network = generator_words(base, study.overfit.network)
    concepts = chosen(run_dir, study.overfit.concepts, base.seed)
    trials = []
    for variant, own in expanded(study).items():
        words = merged(known, network, study.keys, given, own, OVERFIT)
        config = load_config(words)
        shared = branches.shared_stages(config, run_dir)
        if "base" not in shared or finished(run_dir, "gans") is None:
            raise ConfigError(
                f"study {name}, {variant}: an overfit trial needs the run's own base and adapters;"
                f" of {run_dir.uri} it shares {', '.join(shared)}"
            )
        subjects = {c.concept_id: subject_key(config, run_dir, c.concept_id) for c in concepts}
        for concept in concepts:
            subject = subjects[concept.concept_id]
            for seed in range(config.seed, config.seed + study.seeds):
                trials.append(
                    Trial(
                        overfit_key(config, subject, seed, study.overfit.points),
                        variant,
                        "overfit",
                        to_dict(config),
                        [*study.keys, *own],
                        concept.concept_id,
                        seed,
                        f"{SUBJECTS}/{subject}",
                    )
                )
    return trials


def _runs(
    study: Study, name: str, run_dir: RunDir, known: Sequence[str], given: Sequence[str]
) -> list[Trial]:
    trials = []
    for variant, own in expanded(study).items():
        folder = branches.folder_of(run_dir, name, variant)
        # the validation words last, so that no study can open the test set
        more = (f"repeats={study.seeds}", f"run_dir={folder}")
        config = load_config(merged(known, study.keys, given, own, more, branches.VALIDATION))
        try:
            shared = branches.shared_stages(config, run_dir)
        except ConfigError:
            if not study.whole_runs:
                raise
            shared = []
        trials.append(
            Trial(
                branches.run_key(config, run_dir),
                variant,
                "run",
                to_dict(config),
                [*study.keys, *own],
                folder=str(folder),
                shared=tuple(shared),
            )
        )
    return trials


def prepare(trials: Sequence[Trial], run_dir: RunDir) -> dict[str, str]:
    """Make the subjects that are not there yet; trial → reason, where its subject failed."""
    failed: dict[str, str] = {}
    wanted: dict[str, Trial] = {}
    for trial in trials:
        if trial.subject and not run_dir.exists(f"{trial.subject}/subject.json"):
            wanted.setdefault(trial.subject, trial)
    while wanted:
        like = next(iter(wanted.values())).config
        same = {s: t for s, t in wanted.items() if _alike(t.config, like)}
        config = from_dict(like)
        folders = {t.concept_id: s for s, t in same.items()}
        arguments = {"config": like, "run_dir": run_dir, "folders": folders}
        rows = [{"concept_id": t.concept_id} for t in same.values()]
        log(f"adapters and unseen images of {len(rows)} concepts")
        for row in map_actors(config, PrepareSubjects, arguments, rows):
            if row["error"]:
                bad = folders[row["concept_id"]]
                failed |= {t.key: row["error"] for t in trials if t.subject == bad}
        wanted = {s: t for s, t in wanted.items() if s not in same}
    return failed


def _alike(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Whether two configurations make the same subjects."""
    return all(a[k] == b[k] for k in ("lora", "gans", "evaluate", "seed"))


def timed(study: Study, trials: Sequence[Trial], run_dir: RunDir) -> dict[str, Any]:
    """Variant → seconds to generate one adapter, one after another now that all trials are done."""
    import ray

    remote: Any = ray.remote(num_cpus=study.cpus, num_gpus=study.gpus)(_generation)
    out: dict[str, Any] = {}
    for trial in trials:
        if trial.variant not in out:
            arguments = (from_dict(trial.config), run_dir, trial.subject, study.cpus)
            out[trial.variant] = ray.get(remote.remote(*arguments))
    return out


def _generation(config: Config, run_dir: RunDir, folder: str, cpus: float) -> dict[str, Any]:
    import torch

    torch.set_num_threads(max(1, int(cpus)))
    return generation_seconds(config, run_dir, folder)


def write(
    study: Study,
    name: str,
    run_dir: RunDir,
    trials: Sequence[Trial],
    failures: dict[str, str],
    times: dict[str, Any],
) -> dict[str, Any]:
    """trials.parquet, summary.json and figure.png of a study; returns the summary.

    Raises StudyError if no trial has ended, or their numbers of images differ.
    """
    rows: list[dict[str, Any]] = []
    found: dict[str, dict[str, Any]] = {}
    for trial in trials:
        record = records.read(run_dir, trial.key)
        if record is None or not record[1]["end"] or trial.key in failures:
            continue
        about = {"study": name, "variant": trial.variant, "trial": trial.key}
        rows += [{**row, **about, "end": record[1]["end"]} for row in record[0]]
        found.setdefault(trial.variant, record[1])
    failed = [{"trial": t.name, "reason": failures[t.key]} for t in trials if t.key in failures]
    if not rows:
        raise StudyError(
            f"study {name}: none of {len(trials)} trials has ended; first: "
            + (failed[0]["reason"] if failed else "no reason is known")
        )
    home = f"{FOLDER}/{name}"
    run_dir.write_table(f"{home}/trials.parquet", pa.Table.from_pylist(rows, ALL))
    summary: dict[str, Any] = {
        "study": name,
        "axis": study.axis,
        "trial": study.trial,
        "scheduler": study.scheduler,
        "why": study.why,
        "seeds": study.seeds,
        "machine": machine(),
        **provenance(),
        "failed": failed,
        "paper_note": study.paper.note,
    }
    keys = {t.variant: t.words for t in trials}
    if study.trial == "overfit":
        of_ends = ends(trials, run_dir, {r["trial"] for r in rows})
        points = overfit_outcome.summarise(rows, of_ends)
        for variant, point in points.items():
            point |= {"keys": keys[variant], "generation": times.get(variant)}
        heads, cells = overfit_outcome.table(study.axis, points, of_ends, times, study.paper)
        summary |= {"ends": of_ends, "intervals": overfit_outcome.INTERVALS}
        summary["concepts"] = list(next(iter(of_ends.values())))
    else:
        measured = {v: {"keys": keys[v], **r["measured"]} for v, r in found.items()}
        points = run_outcome.compared(measured, rows)
        heads, cells = run_outcome.table(study.axis, points)
        summary |= {"split": "val", "intervals": run_outcome.INTERVALS}
    summary |= {
        "order": list(points),
        "variants": points,
        "table": {"heads": heads, "rows": cells},
        "config": trials[0].config,
    }
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "figure.png")
        if study.trial == "overfit":
            overfit_outcome.figure(study.axis, points, of_ends, path)
        else:
            run_outcome.figure(study.axis, points, path)
        run_dir.write(f"{home}/figure.png", path.read_bytes())
    run_dir.write_json(f"{home}/summary.json", summary)
    return summary


def ends(trials: Sequence[Trial], run_dir: RunDir, used: set[str]) -> dict[str, dict[str, Any]]:
    """Ground truth and zero LoRA → concept's text → scores.

    One pair of rows, or one per variant if the variants have adapters of their own.
    """
    by_variant: dict[str, dict[str, str]] = {}
    for trial in trials:
        if trial.key in used:
            by_variant.setdefault(trial.variant, {})[trial.concept_id] = trial.subject
    merged_subjects: dict[str, set[str]] = {}
    for subjects in by_variant.values():
        for concept_id, folder in subjects.items():
            merged_subjects.setdefault(concept_id, set()).add(folder)
    one = all(len(s) == 1 for s in merged_subjects.values())
    groups = (
        {"": {i: next(iter(s)) for i, s in merged_subjects.items()}}
        if one
        else {f" ({v})": s for v, s in by_variant.items()}
    )
    out: dict[str, dict[str, Any]] = {}
    for suffix, subjects in groups.items():
        for folder in subjects.values():
            subject = Subject.read(run_dir, folder)
            for name in (TRUTH, ZERO):
                scores = {**subject.scores[name], "concept_id": subject.concept_id}
                out.setdefault(name + suffix, {})[subject.text] = scores
    return out
