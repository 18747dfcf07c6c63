"""Object stores that refuse, throttle, or are not there: a sentence that names the file.

The clients are real (s3fs, botocore), and so is the server on loopback; it answers what it is told.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from pipelines.__main__ import main
from pipelines.runtime import run_dir
from pipelines.runtime.run_dir import ATTEMPTS, PATIENT, ArtifactError, RunDir
from tests.driver import ROOT

ERROR = "<Error><Code>{code}</Code><Message>{message}</Message></Error>"
SLOW = (503, "SlowDown", "Please reduce your request rate.")


class Store(ThreadingHTTPServer):
    """Answers with `answers` in turn, of which the last one stays: (status, code, message)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, str, str]] = []
        self.asked = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Store
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked += 1
        answers = self.server.answers
        status, code, message = answers.pop(0) if len(answers) > 1 else answers[0]
        body = b"" if self.command == "PUT" else b"[1]"
        if status >= 300:
            body = ERROR.format(code=code, message=message).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.send_header("Last-Modified", "Fri, 27 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    store = Store()
    threading.Thread(target=store.serve_forever, daemon=True).start()
    for key in list(os.environ):
        if key.startswith("AWS_"):
            monkeypatch.delenv(key)
    monkeypatch.setenv("HOME", str(tmp_path))  # no credentials there
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(run_dir, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(run_dir, "_reached", set())
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    yield store
    store.shutdown()
    store.server_close()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


CALLS: dict[str, Callable[[RunDir], Any]] = {
    "exists": lambda run: run.exists("stages/base.json"),
    "size": lambda run: run.size("a"),
    "read": lambda run: run.read("a"),
    "read_json": lambda run: run.read_json("a"),
    "read_table": lambda run: run.read_table("a"),
    "read_schema": lambda run: run.read_schema("a"),
    "read_row_groups": lambda run: list(run.read_row_groups("a")),
    "files": lambda run: run.files("adapters"),
    "checksum": lambda run: run.checksum("a"),
    "write": lambda run: run.write("a", b"x"),
    "create": lambda run: run.create("a", b"x"),
    "delete": lambda run: run.delete("a"),
}


def writing(run: RunDir) -> None:
    with run.writing("a") as file:
        file.write(b"x")


CALLS["writing"] = writing

REFUSALS = {
    "no rights": ((403, "AccessDenied", "Access Denied"), ("Access Denied", "Forbidden")),
    "wrong key": ((403, "InvalidAccessKeyId", "No such key id"), ("No such key id", "Forbidden")),
    "broken": ((500, "Strange", "We are sorry"), ("We are sorry", "500", "Internal Server Error")),
    "throttles for ever": (SLOW, ("reduce your request rate", "SlowDown", "Service Unavailable")),
}
EACH = [(call, "no rights") for call in CALLS]
EACH += [(call, refusal) for call in ("exists", "read", "write") for refusal in REFUSALS]


@pytest.mark.parametrize(("call", "refusal"), sorted(set(EACH)))
def test_what_a_store_refuses_is_a_sentence_with_the_file(
    call: str, refusal: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, reasons = REFUSALS[refusal]
    store.answers = [answer]
    monkeypatch.setattr(run_dir, "ATTEMPTS", 2)
    with pytest.raises(ArtifactError) as error:
        CALLS[call](RunDir("s3://bucket/run"))
    text = str(error.value)
    assert text.startswith("s3://bucket/run/") and " cannot be " in text and "\n" not in text
    assert any(reason in text for reason in reasons), text


@pytest.mark.parametrize("call", ["read", "write"])
def test_a_store_that_throttles_is_asked_again(call: str, store: Store) -> None:
    # s3fs itself does not, after a HEAD, which has no text to say why
    store.answers = [SLOW] * 5 + [(200, "", "")]
    CALLS[call](RunDir("s3://bucket/run"))
    assert store.asked >= 6


@pytest.mark.parametrize(
    ("call", "method"),
    [
        ("read", "cat_file"),
        ("write", "pipe_file"),
        ("create", "pipe_file"),
        ("writing", "put_file"),
        ("files", "find"),
        ("size", "info"),
    ],
)
def test_a_store_that_goes_away_is_waited_for(
    call: str, method: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once it has answered; before, its address may be wrong. tests/rehearsal takes one away."""
    run, asked = RunDir("s3://bucket/run"), 0

    def away(*_: Any, **__: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked < back:
            raise OSError('Could not connect to the endpoint URL: "http://127.0.0.1:9"')
        return {"size": 1} if method == "info" else {} if method == "find" else b""

    monkeypatch.setattr(run_dir, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(run.fs, method, away)
    back = 1000
    with pytest.raises(ArtifactError, match=r"cannot be .* Could not connect"):
        CALLS[call](run)
    assert asked == 1
    run_dir._reached.add(run.uri)
    asked, back = 0, PATIENT
    CALLS[call](run)
    assert asked == PATIENT
    asked, back = 0, PATIENT
    with pytest.raises(ArtifactError, match=r"cannot be .* Could not connect"):
        CALLS[call](RunDir("s3://bucket/run").hurried())
    assert asked == ATTEMPTS


def test_what_is_not_there_is_no_failure(store: Store) -> None:
    store.answers = [(404, "NoSuchKey", "not there")]
    run = RunDir("s3://bucket/run")
    assert not run.exists("a") and run.files("adapters") == []
    with pytest.raises(ArtifactError, match="s3://bucket/run/a is missing"):
        run.read("a")


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (
            "run",
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "Unable to locate credentials",
        ),
        (
            "serve",
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
            "Could not connect to the endpoint URL",
        ),
        ("run", {"AWS_ENDPOINT_URL": "nowhere"}, "Invalid endpoint"),
    ],
)
def test_a_command_on_a_store_that_cannot_be_reached(
    command: str,
    words: dict[str, str],
    message: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for key, value in words.items():
        if value:
            monkeypatch.setenv(key, value)
        else:
            monkeypatch.delenv(key)
    status = main([command, "preset=tiny", "run_dir=s3://bucket/run"])
    lines = capsys.readouterr().err.splitlines()
    assert status in (1, 2) and "Traceback" not in lines
    assert lines[-1].startswith("denoised-weights: s3://bucket/run/") and message in lines[-1]


def test_a_real_process_without_credentials(store: Store) -> None:
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        del os.environ[key]
    words = [sys.executable, "-m", "pipelines", "gans", "preset=tiny", "run_dir=s3://bucket/run"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("denoised-weights: s3://bucket/run/.lock.json.")
    assert line.endswith("cannot be written: Unable to locate credentials")
