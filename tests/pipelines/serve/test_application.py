"""The Serve application, and cluster/serve.yaml, which names it."""

from __future__ import annotations

import pytest
import yaml

from cluster.validate import check_serve
from pipelines.config.error import ConfigError
from pipelines.runtime.run_dir import RunDir
from pipelines.serve import build
from tests.driver import ROOT

SERVE_YAML = ROOT / "cluster" / "serve.yaml"


def test_serve_yaml_is_strictly_valid_and_listens_on_loopback(run: RunDir) -> None:
    content = yaml.safe_load(SERVE_YAML.read_text())
    assert check_serve(content) == []
    assert content["http_options"]["host"] == "127.0.0.1"
    (application,) = content["applications"]
    assert application["import_path"] == "pipelines.serve:build"
    built = build({**application["args"], "run_dir": run.uri})
    parts = {p._bound_deployment.name for p in built._bound_deployment.init_args}
    assert parts == {"Text", "Weights", "Translator", "Finetunes", "Runs"}
    assert {d["name"] for d in application["deployments"]} <= {"Api", *parts}


@pytest.mark.parametrize("where", ["", "http_options", "applications", "deployments"])
def test_a_misspelt_key_in_serve_yaml_is_found(where: str) -> None:
    content = yaml.safe_load(SERVE_YAML.read_text())
    (application,) = content["applications"]
    place = {"applications": application, "deployments": application["deployments"][0], "": content}
    place.get(where, content["http_options"])["surprise"] = 1
    assert any("surprise" in problem for problem in check_serve(content))


def test_build_takes_the_command_lines_keys_only(run: RunDir) -> None:
    for args, expected in (
        ({}, "run_dir"),
        ({"run_dir": run.uri, "serve.port": 80}, "http_options"),
        ({"run_dir": run.uri, "surprise": 1}, "surprise"),
    ):
        with pytest.raises(ConfigError, match=expected):
            build(args)
