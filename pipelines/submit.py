"""`denoised-weights submit`: a command as a Ray job on a running cluster, followed to its end.

A thin layer over Ray's job SDK. The checkout's code is uploaded and `python -m pipelines` runs in
it, so that the job runs this code and not a copy installed on the nodes. The job belongs to the
cluster: stopping the command, or losing the connection, leaves it running, and `job=ID` finds it
again.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from pipelines.commandline.commands import COMMANDS
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.nearest import all_keys
from pipelines.config.paths import paths_of
from pipelines.runtime.log import log
from pipelines.runtime.stage_table import BY_NAME, StageError

OWN = ("address", "job", "command")
"""Words of this command; all others are the job's."""
PLACES = {
    "tune": ("study",),
    "translate": ("images", "out", "adapter"),
    "finetune": ("out", "texts", "sources", "edits", "pairs"),
}
"""Commands beside the stages that a job may run → words of theirs that name a place."""
PACKAGES = ("modeling", "pipelines", "tuning")
SUFFIXES = (".py", ".yaml", ".html", ".css", ".md")
"""What is uploaded, and nothing else: photographs, runs and `.env` may lie in a checkout, too."""
CODES = {"SUCCEEDED": 0, "FAILED": 1, "STOPPED": 130}
PATIENCE = 300.0
"""Seconds without a connection after which the job is given up on (it may still run)."""

STARTING = 60.0
"""Seconds that a cluster may take to be ready for jobs."""
NO_AGENT = "No available agent"


class SubmitError(StageError):
    """The cluster did not take the job, or could not be reached."""


def submit(words: Sequence[str], connect: Callable[[str], Any] | None = None) -> int:
    """Submit `words` as a job, or find job=ID again; print its log; return its exit code.

    0 it succeeded, 1 it failed, 130 it was stopped. ConfigError if the words are wrong (which is
    found here, before anything is uploaded), SubmitError if the cluster cannot be reached.
    """
    own = {k: v for k, _, v in (w.partition("=") for w in words) if k in OWN}
    rest = [w for w in words if w.partition("=")[0] not in OWN]
    address = own.get("address") or os.environ.get("RAY_ADDRESS", "")
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"address={address}: give the dashboard's address, such as address=http://127.0.0.1:8265"
        )
    if "job" in own and (rest or "command" in own):
        raise ConfigError("job=ID follows a job that was submitted: give no other keys")
    plan = None if "job" in own else job_of(own.get("command", "run"), rest)
    client = _connected(address, connect or _client)
    if plan is None:
        job = own["job"]
        log(f"submit: following {job}")
    else:
        with _code(Path.cwd()) as folder:
            plan["runtime_env"] = {"working_dir": str(folder)}
            job = _taken(client, plan, address)
        log(f"submit: {job} runs `{plan['entrypoint']}`")
    again = f"denoised-weights submit address={address} job={job}"
    try:
        status = follow(client, job, sys.stdout)
    except KeyboardInterrupt:
        log(f"submit: {job} goes on without us; `{again}` follows it, `ray job stop` ends it")
        return 130
    log(f"submit: {job} {status.lower()}")
    return CODES[status]


def _taken(client: Any, plan: dict[str, Any], address: str, wait: float = 1.0) -> str:
    """The job's id. A head that has just started takes no jobs until its agent is there."""
    asked = Retrying(
        retry=retry_if_exception(lambda error: NO_AGENT in str(error)),
        wait=wait_fixed(wait),
        stop=stop_after_delay(STARTING),
        reraise=True,
    )
    try:
        return str(asked(client.submit_job, **plan))
    except (RuntimeError, ValueError, OSError) as error:
        raise SubmitError(f"{address} did not take the job: {_line(error)}") from error


