"""The wheel, installed where no checkout is: its data files are in it, and it serves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import time
import venv
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from safetensors.torch import load

from cluster.local import free_port
from pipelines.config.load import preset_names
from tests.driver import ROOT, descendants

OLD_RUN = ROOT / "tests/pipelines/runtime/run_318e9d6.tar.xz"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in an environment of its own, with this one's packages but for our checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(lambda n: (ROOT / n).is_file(), tracked.stdout.splitlines()):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    subprocess.run([*pip, *build, str(source)], check=True)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env/bin/python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    # a path file's folders have no path files of their own: the editable checkout is not seen
    Path(site, "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = ["--python", str(python), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *install], check=True)
    return folder / "env/bin/denoised-weights"


def environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path / "empty"


def test_it_explains_itself_and_has_its_presets(installed: Path, empty: Path) -> None:
    configs = [["config", f"preset={name}"] for name in preset_names()]
    for words in (["--help"], ["gans", "--help"], *configs):
        done = subprocess.run(
            [installed, *words], env=environment(), capture_output=True, text=True, check=True
        )
        assert done.stdout and not done.stderr
    where = "import pipelines; print(pipelines.__file__)"
    python = installed.with_name("python")
    found = subprocess.run([python, "-c", where], env=environment(), capture_output=True, text=True)
    assert str(installed.parent.parent) in found.stdout
    assert not any(empty.iterdir())


def test_it_serves_a_run(installed: Path, empty: Path) -> None:
    with tarfile.open(OLD_RUN) as archive:
        archive.extractall(empty / "run", filter="data")
    port, log = free_port(), empty / "serve.log"
    words = ["serve", f"run_dir={empty / 'run'}", f"serve.port={port}"]
    with log.open("wb") as out:
        server = subprocess.Popen(
            [installed, *words], env=environment(), stdout=out, stderr=out, start_new_session=True
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client, server, log)
            page = client.get("/")
            adapter = client.post("/v1/adapters", json={"concept": "indigo hair"})
    finally:
        started = [p.pid for p in descendants([server.pid])]
        server.send_signal(signal.SIGTERM)
        status = server.wait(120)
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert status == 143
    assert log.read_text().splitlines()[-1] == "denoised-weights: stopped"
    assert page.status_code == 200 and "<title>" in page.text
    assert adapter.status_code == 200 and load(adapter.content)


def wait_until_ready(client: httpx.Client, server: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + 300
    while True:
        assert server.poll() is None and time.monotonic() < limit, log.read_text()[-4000:]
        with suppress(httpx.TransportError):
            if client.get("/readyz").status_code == 200:
                return
        time.sleep(0.2)
