"""Addresses where no Ray is, and machines that are not as one hopes: before Ray is started."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.runtime import session
from pipelines.runtime.environment import cluster_address, set_environment
from pipelines.runtime.session import ray_session
from pipelines.runtime.stage_table import StageError
from tests.driver import ROOT


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """set_environment writes to the environment itself."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def silent() -> Iterator[str]:
    """Something listens there, and it is no Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        for connection in taken:
            connection.close()


@pytest.mark.parametrize("address", ["127.0.0.1:9", "[::1]:9", "ray://127.0.0.1:9", "silent"])
@pytest.mark.parametrize("word", ["cluster.address", "RAY_ADDRESS"])
def test_nobody_there_is_said_with_the_address(
    address: str, word: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "CONNECT_SECONDS", 0.5)
    address = silent if address == "silent" else address
    words = [f"cluster.address={address}"] if word == "cluster.address" else []
    if word == "RAY_ADDRESS":
        monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        pytest.raises(StageError) as error,
        ray_session(load_config(["preset=tiny", *words])),
    ):
        pass
    assert str(error.value).startswith(f"{word}={address}: no Ray answers there")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:8265", "is a dashboard's address, which `denoised-weights submit`"),
        ("https://head", "is a dashboard's address"),
        *((a, "give HOST:PORT, ray://HOST:PORT, auto or local") for a in ("head", "6379", "a b:1")),
        ("head:port", "give HOST:PORT"),
        ("ray://", "give HOST:PORT"),
    ],
)
def test_what_is_no_rays_address_is_said_at_once(address: str, message: str) -> None:
    with (
        pytest.raises(ConfigError) as error,
        ray_session(load_config(["preset=tiny", f"cluster.address={address}"])),
    ):
        pass
    assert str(error.value).startswith(f"cluster.address={address}") and message in str(error.value)


def test_a_host_without_ipv4_loopback_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with (
        pytest.raises(StageError, match=r"without 127\.0\.0\.1 \(Cannot assign"),
        ray_session(load_config(["preset=tiny", "cluster.address=local"])),
    ):
        pass


@pytest.mark.parametrize(
    ("key", "variable", "expected"),
    [
        ("", "", ""),
        ("", "head:6379", "head:6379"),
        ("", "local", ""),
        ("other:1", "head:6379", "other:1"),
        ("local", "head:6379", ""),
        ("auto", "", "auto"),
    ],
)
def test_the_key_goes_before_the_variable(
    key: str, variable: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    assert cluster_address(load_config(["preset=tiny", f"cluster.address={key}"])) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, None),
        ({"http_proxy": ""}, None),
        ({"http_proxy": "http://p:1"}, "127.0.0.1,localhost,::1"),
        ({"HTTPS_PROXY": "http://p:1"}, "127.0.0.1,localhost,::1"),
        (
            {"all_proxy": "socks5://p", "no_proxy": "my.org, localhost"},
            "my.org,localhost,127.0.0.1,::1",
        ),
        ({"http_proxy": "http://p:1", "NO_PROXY": "*"}, "*"),
    ],
)
def test_a_proxy_is_not_for_loopback(
    given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for key in (name, name.upper()):
            monkeypatch.delenv(key, raising=False)
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    set_environment(local=True)
    set_environment(local=True)
    assert (os.environ.get("no_proxy") or os.environ.get("NO_PROXY")) == expected


@pytest.mark.parametrize("home", ["/proc/1/nothing", "mine", "has a token"])
def test_a_token_where_home_cannot_take_one(
    home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for key in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(key, raising=False)
    if home == "has a token":
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray/auth_token").write_text("x")
    monkeypatch.setenv("HOME", home if home.startswith("/") else str(tmp_path))
    set_environment(local=True)
    assert len(os.environ.get("RAY_AUTH_TOKEN", "")) == (64 if home.startswith("/") else 0)


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
@pytest.mark.parametrize("long", [False, True])
def test_a_folder_too_long_for_rays_sockets(
    variable: str,
    long: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / ("x" * 100) if long else Path("/tmp")
    folder.mkdir(exist_ok=True)
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder) if variable == "TMPDIR" else "/tmp")
    if long and variable == "RAY_TMPDIR":
        with pytest.raises(ConfigError, match="set RAY_TMPDIR to a folder of at most 39 bytes"):
            session._short_folder()
        return
    assert session._short_folder() == ("/tmp/ray" if long else "")
    assert ("its files go to /tmp/ray" in capsys.readouterr().err) == long


@pytest.mark.parametrize("words", [["--help"], ["gans", "--help"], ["keys"], ["config"]])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_output_that_is_not_utf_8(words: list[str], encoding: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0 and done.stderr == b"" and done.stdout.decode(encoding)


def test_a_machine_too_busy_for_ray_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def late(**_: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because …")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", late)
    with (
        pytest.raises(StageError, match=r"too busy \(load average \d+ on \d+ cores\)"),
        ray_session(load_config(["preset=tiny"])),
    ):
        pass
