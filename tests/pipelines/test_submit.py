"""`submit`: what is checked before anything is uploaded, and following a job to its end."""

from __future__ import annotations

import io
import shlex
import subprocess
from collections.abc import AsyncIterator, Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from pipelines import submit as module
from pipelines.__main__ import main
from pipelines.commandline.commands import COMMANDS
from pipelines.commandline.typed import key_words
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.runtime import session
from pipelines.runtime.run_dir import RunDir
from pipelines.submit import PACKAGES, SubmitError, follow, job_of, submit
from tests.driver import ROOT

HEAD = "address=http://127.0.0.1:8265"
SHARED = "cluster.shared_storage=true"


class Status(Enum):
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    STOPPED = "STOPPED"


class Jobs:
    """A job server that drops the line where a text of its log is an exception."""

    def __init__(self, tries: list[list[str | Exception]], end: Status = Status.SUCCEEDED) -> None:
        self.tries, self.end = iter(tries), end
        self.left = len(tries)
        self.plans: list[dict[str, Any]] = []
        self.refusals: list[Exception] = []

    def submit_job(self, **plan: Any) -> str:
        if self.refusals:
            raise self.refusals.pop()
        self.plans.append(plan)
        folder = Path(plan["runtime_env"]["working_dir"])
        self.uploaded = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
        return "raysubmit_1"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        self.left -= 1
        for text in next(self.tries):
            if isinstance(text, Exception):
                raise text
            yield text

    def get_job_status(self, job: str) -> Status:
        return self.end if not self.left else Status.RUNNING


