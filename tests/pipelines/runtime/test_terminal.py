"""What a person sees on a terminal, by programs that run on one (a pty), and what a file gets."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.runtime import foreign_output
from pipelines.runtime.log import Progress
from tests.driver import ROOT

ERASE_ROW = "\r\x1b[K"
HEAD = """
import os, signal, sys, time, warnings
from pipelines.config.error import ConfigError
from pipelines.runtime.foreign_output import foreign_output_to_file
from pipelines.runtime.log import Progress, log
"""
COUNT = """
progress = Progress("gans", 40, "concepts")
for i in range(40):
    time.sleep(0.02)
    progress.add(note="L1 {0.3}")
    if i == 20:
        log("a line")
log("end")
"""


class Terminal:
    """A program with a terminal of its own."""

    def __init__(self, code: str, folder: Path, columns: int = 80, **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(columns)
        self.before = termios.tcgetattr(self.master)
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", HEAD + code],
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", "TMPDIR": str(folder), **environment},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: os.close(os.open(os.ttyname(0), os.O_RDWR)),  # Ctrl-C comes by it
        )
        os.close(slave)

    def resize(self, columns: int) -> None:
        termios.tcsetwinsize(self.master, (24, columns))

    def read_until(self, happened: Callable[[str], bool], seconds: float = 200) -> None:
        """Until the output is as wanted; at its end unless that is what is waited for."""
        limit = time.monotonic() + seconds
        while not happened(self.text):
            assert time.monotonic() < limit, self.text
            if not select.select([self.master], [], [], 1.0)[0]:
                continue
            try:
                self.text += os.read(self.master, 65536).decode()
            except OSError:  # the program has closed its side
                assert happened(self.text + "\0"), self.text
                return

    def end(self) -> int:
        """The exit status, once all has been read; the terminal is as it was."""
        self.read_until(lambda text: text.endswith("\0"))
        status = self.process.wait(60)
        assert termios.tcgetattr(self.master) == self.before
        assert set(re.findall(r"\x1b\[[^A-Za-z]*[A-Za-z]", self.text)) <= {"\x1b[K", "\x1b[0m"}
        os.close(self.master)
        return status

    def lines(self) -> list[str]:
        """What stands on the screen; the times of our lines left out."""
        rows = [""]
        for part in re.findall(r"\r\n|\r\x1b\[K|[^\r]+", self.text.replace("\x1b[0m", "")):
            if part == "\r\n":
                rows.append("")
            elif part == ERASE_ROW:
                rows[-1] = ""
            else:
                rows[-1] += part
        return [re.sub(r"^\[[\d:]+\] ", "", row) for row in rows if row]

    def bars(self) -> list[str]:
        return [b for b in re.findall(r"\r\x1b\[K([^\r]*)", self.text) if b and b[0] != "["]

    def file(self) -> str:
        """What the one file that a line names holds."""
        (name,) = set(re.findall(r"(?:other libraries|what led to it): (\S+)", self.text))
        return Path(name).read_text()


def test_a_terminal_has_one_bar_and_lines_above_it(tmp_path: Path) -> None:
    terminal = Terminal(COUNT, tmp_path)
    assert terminal.end() == 0
    first, last, end = terminal.lines()
    assert first == "a line" and end == "end"
    assert re.fullmatch(r"gans: 40/40 concepts, [\d.]+/s, L1 \{0.3\}", last)
    bars = terminal.bars()
    assert bars[0].startswith("gans |") and bars[0].endswith("| 0/40 concepts")
    whole = re.compile(r"gans \|█+.*\| \d+/40 concepts, [\d.]+/s, \d+ s left, L1 \{0.3\}")
    assert any(whole.fullmatch(b) for b in bars)
    assert all(len(b) < 80 for b in bars)


def test_without_a_terminal_there_are_plain_lines() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + COUNT], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stdout == "" and "\x1b" not in done.stderr
    texts = [re.fullmatch(r"\[\d\d:\d\d:\d\d\] (.*)", line) for line in done.stderr.splitlines()]
    first, last, end = [match and match[1] for match in texts]
    assert first == "a line" and end == "end" and str(last).startswith("gans: 40/40 concepts, ")


def test_a_dumb_terminal_has_plain_lines(tmp_path: Path) -> None:
    terminal = Terminal(COUNT, tmp_path, TERM="dumb")
    assert terminal.end() == 0 and "\x1b" not in terminal.text
    assert [line.partition(",")[0] for line in terminal.lines()] == [
        "a line",
        "gans: 40/40 concepts",
        "end",
    ]


def test_a_bar_fits_a_window_that_becomes_smaller(tmp_path: Path) -> None:
    code = "p = Progress('gans', 9, 'concepts')\np.add(note='x' * 200)\ninput()\nlog('end')"
    terminal = Terminal(code, tmp_path, columns=120)
    terminal.read_until(lambda _: any(len(b) == 119 for b in terminal.bars()))
    terminal.resize(40)
    terminal.read_until(lambda _: len((terminal.bars() or [""])[-1]) == 39)
    os.write(terminal.master, b"\n")
    assert terminal.end() == 0


def test_lines_for_every_unit_stay_lines(tmp_path: Path) -> None:
    """As trials of a study, which take minutes and may fail."""
    code = "p = Progress('study', 2, 'trials', every=0.0)\np.add(note='a failed')\np.add(note='b')"
    terminal = Terminal(code, tmp_path)
    assert terminal.end() == 0
    first, second = terminal.lines()
    assert first == "study: 1/2 trials, a failed"
    assert second.startswith("study: 2/2 trials") and second.endswith(", b")


OTHERS = """
with foreign_output_to_file():
    log("begun")
    os.write(2, b"[2026-01-01 10:00:00,000 E 1 1] core_worker.cc:1: noise\\n")
    warnings.warn("deprecated")
    print("a worker's print")
    print("(MapWorker(MapBatches(Gan)) pid=7, ip=10.0.0.3) [10:00:00] gans: a worker's line")
    progress = Progress("study", 3, "trials")
    sys.stderr.write("[10:00:01] overfit hat: 5/9 steps, 0.3/s, 12 s left, L1 0.1\\n")
    time.sleep(1.5)
    progress.add(3)
    print("[10:00:02] base: 3/9 steps, 0.3/s, 20 s left")
    time.sleep(1.5)
    print("[10:00:03] base: 9/9 steps, 0.3/s")