def job_of(command: str, words: Sequence[str], folder: Path | None = None) -> dict[str, Any]:
    """What to submit: entry point and metadata, after checking the words here.

    folder: the checkout, by default the working directory. ConfigError if it is none, if the
    configuration is wrong, or if run_dir, pictures or models are not where all nodes see them.
    """
    if command not in (*BY_NAME, "run", *PLACES):
        raise ConfigError(f"command={command}: one of run, {', '.join([*BY_NAME, *PLACES])}")
    places = PLACES.get(command)
    own = COMMANDS[command].words
    given = dict(w.partition("=")[::2] for w in words if "=" in w)
    missing = [word for word in COMMANDS[command].required if not given.get(word)]
    if missing:
        raise ConfigError(f"command={command} needs {missing[0]}= ({own[missing[0]]})")
    keys = [w for w in words if "=" in w and w.partition("=")[0] not in own]
    if command == "tune":  # a study's keys are its own to check, where it is read
        keys = [w for w in keys if w.partition("=")[0] in all_keys()]
    config = load_config(words if places is None else [f"run_dir={given['run_dir']}", *keys])
    from pipelines.runtime.run_dir import RunDir  # pyarrow: not before the words are right

    run = RunDir(config.run_dir)
    if run.local and not config.cluster.shared_storage:
        raise ConfigError(
            f"run_dir={config.run_dir} is a folder of one machine: give a URI that all nodes see"
            " (s3://…, gs://…), or cluster.shared_storage=true if it is mounted on all of them"
        )
    for key in places or ():
        where = given.get(key, "")
        local = where and "://" not in where and not config.cluster.shared_storage
        is_name = key in ("adapter", "study") and not Path(where).exists()
        if local and not is_name:
            raise ConfigError(
                f"{key}={where} is of this machine, and the nodes do not see it: give a URI,"
                " or cluster.shared_storage=true if it is mounted on all of them"
            )
    for key, path in paths_of(config):
        if not Path(path).is_absolute() and Path(path).exists():
            raise ConfigError(
                f"{key}={path} is of this machine, and the nodes do not see it: give a URI, or"
                " an absolute path that they have"
            )
    here = folder or Path.cwd()
    if not (here / "pipelines" / "__main__.py").exists():
        raise ConfigError(f"{here} is no checkout of denoised-weights: run submit in one")
    return {
        "entrypoint": shlex.join(["python", "-m", "pipelines", command, *words]),
        "metadata": {"run_dir": run.uri, "preset": config.preset},
    }


@contextmanager
def _code(checkout: Path) -> Iterator[Path]:
    """A folder with what the job needs of a checkout, for as long as it is uploaded."""
    with tempfile.TemporaryDirectory(prefix="denoised-weights-submit-") as scratch:
        count = size = 0
        for package in PACKAGES:
            for source in sorted((checkout / package).rglob("*")):
                place = source.relative_to(checkout)
                hidden = any(part.startswith((".", "__pycache__")) for part in place.parts)
                if hidden or source.suffix not in SUFFIXES or not source.is_file():
                    continue
                target = Path(scratch) / place
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
                count, size = count + 1, size + target.stat().st_size
        log(
            f"submit: uploading {count} files of {', '.join(PACKAGES)}, {size / 2**20:.1f} MiB;"
            " nothing else of this folder"
        )
        yield Path(scratch)


def follow(client: Any, job: str, out: TextIO, wait: float = 2.0) -> str:
    """Copy the job's log to `out` until it has ended; returns its status.

    A lost connection is made again: the log comes from its start then, and what was printed before
    is skipped. SubmitError after PATIENCE seconds without one, or if there is no such job. (Not by
    tenacity, which bounds the whole: here the time counts from the last line that came.)
    """
    printed, lost_at = 0, 0.0

    async def copy() -> None:
        nonlocal printed, lost_at
        seen = 0
        async for text in client.tail_job_logs(job):
            lost_at = 0.0
            new = text[max(0, printed - seen) :]
            seen += len(text)
            printed = max(printed, seen)
            out.write(new)
            out.flush()

    from aiohttp import ClientError

    while True:
        try:
            asyncio.run(copy())
            status = str(client.get_job_status(job).value)
            if status in CODES:
                return status
            lost_at = 0.0
        except (ClientError, OSError, RuntimeError) as error:  # those of requests are OSErrors
            if "does not exist" in str(error) or "404" in str(error):
                raise SubmitError(f"there is no job {job}") from error
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > PATIENCE:
                raise SubmitError(
                    f"no connection to the cluster for {PATIENCE:.0f} s ({_line(error)});"
                    f" {job} may still run"
                ) from error
        time.sleep(wait)


def _client(address: str) -> Any:
    from ray.job_submission import JobSubmissionClient

    return JobSubmissionClient(address)


def _connected(address: str, connect: Callable[[str], Any]) -> Any:
    try:
        return connect(address)
    except (OSError, RuntimeError, ValueError) as error:
        raise SubmitError(
            f"cannot reach {address}: {_line(error)} (is the tunnel open? `ray dashboard FILE`;"
            " does the token in ~/.ray/auth_token belong to this cluster?)"
        ) from error


def _line(error: Exception) -> str:
    """The first line that says something."""
    return next((t for t in str(error).splitlines() if t.strip()), type(error).__name__)