@pytest.fixture(autouse=True)
def in_the_checkout(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    yield


def test_the_job_runs_the_uploaded_code_with_the_words_it_was_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = Jobs([["hello\n"]])
    words = ["preset=tiny", "run_dir=/mnt/a b", SHARED, HEAD, "command=gans"]
    assert submit(words, lambda address: jobs) == 0
    (plan,) = jobs.plans
    expected = "python -m pipelines gans preset=tiny 'run_dir=/mnt/a b' cluster.shared_storage=true"
    assert plan["entrypoint"] == expected
    assert set(plan["runtime_env"]) == {"working_dir"}
    assert plan["metadata"] == {"run_dir": "/mnt/a b", "preset": "tiny"}
    assert capsys.readouterr().out == "hello\n"
    # all that git knows of the packages, but for what was measured; and gone from here
    listed = subprocess.run(["git", "ls-files", *PACKAGES], capture_output=True, text=True)
    known = {f for f in listed.stdout.split() if not f.startswith("tuning/results/")}
    assert known <= set(jobs.uploaded)
    assert not Path(plan["runtime_env"]["working_dir"]).exists()


def test_what_else_lies_in_the_checkout_stays_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = ["pipelines/__main__.py", "pipelines/config/presets/tiny.yaml", "modeling/text.py"]
    private = [
        *(".env", "pipelines/.env", "photos/me.jpg", "data/x.csv", "venv/lib/a.py", "notes.md"),
        *("runs/demo/config.yaml", ".git/config", "pipelines/me.jpg", "modeling/w.safetensors"),
        *("pipelines/__pycache__/a.py", ".venv/a.py", "key.pem", "tuning/results/rows.parquet"),
    ]
    for name in (*code, *private):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x" * 1000)
    monkeypatch.chdir(tmp_path)
    jobs = Jobs([["hello\n"]])
    assert submit([HEAD, "preset=tiny", SHARED, "run_dir=/mnt/a"], lambda address: jobs) == 0
    assert jobs.uploaded == sorted(code)
    said = capsys.readouterr().err
    assert "uploading 3 files of modeling, pipelines, tuning, 0.0 MiB; nothing else" in said


@pytest.mark.parametrize(
    "words",
    [
        ["images.source=folder", "images.path=photos"],
        ["text_encoder=photos"],
        ["editing.models.null_text=photos"],
    ],
)
def test_a_folder_of_this_machine_is_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    key = words[-1].partition("=")[0]
    with pytest.raises(ConfigError, match=f"^{key}=photos is of this machine"):
        job_of("run", ["preset=tiny", "run_dir=memory://x", *words], ROOT)


@pytest.mark.parametrize(
    "words, expected",
    [
        (["preset=tiny"], "address=: give the dashboard's address"),
        ([HEAD, "preset=tiny"], "run_dir=runs/tiny is a folder of one machine"),
        ([HEAD, "preset=tinny", SHARED], "no such preset"),
        ([HEAD, "generator.stepz=1", SHARED], "unknown key generator.stepz"),
        ([HEAD, "command=serve", SHARED], "command=serve: one of run, concepts"),
        ([HEAD, "job=x", "preset=tiny"], "job=ID follows a job"),
    ],
)
def test_wrong_words_are_found_before_anything_is_sent(words: list[str], expected: str) -> None:
    jobs = Jobs([])
    with pytest.raises(ConfigError, match=expected):
        submit(words, lambda address: jobs)
    assert jobs.plans == []


TRANSLATE = ["run_dir=s3://b/run", "images=s3://b/in", "out=s3://b/out", "concept=red hair"]


@pytest.mark.parametrize(
    "command, words",
    [
        ("translate", [*TRANSLATE, "strength=0.5", "cluster.actors=4"]),
        ("translate", [*TRANSLATE[:3], "adapter=p-abc"]),
        ("finetune", ["indigo hair", "run_dir=s3://b/run", "out=s3://b/out", "editor=avatar"]),
        ("tune", ["study=block_size", "run_dir=s3://b/run", "seeds=1", "cluster.actors=2"]),
        ("translate", ["run_dir=/mnt/r", "images=/mnt/i", "out=/mnt/o", "concept=a", SHARED]),
    ],
)
def test_commands_on_a_finished_run_are_jobs_too(command: str, words: list[str]) -> None:
    typed = key_words(COMMANDS["submit"], [HEAD, f"command={command}", *words])
    assert typed == [HEAD, f"command={command}", *words]
    plan = job_of(command, words, ROOT)
    assert shlex.split(plan["entrypoint"]) == ["python", "-m", "pipelines", command, *words]
    assert plan["metadata"]["run_dir"] in ("s3://b/run", "/mnt/r")


@pytest.mark.parametrize(
    "command, words, reason",
    [
        ("translate", TRANSLATE[:2], "command=translate needs out="),
        ("translate", [*TRANSLATE[:2], "out=o", "concept=a"], "^out=o is of this machine"),
        ("translate", [*TRANSLATE, "clutser.actors=4"], "unknown key clutser; did"),
        ("finetune", ["a", "run_dir=s3://b/r", "out=s3://b/o", "pairs=p"], "^pairs=p is of this"),
        ("tune", ["study=block_size"], "command=tune needs run_dir="),
        ("tune", ["study=tests/driver.py", "run_dir=s3://b/r"], "^study=.* is of this machine"),
        ("tune", ["study=block_size", "run_dir=runs/x"], "is a folder of one machine"),
    ],
)
def test_such_jobs_are_checked_here(
    command: str, words: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=reason):
        job_of(command, words, ROOT)


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no checkout of denoised-weights"):
        job_of("run", ["preset=tiny", "run_dir=memory://x"], tmp_path)


@pytest.mark.parametrize("end, code", [("SUCCEEDED", 0), ("FAILED", 1), ("STOPPED", 130)])
def test_the_exit_code_is_the_jobs(end: str, code: int) -> None:
    assert submit([HEAD, "job=x"], lambda address: Jobs([["log"]], Status(end))) == code


def test_a_cluster_that_has_just_started_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [HEAD, "preset=tiny", SHARED, "run_dir=/mnt/a"]
    early = RuntimeError("Request failed: No available agent to submit job, please try again later")
    jobs = Jobs([["log"]])
    jobs.refusals = [early]
    assert submit(words, lambda address: jobs) == 0 and len(jobs.plans) == 1

    monkeypatch.setattr("pipelines.submit.STARTING", -1.0)
    for refusal in (early, RuntimeError("the working directory is too large")):
        jobs.refusals = [refusal]
        with pytest.raises(SubmitError, match="did not take the job"):
            submit(words, lambda address: jobs)


def test_a_lost_connection_is_made_again_and_no_line_is_printed_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tries: list[list[str | Exception]] = [
        ["one\n", "two\n", OSError("reset")],
        [RuntimeError("connection closed")],
        ["one\ntwo\nthr", ConnectionError("gone")],
        ["one\n", "two\n", "three\n", "four\n"],
    ]
    out = io.StringIO()
    assert follow(Jobs(tries), "x", out, wait=0) == "SUCCEEDED"
    assert out.getvalue() == "one\ntwo\nthree\nfour\n"
    monkeypatch.setattr(module, "PATIENCE", 0.0)
    with pytest.raises(SubmitError, match="x may still run"):
        follow(Jobs([[OSError("no route")]] * 9), "x", out, wait=0.01)


def test_a_job_that_is_not_there_is_no_lost_connection() -> None:
    missing = RuntimeError("Request failed with status code 404: Job x does not exist.")
    with pytest.raises(SubmitError, match="there is no job x"):
        follow(Jobs([[missing]]), "x", io.StringIO(), wait=0)


def test_a_cluster_that_does_not_answer_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["submit", "address=http://127.0.0.1:9", "preset=tiny", "run_dir=memory://x"]
    assert main(words) == 1
    printed = capsys.readouterr().err
    assert "cannot reach http://127.0.0.1:9" in printed and "Traceback" not in printed


def test_a_local_folder_on_several_machines_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def nodes(*hosts: str) -> None:
        there = [{"Alive": True, "NodeManagerHostname": h} for h in hosts]
        gone = {"Alive": False, "NodeManagerHostname": "gone"}
        monkeypatch.setattr(ray, "nodes", lambda: [*there, gone])

    local, remote = RunDir("runs/x"), RunDir("memory://x")
    config, shared = load_config(["preset=tiny"]), load_config(["preset=tiny", SHARED])
    nodes("a", "a")
    session.check_storage(config, local)
    nodes("a", "b")
    session.check_storage(config, remote)
    session.check_storage(shared, local)
    with pytest.raises(ConfigError, match="is a folder of one machine, and this Ray has 2"):
        session.check_storage(config, local)