log("end")
print("table")
"""


def test_others_write_to_a_file_and_worker_lines_are_ours(tmp_path: Path) -> None:
    terminal = Terminal(OTHERS, tmp_path)
    assert terminal.end() == 0
    lines = terminal.lines()
    assert [line for line in lines if not line.startswith("messages of Ray")] == [
        "begun",
        "gans: a worker's line",
        "study: 3/3 trials",
        "base: 9/9 steps, 0.3/s",
        "end",
        "table",
    ]
    bars = terminal.bars()
    assert any(b.startswith("study |") and "| overfit hat: 5/9 steps" in b for b in bars)
    assert any(b.startswith("base |") and b.endswith("| 3/9 steps, 0.3/s, 20 s left") for b in bars)
    kept = terminal.file()
    for text in ("core_worker.cc:1: noise", "deprecated", "a worker's print"):
        assert text in kept and text not in terminal.text


def test_a_file_that_got_nothing_is_not_kept(tmp_path: Path) -> None:
    terminal = Terminal("with foreign_output_to_file():\n    log('a line')", tmp_path)
    assert terminal.end() == 0
    assert terminal.lines() == ["a line"] and list(tmp_path.iterdir()) == []


def test_nothing_is_redirected_without_a_terminal(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", HEAD + OTHERS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    assert "noise" in done.stderr and "a worker's print" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", ["ValueError('bug')", "ConfigError('seed=x')"])
def test_an_error_reaches_the_terminal(error: str, tmp_path: Path) -> None:
    terminal = Terminal(
        f"""
