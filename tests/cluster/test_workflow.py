"""The image's workflow: parsed, its actions pinned, its secrets not printed, its files there."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster" / "image-workflow.yml").read_text()


def test_it_is_a_workflow_that_can_do_little() -> None:
    made = yaml.safe_load(TEXT)
    assert made[True] == {"push": {"tags": ["v*"]}, "workflow_dispatch": None}  # YAML's `on`
    assert made["permissions"] == {"contents": "read", "packages": "write"}
    (job,) = made["jobs"].values()
    assert job["timeout-minutes"] <= 60
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])
        else:  # what comes from outside is not put into a shell
            assert "${{" not in step["run"]
    assert {s["with"]["file"] for s in job["steps"] if "file" in s.get("with", {})} == {
        "cluster/Dockerfile"
    }


def test_what_it_checks_is_what_the_dockerfile_installs() -> None:
    """`make image-check` resolves it without a Docker engine."""
    docker = (ROOT / "cluster" / "Dockerfile").read_text()
    wanted = re.search(r"pip install --no-cache-dir -c constraints.txt ([^\\\n]+?) \\", docker)
    assert wanted
    make = (ROOT / "Makefile").read_text().replace("\\\n\t  ", "")
    assert wanted[1] in make, wanted[1]


def test_extras_that_go_together_have_pins_that_do() -> None:
    """s3fs and gcsfs each want the fsspec of their own version."""
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:]
    )
    assert pins["fsspec"] == pins["s3fs"] == pins["gcsfs"]
