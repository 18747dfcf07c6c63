"""Curves and pictures of trainings in the tool that people watch: TensorBoard, MLflow or Weights &
Biases, by their own libraries. Off by default.

What is followed again after a stop goes on in the same curves. A tool that fails stops no work: it
is said once, and no more is sent.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from modeling.reasons import one_line
from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir

EVERY = 10
"""Steps whose mean is one point of a curve."""
PROJECT = "denoised-weights"
TOOLS = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}
"""Name → the module that it needs, which is also the name of the extra."""


class Tool(Protocol):
    """One curve sheet of a tool."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, step: int, name: str, picture: np.ndarray) -> None: ...

    def close(self) -> None: ...


def check(config: Config, run: RunDir) -> None:
    """ConfigError if the tool is not installed, or has no place."""
    tool = config.tracking
    if not tool:
        return
    if tool not in TOOLS:
        raise ConfigError(f"tracking={tool}: must be one of {', '.join(TOOLS)}, or nothing")
    if importlib.util.find_spec(TOOLS[tool]) is None:
        raise ConfigError(
            f"tracking={tool} needs its library: pip install 'denoised-weights[{tool}]'"
        )
    if not (run.local or config.tracking_place) and tool != "wandb":
        raise ConfigError(
            f"tracking={tool}: the run is not in a folder: give tracking_place=, a folder"
            + (" or the server's address" if tool == "mlflow" else "")
        )


class Tracker:
    """What a training tells; nothing if no tool is wanted."""

    def __init__(self, make: Callable[[], Tool] | None, what: str) -> None:
        self.what, self.tool = what, None
        self.waiting: dict[str, list[Any]] = defaultdict(list)
        self.last = 0
        if make is not None:
            self._try(lambda: setattr(self, "tool", make()))

    def __bool__(self) -> bool:
        return self.tool is not None

    def step(self, step: int, values: Mapping[str, Any]) -> None:
        """Values of a step, numbers or tensors of one: every EVERY-th step tells their mean."""
        if self.tool is None:
            return
        for key, value in values.items():
            self.waiting[key].append(value)
        self.last = step
        if step % EVERY == 0:
            self.flush()

    def flush(self) -> None:
        """Tell what waits, fewer than EVERY steps: at the end of a phase."""
        means = {k: float(np.mean([float(x) for x in v])) for k, v in self.waiting.items()}
        self.waiting.clear()
        self.scalars(self.last, means)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        tool = self.tool
        if tool is not None:
            self._try(lambda: tool.scalars(step, values))

    def picture(self, step: int, name: str, make: Callable[[], np.ndarray]) -> None:
        """make: gives uint8 [H, W, 3]; it is not called where nobody looks."""
        tool = self.tool
        if tool is not None:
            self._try(lambda: tool.picture(step, name, make()))

    def close(self) -> None:
        if self.waiting:
            self.flush()
        tool = self.tool
        if tool is not None:
            self._try(tool.close)
        self.tool = None

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:
            self.tool = None
            reason = one_line(f"{type(error).__name__}: {error}")
            log(f"{self.what}: tracking has ended, the work goes on: {reason}")


def tracker(config: Config, run: RunDir, what: str, begun_at: int = 0) -> Tracker:
    """Of `what` of a run, such as base or generator-1; begun_at: steps that were done before."""
    if not config.tracking:
        return Tracker(None, what)
    makers: dict[str, Callable[[Config, RunDir, str, int], Tool]] = {
        **{"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _Wandb}
    }
    make = makers[config.tracking]
    return Tracker(lambda: make(config, run, what, begun_at), what)


def tell_rows(
    told: Tracker,
    rows: Iterable[Mapping[str, Any]],
    step: str,
    scores: Sequence[str],
    name: Callable[[Mapping[str, Any]], str],
) -> None:
    """Of a table's rows the means of `scores`, by the column `step` and by name, to the end."""
    means: dict[tuple[int, str], list[float]] = defaultdict(list)
    for row in rows if told else ():
        for score in scores:
            if row[score] is not None:
                means[row[step], f"{score}/{name(row)}"].append(row[score])
    for (at, key), values in sorted(means.items()):
        told.scalars(at, {key: float(np.mean(values))})
    told.close()


def _place(config: Config, run: RunDir) -> str:
    return config.tracking_place or run.path("tracking")


def _key(run: RunDir, what: str) -> str:
    return hashlib.sha256(f"{run.uri} {what}".encode()).hexdigest()[:16]


class _TensorBoard:
    """Event files in PLACE/WHAT; points after the step that a resumed training begins at go."""

    def __init__(self, config: Config, run: RunDir, what: str, begun_at: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = f"{_place(config, run)}/{what}"
        self.writer: Any = SummaryWriter(folder, purge_step=begun_at + 1 if begun_at else None)
        if not begun_at:
            self.writer.add_text("configuration", f"```yaml\n{config_tree.to_yaml(config)}```")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        self.writer.add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        self.writer.close()


class _MLflow:
    """A run of the experiment denoised-weights, found again by a tag."""

    def __init__(self, config: Config, run: RunDir, what: str, begun_at: int) -> None:
        from mlflow import MlflowClient

        place = _place(config, run)
        # MLflow asks for a database instead, or for this word: a folder needs no server
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        uri = place if "://" in place else f"file:{place}"
        self.client = MlflowClient(uri)
        found = self.client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self.client.create_experiment(PROJECT)
        key = _key(run, what)
        runs = self.client.search_runs([experiment], f"tags.`{PROJECT}` = '{key}'")
        if runs and begun_at:
            self.id = runs[0].info.run_id
        else:
            tags = {PROJECT: key, "run_dir": run.uri}
            self.id = self.client.create_run(experiment, tags=tags, run_name=what).info.run_id
            self.client.log_text(self.id, config_tree.to_yaml(config), "config.yaml")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            # MLflow's names take no other signs
            plain = "".join(c if c.isalnum() or c in "_-. /" else "_" for c in name)
            self.client.log_metric(self.id, plain, value, step=step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        self.client.log_image(self.id, picture, f"{name}-{step:06d}.png")

    def close(self) -> None:
        self.client.set_terminated(self.id)


class _Wandb:
    """A run whose id is the run directory's, resumed if there is one."""

    def __init__(self, config: Config, run: RunDir, what: str, begun_at: int) -> None:
        import wandb

        self.wandb: Any = wandb
        self.run: Any = wandb.init(
            project=PROJECT,
            id=_key(run, what),
            name=what,
            resume="allow" if begun_at else None,
            dir=config.tracking_place or (run.path("") if run.local else None),
            config=config_tree.flat(config_tree.to_dict(config)),
        )

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self.run.log(dict(values), step=step)

    def picture(self, step: int, name: str, picture: np.ndarray) -> None:
        self.run.log({name: self.wandb.Image(picture)}, step=step)

    def close(self) -> None:
        self.run.finish()
