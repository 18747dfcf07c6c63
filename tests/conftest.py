"""What the tests of the stages share: settings for a small local Ray, and one finished run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

from tests.driver import Driver

# Before anything imports Ray or torch. Only tests run without a token.
os.environ |= {
    "OMP_NUM_THREADS": os.environ.get("TEST_THREADS", "1"),  # two: tests/processors.py
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "60",
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "pipelines.serve.middleware:proxy_middlewares",
}
os.environ.pop("RAY_ADDRESS", None)

# a test fails for what it finds, not for the time that a loaded machine takes to look
settings.register_profile("everywhere", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("everywhere")


LONG = ("cluster_run", "second_family", "full_disk", "service", "compare", "tune")
"""Test files that take minutes, the first of which makes the finished run."""


SLOW = (
    *("modeling/baselines", "modeling/editors/diffusion", "modeling/test_cost.py"),
    "modeling/weights/test_generator_training.py",
    *("pipelines/plan", "pipelines/stages", "pipelines/runtime/test_terminal.py"),
    *("pipelines/runtime/test_old_run.py", "pipelines/test_wheel.py", "pipelines/test_cli.py"),
    *("pipelines/serve/test_fuzz.py", "docs/test_commands.py", "tuning/test_study.py"),
)
"""What `make test-fast` leaves out, besides the long files: Ray, processes, minutes of maths."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Two processes (pytest-xdist) each take whole files: the long ones first, not at the end."""
    order = {f"test_{name}.py": place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
    here = Path(__file__).parent
    for item in items:
        place = str(item.path.relative_to(here))
        runs = "finished" in getattr(item, "fixturenames", ())
        if item.path.name in order or runs or place.startswith(SLOW):
            item.add_marker("slow")


@dataclass(frozen=True)
class Finished:
    """A run of all stages on the tiny preset that was killed twice and continued. Read only."""

    folder: Path
    words: list[str]
    """What the command was given, run_dir left out."""
    base_steps: list[dict[str, int]]
    """Checkpoints of base (folder → step) seen before it was killed, and after."""
    adapters: int
    """Adapters that were done when it was killed again."""
    outputs: list[str]
    """What each of the three drivers printed."""

    def copy(self, to: Path) -> list[str]:
        """Copy the run; returns the words for a command on the copy."""
        shutil.copytree(self.folder, to)
        return [*self.words, f"run_dir={to}"]


def last_checkpoint(run: Path) -> dict[str, int]:
    """Folder → step of the checkpoint that Ray Train would continue the base from; {} for none."""
    for snapshot in run.glob("train/base/*/checkpoint_manager_snapshot.json"):
        try:
            latest = json.loads(snapshot.read_text())["latest_checkpoint_result"]
        except ValueError:  # being written
            continue
        return {latest["checkpoint_dir_name"]: latest["metrics"]["step"]}
    return {}


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Made by the process that asks first; the other one waits for it."""
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made = shared / "finished.pickle"
    with FileLock(shared / "finished.lock"):
        if not made.exists():
            # a new folder: where the first process has failed, the second one fails by itself
            folder = Path(tempfile.mkdtemp(prefix="finished-", dir=shared))
            made.write_bytes(pickle.dumps(killed_and_continued(folder)))
        return pickle.loads(made.read_bytes())


def killed_and_continued(logs: Path) -> Finished:
    """One command, twice stopped, then let be: SIGTERM in base's training, Ctrl-C in gans.

    SIGTERM goes to every process, as batch systems send it. What is killed without a signal that
    could be answered is the subject of other tests.
    """
    folder = logs / "run"
    words = ["preset=tiny", "base.steps=30", "gans.steps=20", "gans.concepts_per_batch=1"]
    words += ["repeats=2", "rival.train=true", "evaluate.weights_only=true"]
    words += ["evaluate.scratch_steps=10", "evaluate.scratch_concepts=1"]
    words += ["evaluate.continued=true", "concepts.val_atoms=1", "tracking=tensorboard"]
    words += ["starts.joint_steps=4", "starts.reptile_steps=2", "starts.inner_steps=2"]
    controls = ["zero LoRA", "mean adapter", "nearest text", "ridge", "shuffled prompt"]
    controls += ["joint adapter", "Reptile", "LoRA-GA"]
    words += [f"evaluate.controls=[{','.join(controls)}]"]
    command = ["run", *words, f"run_dir={folder}"]
    outputs = []
    steps: list[dict[str, int]] = [{}, {}]

    def trained() -> bool:
        steps[0] |= last_checkpoint(folder)
        return bool(steps[0])

    def collected() -> int:
        steps[1] |= last_checkpoint(folder)
        return len(list(folder.glob("adapters/*/metrics.json")))

    for happened, number in ((trained, signal.SIGTERM), (collected, signal.SIGINT)):
        with Driver(command, logs) as driver:
            driver.wait_until(lambda: bool(happened()))  # noqa: B023 (called in the loop)
            status = driver.stop(number, "all" if number == signal.SIGTERM else "group")
            outputs.append(driver.output())
            assert status == 128 + number, outputs[-1][-6000:]
    adapters = collected()
    assert not (folder / "stages/gans.json").exists()
    with Driver(command, logs) as driver:
        outputs.append(driver.wait())
    return Finished(folder, words, steps, adapters, outputs)
