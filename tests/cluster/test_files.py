from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import validate as cv
from pipelines.runtime.environment import PROXY

Config = dict[str, Any]


@pytest.fixture
def launcher() -> Config:
    return yaml.safe_load((cv.FOLDER / "aws.yaml").read_text())


@pytest.fixture
def rayjob() -> Config:
    return yaml.safe_load((cv.FOLDER / "rayjob.yaml").read_text())


def documents(name: str) -> list[Config]:
    return list(yaml.safe_load_all((cv.FOLDER / name).read_text()))


@pytest.fixture
def crd() -> Config:
    folder = cv.crd_folder()
    if folder is None:
        pytest.skip(cv.GET_CRDS)
    return cv.load_crd(folder, "RayJob")


# The AWS launcher file


def test_aws_file_passes_rays_own_validation(launcher: Config) -> None:
    before = copy.deepcopy(launcher)
    assert cv.check_launcher(launcher) == []
    assert launcher == before
    worker = launcher["available_node_types"]["a100x8"]
    assert worker["node_config"]["InstanceType"] == "p4d.24xlarge"
    assert (worker["min_workers"], worker["max_workers"], launcher["max_workers"]) == (0, 8, 8)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.update(surprise=1), "surprise"),
        (lambda c: c["docker"].update(imge="x"), "imge"),
        (lambda c: c["available_node_types"]["a100x8"].pop("node_config"), "node_config"),
        (lambda c: c.pop("provider"), "provider"),
        (lambda c: c.update(head_node_type="nobody"), "head_node_type"),
        (lambda c: c["available_node_types"]["a100x8"].update(min_workers=9), "max_workers"),
        (lambda c: c["available_node_types"]["head"].update(resources={"CPU": 8}), "no CPU"),
        (lambda c: c["docker"].update(run_options=[]), "RAY_AUTH_MODE"),
        (lambda c: c.pop("head_start_ray_commands"), "dashboard-host"),
        (lambda c: c["provider"].pop("use_internal_ips"), "public"),
        (
            lambda c: c["available_node_types"]["head"]["node_config"].pop("SecurityGroupIds"),
            "port 22",
        ),
        (lambda c: c.pop("setup_commands"), "another Ray"),
    ],
)
def test_a_spoilt_aws_file_fails(
    launcher: Config, change: Callable[[Config], object], expected: str
) -> None:
    change(launcher)
    assert expected in "; ".join(cv.check_launcher(launcher))


# The RayJob


def test_rayjob_fits_the_crd(rayjob: Config, crd: Config) -> None:
    assert cv.check_custom_resource(rayjob, crd) == []


def test_kuberays_own_file_is_read_too(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"spec": {"type": "object"}}}
    upstream = {
        "spec": {
            "group": "ray.io",
            "names": {"kind": "RayJob"},
            "versions": [
                {"name": "v1", "schema": {"openAPIV3Schema": schema}},
                {"name": "v1alpha1", "schema": {"openAPIV3Schema": {}}},
            ],
        }
    }
    (tmp_path / "ray.io_rayjobs.yaml").write_text(yaml.safe_dump(upstream))
    expected = {"apiVersion": "ray.io/v1", "kind": "RayJob", "openAPIV3Schema": schema}
    assert cv.load_crd(tmp_path, "RayJob") == expected
    (tmp_path / "ray.io_rayjobs.yaml").unlink()
    with pytest.raises(FileNotFoundError, match="ray"):
        cv.load_crd(tmp_path, "RayJob")


def test_rayjob_runs_the_paper_preset_and_keeps_the_rules(rayjob: Config) -> None:
    assert cv.check_rules(rayjob) == []
    entrypoint = rayjob["spec"]["entrypoint"]
    assert entrypoint.startswith("python -m pipelines run preset=paper run_dir=s3://")


def cluster(manifest: Config) -> Config:
    return manifest["spec"]["rayClusterSpec"]


