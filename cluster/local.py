"""Several Ray nodes on this machine, to try on one what runs on many: `python -m cluster.local`.

    python -m cluster.local [nodes=2] [cpus=2] [port=6379] [dashboard=8265]

starts a head that takes no tasks and `nodes` nodes of `cpus` CPUs, says how to use them, and ends
them all on Ctrl-C. Everything listens on 127.0.0.1 and asks for the token.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipelines.runtime.environment import PROXY

DEFAULTS = {"nodes": 2, "cpus": 2, "port": 6379, "dashboard": 8265}
RAY = str(Path(sys.executable).with_name("ray"))
LOOPBACK = "--node-ip-address=127.0.0.1"


class LocalClusterError(RuntimeError):
    """A node did not start, or ended by itself."""


def numbers(words: list[str]) -> dict[str, int]:
    """key=value words over the defaults; LocalClusterError for anything else."""
    given = dict(DEFAULTS)
    for word in words:
        key, _, value = word.partition("=")
        if key not in given or not value.isdecimal():
            raise LocalClusterError(
                f"{word}: give {' '.join(f'{k}={v}' for k, v in given.items())}"
            )
        given[key] = int(value)
    return given


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalCluster:
    """A head and nodes, each with a folder of its own.

    In a shared one the first node that no longer needs a job's unpacked code deletes it for all.
    """

    def __init__(self, nodes: int, cpus: int, port: int, dashboard: int) -> None:
        self.address = f"127.0.0.1:{port}"
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self.cpus = cpus
        # a process of Ray's that outlives its node by a moment may still write there
        self._home = tempfile.TemporaryDirectory(prefix="nodes-", ignore_cleanup_errors=True)
        self.home = self._home.name
        self.processes: list[subprocess.Popen[bytes]] = []
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=true"]
        head += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
        try:
            self._start(head)
            for _ in range(nodes):
                self.add_node()
        except BaseException:
            self.stop()
            raise

    def add_node(self) -> None:
        self._start([f"--address={self.address}", f"--num-cpus={self.cpus}"])

    @property
    def nodes(self) -> list[int]:
        """The process of each node, to kill in order to lose it."""
        return [process.pid for process in self.processes[1:]]

    def _start(self, words: list[str]) -> None:
        """`ray start`, until it says that it stays."""
        folder = Path(self.home, str(len(self.processes)))
        folder.mkdir()
        log = folder.with_suffix(".log")
        command = [RAY, "start", "--block", "--disable-usage-stats", LOOPBACK, *words]
        # Ray's default is one number for all, and jobs go to the agent that listens there
        command += [f"--dashboard-agent-listen-port={free_port()}"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, f"--temp-dir={folder}"],
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **PROXY,
                    **os.environ,
                    "PATH": f"{Path(RAY).parent}:{os.environ['PATH']}",  # of jobs
                },
            )
        self.processes.append(process)
        limit = time.monotonic() + 120
        while "This command will now block" not in (said := log.read_text(errors="replace")):
            if process.poll() is not None or time.monotonic() > limit:
                last = said.strip().splitlines()[-8:]
                raise LocalClusterError("a node did not start:\n" + "\n".join(last))
            time.sleep(0.2)

    def stop(self) -> None:
        """End all nodes, the head last."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()  # `ray start --block` ends what it started
        for process in reversed(self.processes):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
        self._home.cleanup()


def main(words: list[str]) -> int:
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        given = numbers(words)
        if os.environ["RAY_AUTH_MODE"] == "token":
            subprocess.run([RAY, "get-auth-token", "--generate"], check=True, capture_output=True)
        cluster = LocalCluster(**given)
    except LocalClusterError as error:
        print(f"cluster.local: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        print(f"a head and {given['nodes']} nodes of {given['cpus']} CPUs; Ctrl-C ends them. Use:")
        print("  export RAY_AUTH_MODE=token")
        print(f"  RAY_ADDRESS={cluster.address} denoised-weights run preset=tiny")
        print(
            f"  denoised-weights submit address={cluster.dashboard} preset=tiny"
            " run_dir=/tmp/run cluster.shared_storage=true"
        )
        for pid in cluster.nodes:
            print(f"  kill {pid}   # loses a node, as a spot interruption would", flush=True)
        cluster.processes[0].wait()
        raise LocalClusterError("the head has ended")
    except KeyboardInterrupt:
        return 0
    except LocalClusterError as error:
        print(f"cluster.local: {error}", file=sys.stderr)
        return 1
    finally:
        cluster.stop()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
