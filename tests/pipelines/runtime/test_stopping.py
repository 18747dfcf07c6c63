"""Real signals to real processes, without Ray; with it: conftest.py's `finished`, test_wheel.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from pipelines.runtime.stopping import cleaned_up, stoppable
from tests.driver import ROOT, answer_signals

SENTENCE = "denoised-weights: stopped; the same command continues\n"
HEAD = """
import ctypes, os, signal, subprocess, sys, threading, time
from pipelines.runtime.stopping import claim, cleaned_up, stoppable
with stoppable():
    def ready():
        print("ready", flush=True)
"""


@contextmanager
def program(
    body: str, before: Callable[[], None] = answer_signals
) -> Iterator[subprocess.Popen[str]]:
    text = HEAD + "".join(f"    {line}\n" for line in body.strip().splitlines())
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=before,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    "busy",
    [
        pytest.param("time.sleep(600)", id="asleep"),
        pytest.param("ctypes.CDLL(None).usleep(600_000_000)", id="in C"),
        pytest.param("while True:\n    sum(range(1000))", id="in Python"),
        pytest.param("threading.Thread(target=time.sleep, args=(600,)).start()", id="a thread"),
        pytest.param(
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
            "signal.signal(signal.SIGINT, lambda *_: sys.exit(1))\n"
            "claim()\ntime.sleep(600)",
            id="after Ray has put its handlers in",
        ),
    ],
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_sentence_and_the_status_that_a_shell_gives(number: int, busy: str) -> None:
    with program(f"ready()\n{busy}\ntime.sleep(600)") as process:
        time.sleep(0.1)
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (128 + number, SENTENCE)


def test_children_and_theirs_go_with_it() -> None:
    body = """
inner = "import subprocess, time; print(subprocess.Popen(['sleep', '600']).pid, flush=True)"
inner += "; time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", inner], stdout=subprocess.PIPE, text=True)
pids = child.pid, int(child.stdout.readline())
ready()
print(*pids, flush=True)
time.sleep(600)
"""
    with program(body) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert all(alive(pid) for pid in pids)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
    limit = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < limit
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_what_is_to_be_cleaned_up_is_the_last_one_first_whatever_fails() -> None:
    body = """
def fail():
    raise ValueError
with cleaned_up(lambda: print("first", flush=True)), cleaned_up(fail):
    with cleaned_up(lambda: print("left", flush=True)):
        pass
    with cleaned_up(lambda: print("last", flush=True)):
        ready()
        time.sleep(600)
"""
    with program(body) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "last\nfirst\n", SENTENCE)


def test_a_second_ctrl_c_waits_for_nothing() -> None:
    body = """
def hang():
    print("hangs", flush=True)
    time.sleep(600)
with cleaned_up(hang):
    ready()
    time.sleep(600)
"""
    with program(body) as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "hangs\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert time.monotonic() - begun < 9  # CLEANUP_SECONDS is 10
    assert (process.returncode, err) == (130, SENTENCE)


def test_what_nohup_ignores_stays_ignored() -> None:
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with program("ready()\ntime.sleep(0.5)\nprint('to the end', flush=True)", nohup) as process:
        process.send_signal(signal.SIGHUP)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "to the end\n", "")


def test_the_sentence_goes_to_the_screen_wherever_stderr_leads_by_then() -> None:
    body = "os.dup2(os.open(os.devnull, os.O_WRONLY), 2)\nready()\ntime.sleep(600)"
    with program(body) as process:
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=30)[1] == SENTENCE


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    threads = threading.active_count()
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with stoppable(), stoppable(), cleaned_up(lambda: None):
            assert signal.getsignal(signal.SIGINT) not in before
        now = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        assert now == before
    assert threading.active_count() == threads
    assert len(os.listdir("/proc/self/fd")) == files


def test_in_another_thread_it_does_nothing() -> None:
    seen: list[object] = []

    def work() -> None:
        with stoppable(), cleaned_up(lambda: None):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]