def container(manifest: Config) -> Config:
    return cluster(manifest)["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m.update(surprise=1), "surprise"),
        (lambda m: m["spec"].update(entrypont="x"), "entrypont"),
        (lambda m: container(m).update(imagePullPolice="x"), "imagePullPolice"),
        (lambda m: container(m)["resources"].update(limit={}), "limit"),
        (lambda m: cluster(m).pop("headGroupSpec"), "headGroupSpec"),
        (lambda m: cluster(m)["workerGroupSpecs"][0].pop("maxReplicas"), "maxReplicas"),
        (lambda m: container(m).pop("name"), "name"),
        (lambda m: m.pop("spec"), "spec"),
        (lambda m: m["metadata"].pop("name"), "name"),
        (lambda m: m.update(kind="RayCluster"), "RayCluster"),
        (lambda m: cluster(m)["authOptions"].update(mode="maybe"), "maybe"),
        (lambda m: cluster(m)["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}), "num-"),
        (lambda m: container(m)["resources"]["limits"].update(cpu=1.5), "cpu"),
        (lambda m: container(m)["resources"]["limits"].update(cpu="many"), "many"),
    ],
)
def test_a_spoilt_rayjob_fails_the_crd(
    rayjob: Config, crd: Config, change: Callable[[Config], object], expected: str
) -> None:
    change(rayjob)
    assert expected in "; ".join(cv.check_custom_resource(rayjob, crd))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: cluster(m)["authOptions"].update(mode="disabled"), "token"),
        (lambda m: cluster(m)["headGroupSpec"].pop("rayStartParams"), "num-cpus"),
        (lambda m: cluster(m)["autoscalerOptions"].pop("version"), "v2"),
        (lambda m: container(m).pop("volumeMounts"), "a100x8 must mount"),
    ],
)
def test_a_rayjob_that_breaks_a_rule_fails(
    rayjob: Config, change: Callable[[Config], object], expected: str
) -> None:
    change(rayjob)
    assert expected in "; ".join(cv.check_rules(rayjob))


def test_structural_schema_is_made_strict_as_kubernetes_means_it() -> None:
    """A miniature CRD, so that these rules are tested where no CRDs are at hand too."""
    properties = {
        "port": {"anyOf": [{"type": "integer"}], "x-kubernetes-int-or-string": True},
        "open": {
            "type": "object",
            "properties": {"a": {"type": "string"}},
            "x-kubernetes-preserve-unknown-fields": True,
        },
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "list": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"k": {"type": "integer"}},
                "required": ["k"],
            },
        },
        "maybe": {"type": "string", "nullable": True},
        # A property that is called like a keyword stays a property.
        "nullable": {"type": "boolean"},
        "properties": {"type": "object", "properties": {"items": {"type": "integer"}}},
    }
    crd = {
        "apiVersion": "ray.io/v1",
        "kind": "Tiny",
        "openAPIV3Schema": {
            "type": "object",
            "properties": {
                "apiVersion": {"type": "string"},
                "kind": {"type": "string"},
                "metadata": {"type": "object"},
                "spec": {"type": "object", "properties": properties},
            },
        },
    }

    def problems(**spec: object) -> list[str]:
        head = {"apiVersion": "ray.io/v1", "kind": "Tiny", "metadata": {"name": "x", "labels": {}}}
        return cv.check_custom_resource({**head, "spec": spec}, crd)

    good: list[Config] = [
        {"port": 80},
        {"port": "http"},
        {"open": {"a": "x", "anything": [1]}},
        {"labels": {"any": "thing"}},
        {"list": [{"k": 1}]},
        {"maybe": None},
        {"nullable": True, "properties": {"items": 3}},
    ]
    bad: list[Config] = [
        {"port": 1.5},
        {"open": {"a": 1}},
        {"labels": {"any": 1}},
        {"list": [{"k": 1, "q": 2}]},
        {"list": [{}]},
        {"nullable": None},
        {"properties": {"item": 3}},
        {"unknown": 1},
    ]
    assert [spec for spec in good if problems(**spec)] == []
    assert [spec for spec in bad if not problems(**spec)] == []


# Google Cloud, and the choice of nodes


def test_gcp_file_passes_rays_own_validation() -> None:
    (content,) = documents("gcp.yaml")
    assert cv.check_launcher(content) == []
    machines = {
        k: t["node_config"]["machineType"] for k, t in content["available_node_types"].items()
    }
    assert machines["a100x8"] == "a2-highgpu-8g" and machines["a100x8-80gb"] == "a2-ultragpu-8g"
    interface = content["available_node_types"]["a100x8"]["node_config"]["networkInterfaces"][0]
    interface["accessConfigs"] = [{"type": "ONE_TO_ONE_NAT"}]
    assert "no public IP" in "; ".join(cv.check_launcher(content))


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_one_kind_of_gpu_node_is_on_and_spot_can_be_chosen(name: str) -> None:
    (content,) = documents(name)
    types = content["available_node_types"]
    assert {k for k, t in types.items() if t["max_workers"]} == {"a100x8"}
    spot = json.dumps(types["a100x8-spot"]["node_config"]).lower()
    assert "spot" in spot and "spot" not in json.dumps(types["a100x8"]["node_config"]).lower()
    for node in types.values():
        node["max_workers"] = 8
    assert cv.check_launcher(content) == []


# RayCluster and RayService


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("raycluster.yaml", ["RayCluster", "PodDisruptionBudget"]),
        ("rayservice.yaml", ["RayService", "PodDisruptionBudget", "NetworkPolicy"]),
    ],
)
def test_manifests_fit_their_schemas(name: str, kinds: list[str], crd: Config) -> None:
    assert [d["kind"] for d in documents(name)] == kinds
    text = (cv.FOLDER / name).read_text()
    assert cv.check_manifests(text, cv.crd_folder()) == []


