"""Which configuration is served, and which run is not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.config.error import ConfigError
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_table import StageError
from pipelines.serve.runs.limits import limits
from pipelines.use.saved_run import saved_config
from tests.pipelines.use.untrained_run import told


def test_the_runs_own_configuration_is_served(run: RunDir) -> None:
    saved = saved_config(run, told(run, "serve.max_text=7", "cluster.actors=1"))
    assert (saved.preset, saved.adapt.t, saved.lora.rank, saved.lora.ranks) == (
        "tiny",
        900,
        2,
        {"head": 1},
    )
    assert (saved.serve.max_text, saved.cluster.actors) == (7, 1)
    assert (limits(saved).t_min, limits(saved).t_max) == (100, 999)
    assert (limits(saved).t, limits(saved).steps) == (900, 1)


def test_a_stages_marker_goes_before_config_yaml(own_run: RunDir) -> None:
    """config.yaml is the last command's; the adapters' rank is what stage gans was run with."""
    text = own_run.read("config.yaml").decode()
    own_run.write("config.yaml", text.replace("  rank: 2", "  rank: 5").encode())
    assert saved_config(own_run, told(own_run)).lora.rank == 2


def test_a_contradicting_key_is_refused(run: RunDir) -> None:
    saved_config(run, told(run, "lora.rank=2"))
    with pytest.raises(ConfigError, match=r"lora\.rank=3.*made with lora\.rank=2"):
        saved_config(run, told(run, "lora.rank=3"))
    with pytest.raises(ConfigError, match=r"serve\.max_queued=0"):
        saved_config(run, told(run, "serve.max_queued=0"))


def test_an_unfinished_run_names_the_command(own_run: RunDir, tmp_path: Path) -> None:
    own_run.delete("stages/generator.json")
    for where in (own_run, RunDir(str(tmp_path / "nothing"))):
        with pytest.raises(StageError, match=r"denoised-weights run .*run_dir="):
            saved_config(where, told(where))


def test_a_run_whose_files_are_known_by_size_alone_is_served(own_run: RunDir) -> None:
    """As the paper's preset has it (verify=size)."""
    for name in ("base", "weights", "generator"):
        marker = own_run.read_json(f"stages/{name}.json")
        marker["files"] = {f: f"{s.partition(':')[0]}:" for f, s in marker["files"].items()}
        own_run.write_json(f"stages/{name}.json", marker)
    saved_config(own_run, told(own_run))
    own_run.write("generator/ema.safetensors", b"short")
    with pytest.raises(ArtifactError, match="ema"):
        saved_config(own_run, told(own_run))


@pytest.mark.parametrize("name", ["ema", "basis", "refiner/refiner"])
def test_a_foreign_file_is_noticed(own_run: RunDir, name: str) -> None:
    path = f"generator/{name}.safetensors"
    data = bytearray(own_run.read(path))
    data[-1] ^= 1
    own_run.write(path, bytes(data))
    with pytest.raises(ArtifactError, match=re.escape(path)):
        saved_config(own_run, told(own_run))