with foreign_output_to_file():
    os.write(2, b"noise\\n")
    progress = Progress("gans", 9, "concepts")
    progress.add()
    raise {error}
""",
        tmp_path,
    )
    assert terminal.end() == 1
    lines = terminal.lines()
    assert "Traceback (most recent call last):" in lines and "noise" not in lines
    if "bug" in error:
        assert lines[-1] == "ValueError: bug"
        assert any(line.startswith("what led to it: ") for line in lines)
        assert "ValueError: bug" in terminal.file()
    else:
        assert "what led to it" not in terminal.text and "ConfigError" not in terminal.file()


def test_ctrl_c_gives_the_terminal_back(tmp_path: Path) -> None:
    terminal = Terminal(
        """
with foreign_output_to_file():
    progress = Progress("gans", 9, "concepts")
    progress.add()
    time.sleep(600)
""",
        tmp_path,
    )
    terminal.read_until(lambda text: "1/9" in text)
    os.write(terminal.master, b"\x03")
    assert terminal.end() == -signal.SIGINT
    assert terminal.lines()[-1].startswith("KeyboardInterrupt") and "1/9" not in terminal.lines()[0]


def test_a_dead_worker_is_a_sentence_and_sigterm_an_orderly_end(tmp_path: Path) -> None:
    terminal = Terminal(
        f"""
import ray
from pipelines.config.load import load_config
from pipelines.runtime.session import ray_session

@ray.remote(max_retries=1)
def die_once():
    if not os.path.exists({str(tmp_path / "died")!r}):
        open({str(tmp_path / "died")!r}, "w").close()
        os.kill(os.getpid(), signal.SIGKILL)
    print("a worker's print")

with foreign_output_to_file(), ray_session(load_config(["preset=tiny"])):
    ray.get(die_once.remote())
    log("done again")
    ray.get(ray.remote(time.sleep).remote(600))
""",
        tmp_path,
        RAY_TMPDIR="/tmp",  # whose sockets' paths may have 107 bytes
    )
    told = r"a worker process \(pid \d+\) died; its work is done again where it can be"
    terminal.read_until(lambda text: "done again\r" in text and bool(re.search(told, text)))
    terminal.process.send_signal(signal.SIGTERM)
    assert terminal.end() == 128 + signal.SIGTERM
    (dead,) = [line for line in terminal.lines() if "died" in line]
    assert re.fullmatch(told, dead)
    assert sorted(line.partition(":")[0] for line in terminal.lines() if line != dead) == [
        "done again",
        "messages of Ray and other libraries",
    ]
    assert "A worker died" in terminal.file() and "a worker's print" in terminal.file()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (
            "(raylet) A worker died or was killed while executing a task by an unexpected system"
            " error. Lease ID: 0 Worker ID: 1 Worker PID: 4711 Worker exit type: SYSTEM_ERROR",
            "a worker process (pid 4711) died",
        ),
        (
            "(raylet) 2 worker(s) were killed due to the node running low on memory.",
            "ran low",
        ),
        (
            "(raylet) 1 Workers (tasks / actors) killed due to memory pressure (OOM), 0",
            "ran low",
        ),
        ("(raylet) The node with node id: ab12 and address: x has been marked dead", "node ab12"),
        (
            "(autoscaler +5s) Error: No available node types can fulfill resource requests {}",
            "cannot grow as it should: No available node types can fulfill",
        ),
    ],
)
def test_what_ray_says_of_failures_is_told(
    line: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text(f"{line}\nharmless\n")
    reader = foreign_output._Reader(tmp_path / "file")
    reader.thread.start()
    reader.stop()
    named, sentence = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "file") in named and told in sentence


def test_a_bar_goes_with_its_block(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError), Progress("x", 3, "steps"):
        raise ValueError
    assert capsys.readouterr().err == ""