@pytest.mark.parametrize(
    ("name", "old", "new", "expected"),
    [
        ("raycluster.yaml", "redisAddress: redis:6379", "redisAddress: ''", "redisAddress"),
        ("raycluster.yaml", "maxUnavailable: 0", "maxUnavailible: 0", "maxUnavailible"),
        ("raycluster.yaml", "policy/v1", "policy/v1beta1", "policy/v1"),
        ("raycluster.yaml", "kind: PodDisruptionBudget", "kind: Pod", "not expected"),
        ("raycluster.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "runAsNonRoot"),
        ("rayservice.yaml", "import_path:", "importpath:", "import_path"),
        ("rayservice.yaml", "max_replicas: 4", "max_replica: 4", "max_replica"),
        ("rayservice.yaml", "target_ongoing_requests: 4", "target_ongoing_requests: x", "valid"),
        ("rayservice.yaml", "policyTypes: [Ingress]", "policyTypes: [Inwards]", "Inwards"),
    ],
)
def test_a_spoilt_manifest_fails_without_crds_too(
    name: str, old: str, new: str, expected: str
) -> None:
    text = (cv.FOLDER / name).read_text()
    assert old in text
    assert expected in "; ".join(cv.check_manifests(text.replace(old, new), None))


def test_the_service_in_kubernetes_is_reached_by_its_clients_alone() -> None:
    service, _, policy = documents("rayservice.yaml")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert config["applications"][0]["import_path"] == "pipelines.serve:build"
    ports = [p["port"] for rule in policy["spec"]["ingress"] for p in rule.get("ports", [])]
    assert ports == [config["http_options"]["port"]]
    labels = policy["spec"]["podSelector"]["matchLabels"]
    groups = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert labels == {"ray.io/group": groups[0]["groupName"]}


# The Dockerfile


def test_the_image_can_open_the_buckets_that_the_files_name() -> None:
    text = (cv.FOLDER / "Dockerfile").read_text()
    assert '".[s3,gs]"' in text


def test_the_image_gives_serves_proxies_what_a_local_ray_gives_them() -> None:
    text = (cv.FOLDER / "Dockerfile").read_text()
    assert all(f"{key}={value}\n" in text for key, value in PROXY.items())


def test_dockerfile_is_sound() -> None:
    assert cv.check_dockerfile((cv.FOLDER / "Dockerfile").read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("nvidia/cuda:13.2.0-runtime-ubuntu24.04", "nvidia/cuda:latest", "not pinned"),
        ("USER 1000", "USER root", "root"),
        ("USER 1000", "", "root"),
        ("-c constraints.txt ", "", "constraints"),
        ("COPY --chown=ray:ray modeling", "COPY --chown=ray:ray modelling", "modelling"),
    ],
)
def test_a_spoilt_dockerfile_fails(old: str, new: str, expected: str) -> None:
    text = (cv.FOLDER / "Dockerfile").read_text()
    assert old in text
    assert expected in "; ".join(cv.check_dockerfile(text.replace(old, new)))


# The command


def test_one_line_per_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, crd: Config, tmp_path: Path
) -> None:
    assert cv.main([]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    there = {p.name for p in cv.FOLDER.iterdir() if p.suffix == ".yaml" or p.name == "Dockerfile"}
    assert {line[0] for line in lines} == there
    assert {line[1] for line in lines} == {"ok"}
    for kind in ("RayCluster", "RayJob", "RayService"):
        empty = {"apiVersion": "ray.io/v1", "kind": kind, "openAPIV3Schema": {"properties": {}}}
        (tmp_path / f"{kind}.json").write_text(json.dumps(empty))
    monkeypatch.setenv(cv.CRDS_VARIABLE, str(tmp_path))
    assert cv.main([]) == 1  # the folder that is named is the one that is used


def test_without_crds_the_rayjob_is_reported_as_not_run() -> None:
    by_file = {outcome.file: outcome for outcome in cv.validate(crds=None)}
    for name in cv.MANIFESTS:
        assert by_file[name].status == "not run"
        assert "--crds" in by_file[name].reason
    with pytest.raises(FileNotFoundError):
        cv.crd_folder("no-such-folder")


def test_an_error_makes_the_command_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "aws.yaml").write_text("cluster_name: [")  # and no rayjob.yaml
    (tmp_path / "Dockerfile").write_text("FROM ubuntu\n")
    outcomes = cv.validate(tmp_path)
    assert [outcome.status for outcome in outcomes] == ["error"] * 7
    monkeypatch.setattr(cv, "validate", lambda crds: outcomes)
    assert cv.main([]) == 1
    assert all("error" in line for line in capsys.readouterr().out.splitlines())
