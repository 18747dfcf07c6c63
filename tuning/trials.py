"""A study's trials as one Ray Tune experiment.

Tune schedules, limits and stops trials; it keeps nothing that is read again. What a trial has found
is a record in the run directory (tuning/records.py), so `Tuner.restore`, which unpickles, is not
needed: a study that is started again hands Tune the trials that have not ended. Under a scheduler
those that have report their scores again, which takes no time, so that the others are compared with
them.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from ray.exceptions import RayActorError
from ray.tune import Trainable

from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime.log import Progress, log
from pipelines.runtime.machine import machine
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.runtime.stage_graph import provenance
from pipelines.stages.base import load_base
from tuning import branches, records
from tuning.overfit import Overfitting
from tuning.study import Study
from tuning.subjects import Subject

SCORE = "gap"
"""What a scheduler compares: unlike L1, it means the same on every concept."""
AGAIN = 2


@dataclass(frozen=True)
class Trial:
    """One variant with one concept and seed (overfit), or one variant (run)."""

    key: str
    variant: str
    kind: str
    config: dict[str, Any]
    words: list[str]
    concept_id: str = ""
    seed: int = 0
    subject: str = ""
    """Folder of the subject."""
    folder: str = ""
    """Of the branch."""
    shared: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (self.variant, self.concept_id))) + (
            f", seed {self.seed}" if self.kind == "overfit" else ""
        )


class TrialActor(Trainable):
    """A Tune trial, which `config["trial"]` describes: a Trial as a dict.

    A step goes to the next point that is scored; a trial `run` is a single step. The process serves
    one trial after another.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self.work = self._work(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.work = self._work(new_config)
        return True

    def step(self) -> dict[str, Any]:
        return next(self.work)

    def _work(self, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
        trial = Trial(**settings["trial"])
        config = config_tree.from_dict(trial.config)
        run_dir = RunDir(settings["run_dir"])
        about = {
            "variant": trial.variant,
            "kind": trial.kind,
            "keys": trial.words,
            "machine": machine(),
            **provenance(),
        }
        if trial.kind == "overfit":
            torch.set_num_threads(max(1, int(settings["cpus"])))
            yield from _overfit(trial, config, run_dir, settings["points"], about)
        else:
            yield _run(trial, config, run_dir, about)


def _run(trial: Trial, config: Config, run_dir: RunDir, about: dict[str, Any]) -> dict[str, Any]:
    begun = time.perf_counter()
    with ray_session(config):
        folder = Path(trial.folder)
        rows, measured = branches.run_variant(run_dir, folder, config, trial.shared)
    about |= {"measured": measured, "seconds": time.perf_counter() - begun}
    kept = [{k: row.get(k) for k in records.ROWS.names} for row in rows]
    for row in kept:
        row["fd_n"] = config.evaluate.fd_images if row["fd"] is not None else None
    records.write(run_dir, trial.key, kept, about, "finished")
    return {"done": True}


def _overfit(
    trial: Trial, config: Config, run_dir: RunDir, points: int, about: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    def result(row: dict[str, Any]) -> dict[str, Any]:
        return {SCORE: row[SCORE], "step": row["step"], "done": row["step"] == last}

    found = records.read(run_dir, trial.key)
    if found and found[1]["end"]:  # only under a scheduler, see above
        last = found[0][-1]["step"]
        yield from map(result, found[0])
        return
    last = config.generator.steps
    subject = Subject.read(run_dir, trial.subject)
    overfitting = Overfitting(config, load_base(config, run_dir)[0], subject, trial.seed)
    about |= {"blocks": overfitting.layout.n_blocks, "weights": overfitting.layout.n_weights}
    rows: list[dict[str, Any]] = []
    for point in overfitting.points(points):
        rows.append(point)
        end = "finished" if point["step"] == last else ""
        records.write(run_dir, trial.key, rows, about, end)
        yield result(point)


def scheduler(study: Study, steps: int) -> Any:
    """Tune's scheduler of a study, or None: every trial to its end."""
    from ray.tune.schedulers import ASHAScheduler, MedianStoppingRule

    grace = max(1, round(study.grace * steps))
    if study.scheduler == "asha":
        # brackets=1 is ASHA as published; a trial's step is Tune's measure of time
        return ASHAScheduler(
            time_attr="step", max_t=steps, grace_period=grace, reduction_factor=2, brackets=1
        )
    if study.scheduler == "median":
        return MedianStoppingRule(time_attr="step", grace_period=grace, min_samples_required=2)
    return None


def run_trials(study: Study, name: str, run_dir: RunDir, trials: Sequence[Trial]) -> dict[str, str]:
    """Run the trials that have not ended; key → reason of those that failed.

    A trial whose process died (killed, or out of memory) is run again, AGAIN times at most; one
    that failed by itself would fail again. Needs a Ray session; KeyboardInterrupt if stopped.
    """
    todo = [t for t in trials if not records.ended(run_dir, t.key)]
    log(f"study {name}: {len(trials)} trials, {len(trials) - len(todo)} finished earlier")
    failures: dict[str, str] = {}
    for left in range(AGAIN, -1, -1):
        if not todo:
            break
        alive = [t for t in trials if t.key not in failures]
        errors = _run_once(study, name, run_dir, alive, todo)
        failures |= {key: reason(error) for key, error in errors.items()}
        lost = [k for k, e in errors.items() if left and isinstance(e, RayActorError)]
        for key in lost:
            log(f"study {name}: a trial's process died, it is run again: {failures.pop(key)}")
        todo = [t for t in todo if t.key in lost]
    return failures


def _run_once(
    study: Study, name: str, run_dir: RunDir, trials: Sequence[Trial], todo: Sequence[Trial]
) -> dict[str, BaseException]:
    """One Tune experiment; key → error of the trials that failed."""
    # its own handler would end the study as if it were complete
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # which prints its tables whatever `verbose` says
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # images.path may be relative
    from ray import tune

    steps = max(config_tree.from_dict(t.config).generator.steps for t in trials)
    chosen = scheduler(study, steps)
    handed = list(trials) if chosen else list(todo)
    overfits = study.trial == "overfit"
    # a trial that is a run holds next to nothing: its stages take the cores
    resources = {"CPU": study.cpus, "GPU": study.gpus} if overfits else {"CPU": 0.01}
    with tempfile.TemporaryDirectory(prefix="tune-") as scratch:
        results = tune.Tuner(
            tune.with_resources(TrialActor, resources),
            param_space={
                "trial": tune.grid_search([asdict(t) for t in handed]),
                "run_dir": run_dir.uri,
                "points": study.overfit.points,
                "cpus": study.cpus,
            },
            tune_config=tune.TuneConfig(
                metric=SCORE if chosen else None,
                mode="min" if chosen else None,
                scheduler=chosen,
                max_concurrent_trials=study.concurrent,
                reuse_actors=True,
                trial_name_creator=lambda t: f"{name}-{t.trial_id}",
                trial_dirname_creator=lambda t: t.config["trial"]["key"],
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[_progress(name, {t.key: t for t in handed})],
            ),
        ).fit()
    errors: dict[str, BaseException] = {}
    for result in (results[i] for i in range(len(results))):
        # not result.config, which a trial that died before its first report has not
        key = Path(result.path).name
        if result.error is None:
            records.mark_stopped(run_dir, key)
        elif not records.ended(run_dir, key):  # what fails after its last record has lost nothing
            errors[key] = result.error
    return errors


def _progress(name: str, known: dict[str, Trial]) -> Any:
    """A callback that prints a line for each trial that ends."""
    from ray.tune import Callback

    bar = Progress(f"study {name}", len(known), "trials", every=0.0)

    class Lines(Callback):
        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            bar.add(note=known[trial.config["trial"]["key"]].name)

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            bar.add(note=f"{known[trial.config['trial']['key']].name} failed")

    return Lines()


def reason(error: BaseException) -> str:
    """The sentence of an error that came through Ray: its type and text are in a traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [x for x in lines if re.match(r"[\w.]*(Error|Interrupt|Exception)\b", x)]
    line = next((x for x in reversed(named) if not x.startswith("ray.")), "")
    line = line or (named or lines or [type(error).__name__])[-1]
    return re.sub(r"^(modeling|pipelines|tuning)\.[\w.]+Error: ", "", line)
