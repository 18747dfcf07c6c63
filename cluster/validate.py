"""Check the files of this folder without a cloud, a cluster or a Docker engine.

    python -m cluster.validate [--crds DIR]

prints one line per file: ok, error (with what is wrong) or not run (with what is missing).
What it cannot see: whether an instance type, image or AMI exists, and KubeRay's CEL rules.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

FOLDER = Path(__file__).parent
REPOSITORY = FOLDER.parent
MANIFESTS = ("raycluster.yaml", "rayjob.yaml", "rayservice.yaml")
CRDS_VARIABLE = "DENOISED_WEIGHTS_CRDS"
GET_CRDS = (
    f"no KubeRay schemas: name their folder by --crds or {CRDS_VARIABLE}; it is "
    "helm-chart/kuberay-operator/crds in the repository ray-project/kuberay at v1.7.0"
)


class Outcome(NamedTuple):
    """What was found for one file: status is "ok", "error" or "not run"."""

    file: str
    status: str
    reason: str = ""


def crd_folder(given: str | Path | None = None) -> Path | None:
    """Folder of CRD schemas: as given, else $DENOISED_WEIGHTS_CRDS, else ../shared/crds.

    Raises:
        FileNotFoundError: a folder was named and is not there.
    """
    named = given or os.environ.get(CRDS_VARIABLE)
    if named is not None:
        if not Path(named).is_dir():
            raise FileNotFoundError(f"{named} is not a folder of CRD schemas")
        return Path(named)
    beside = REPOSITORY.parent / "shared" / "crds"
    return beside if beside.is_dir() else None


def load_crd(folder: Path, kind: str) -> dict[str, Any]:
    """The v1 schema of RayCluster, RayJob or RayService: KubeRay's own YAML, or KIND.json from it.

    Returns:
        {"apiVersion", "kind", "openAPIV3Schema"}, for `check_custom_resource`.
    """
    extracted, upstream = folder / f"{kind}.json", folder / f"ray.io_{kind.lower()}s.yaml"
    if extracted.is_file():
        return json.loads(extracted.read_text())
    if not upstream.is_file():
        raise FileNotFoundError(f"{folder} holds neither {upstream.name} nor {extracted.name}")
    spec = yaml.safe_load(upstream.read_text())["spec"]
    schemas = {version["name"]: version["schema"] for version in spec["versions"]}
    return {"apiVersion": f"{spec['group']}/v1", "kind": spec["names"]["kind"], **schemas["v1"]}


def check_launcher(config: dict[str, Any]) -> list[str]:
    """Problems of a Ray cluster-launcher config: Ray's own schema, then this project's rules."""
    from jsonschema import ValidationError
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(config))
    except ValidationError as error:
        return [f"{error.json_path}: {error.message}"]
    except (KeyError, RuntimeError, ValueError) as error:
        return [f"{type(error).__name__}: {error}"]
    problems = []
    node_types = config.get("available_node_types", {})
    head = node_types.get(config.get("head_node_type"), {})
    if head.get("resources", {}).get("CPU") != 0:
        problems.append('the head must offer no CPU for tasks: resources: {"CPU": 0}')
    if not any("RAY_AUTH_MODE=token" in o for o in config.get("docker", {}).get("run_options", [])):
        problems.append("docker.run_options must set RAY_AUTH_MODE=token")
    starts = " ".join(config.get("head_start_ray_commands", []))
    if "--dashboard-host=127.0.0.1" not in starts:
        problems.append("head_start_ray_commands must pass --dashboard-host=127.0.0.1")
    if config["provider"].get("use_internal_ips") is not True:
        problems.append("provider.use_internal_ips must be true: no public addresses")
    for name, node_type in node_types.items():
        node = node_type["node_config"]
        if config["provider"]["type"] == "aws" and not node.get("SecurityGroupIds"):
            problems.append(f"{name} names no SecurityGroupIds: Ray's default opens port 22 to all")
        if config["provider"]["type"] == "gcp" and (
            not node.get("networkInterfaces")
            or any("accessConfigs" in i for i in node["networkInterfaces"])
        ):
            problems.append(f"{name} needs networkInterfaces without accessConfigs: no public IP")
    for key in ("setup_commands", "head_setup_commands"):
        if config.get(key) != []:
            problems.append(f"{key} must be []: the default installs another Ray over the image's")
    return problems


def check_custom_resource(manifest: dict[str, Any], crd: dict[str, Any]) -> list[str]:
    """Problems of a manifest by a CRD's structural schema, unknown keys included.

    Args:
        manifest: the parsed YAML.
        crd: {"apiVersion", "kind", "openAPIV3Schema"}.
    """
    from jsonschema import Draft202012Validator

    schema = {**crd["openAPIV3Schema"], "required": ["apiVersion", "kind", "metadata", "spec"]}
    errors = Draft202012Validator(strict_schema(schema)).iter_errors(manifest)
    problems = [f"{error.json_path}: {error.message}" for error in errors]
    for key in ("apiVersion", "kind"):
        if manifest.get(key) != crd[key]:
            problems.append(f"$.{key}: {manifest.get(key)!r} instead of {crd[key]!r}")
    if not manifest.get("metadata", {}).get("name"):
        problems.append("$.metadata: 'name' is a required property")
    return problems


def strict_schema(schema: Any) -> Any:
    """Kubernetes structural schema -> JSON schema that refuses the keys it does not name.

    x-kubernetes-preserve-unknown-fields keeps an object open, x-kubernetes-int-or-string admits
    both types, nullable admits null. Only keywords are rewritten, not properties so named.
    """
    if not isinstance(schema, dict):
        return schema
    strict = dict(schema)
    if "properties" in schema:
        strict["properties"] = {k: strict_schema(v) for k, v in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            strict.setdefault("additionalProperties", False)
    for keyword in ("items", "additionalProperties"):
        if keyword in strict:
            strict[keyword] = strict_schema(strict[keyword])
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("anyOf", None)
        strict["type"] = ["integer", "string"]
    if schema.get("nullable"):
        return {"anyOf": [{"type": "null"}, strict]}
    return strict


def cluster_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """The cluster's spec inside a RayCluster, RayJob or RayService."""
    spec = manifest.get("spec", {})
    kind = str(manifest.get("kind"))
    key = {"RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(kind)
    return spec.get(key, {}) if key else spec


def check_rules(manifest: dict[str, Any]) -> list[str]:
    """This project's rules for a cluster's spec; shapes are `check_custom_resource`'s matter."""
    problems = []
    cluster = cluster_of(manifest)
    head = cluster.get("headGroupSpec", {})
    if manifest.get("kind") != "RayJob" and not cluster.get("gcsFaultToleranceOptions", {}).get(
        "redisAddress"
    ):
        problems.append("a cluster that stays needs gcsFaultToleranceOptions.redisAddress")
    if cluster.get("authOptions", {}).get("mode") != "token":
        problems.append("authOptions.mode must be token")
    if head.get("rayStartParams", {}).get("num-cpus") != "0":
        problems.append('the head must offer no CPU for tasks: rayStartParams: {num-cpus: "0"}')
    if cluster.get("autoscalerOptions", {}).get("version") != "v2":
        problems.append("autoscalerOptions.version must be v2")
    for group in [head, *cluster.get("workerGroupSpecs", [])]:
        pod = group.get("template", {}).get("spec", {})
        memory = {v["name"] for v in pod.get("volumes", []) if v.get("emptyDir", {}).get("medium")}
        mounts = {
            mount.get("name"): mount.get("mountPath")
            for container in pod.get("containers", [])
            for mount in container.get("volumeMounts", [])
        }
        if not any(mounts.get(name) == "/dev/shm" for name in memory):
            name = group.get("groupName", "the head")
            problems.append(f"{name} must mount an emptyDir with medium Memory at /dev/shm")
        if not pod.get("securityContext", {}).get("runAsNonRoot"):
            problems.append(f"{group.get('groupName', 'the head')} must set runAsNonRoot")
    if manifest.get("kind") == "RayService":
        problems += check_serve(_mapping(manifest["spec"].get("serveConfigV2", "{}")))
    return problems


def check_serve(config: dict[str, Any]) -> list[str]:
    """Problems of a Serve config by Ray's own model, which forgives unknown keys; this does not."""
    from pydantic import ValidationError
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import ServeDeploySchema

    problems = []
    try:
        known = ServeDeploySchema.model_validate(config)
        for application in config.get("applications", []):
            for deployment in application.get("deployments", []):
                scaling = deployment.get("autoscaling_config", {})  # Serve takes any mapping here
                AutoscalingConfig.model_validate(scaling)
                unknown = scaling.keys() - AutoscalingConfig.model_fields.keys()
                problems += [f"autoscaling_config.{key}: no such key" for key in unknown]
    except ValidationError as error:
        return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
    return problems + _unknown(config, known.model_dump(warnings=False), "")


def _unknown(given: Any, known: Any, place: str) -> list[str]:
    """Keys that a validated model has dropped; what is free-form in it (args) keeps all."""
    if isinstance(given, dict) and isinstance(known, dict):
        problems = [f"{place}{key}: no such key" for key in given.keys() - known.keys()]
        for key in given.keys() & known.keys():
            problems += _unknown(given[key], known[key], f"{place}{key}.")
        return problems
    if isinstance(given, list) and isinstance(known, list):
        pairs = enumerate(zip(given, known, strict=False))
        return [p for i, (a, b) in pairs for p in _unknown(a, b, f"{place}{i}.")]
    return []


POLICIES: dict[str, tuple[str, dict[str, Any]]] = {
    "PodDisruptionBudget": (
        "policy/v1",
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["selector"],
            "properties": {
                "minAvailable": {"type": ["integer", "string"]},
                "maxUnavailable": {"type": ["integer", "string"]},
                "selector": {"type": "object", "required": ["matchLabels"]},
            },
            "oneOf": [{"required": ["minAvailable"]}, {"required": ["maxUnavailable"]}],
        },
    ),
    "NetworkPolicy": (
        "networking.k8s.io/v1",
        {
            "type": "object",
            "additionalProperties": False,
            "required": ["podSelector"],
            "properties": {
                "podSelector": {"type": "object"},
                "policyTypes": {"type": "array", "items": {"enum": ["Ingress", "Egress"]}},
                "ingress": {"type": "array", "items": {"type": "object"}},
                "egress": {"type": "array", "items": {"type": "object"}},
            },
        },
    ),
}
"""Kubernetes' own kinds in the manifests: apiVersion, and the part of spec's schema in use."""


def check_policy(manifest: dict[str, Any]) -> list[str]:
    """Problems of a document of a kind in POLICIES."""
    from jsonschema import Draft202012Validator

    version, schema = POLICIES[manifest["kind"]]
    problems = [] if manifest.get("apiVersion") == version else [f"apiVersion must be {version}"]
    if not manifest.get("metadata", {}).get("name"):
        problems.append("metadata.name is missing")
    errors = Draft202012Validator(schema).iter_errors(manifest.get("spec", {}))
    return problems + [f"{e.json_path}: {e.message}" for e in errors]


def check_manifests(text: str, crds: Path | None) -> list[str]:
    """Problems of all documents of a file; without `crds`, of what needs no KubeRay schema."""
    problems: list[str] = []
    for manifest in yaml.safe_load_all(text):
        kind = manifest.get("kind") if isinstance(manifest, dict) else None
        if kind in POLICIES:
            found = check_policy(manifest)
        elif kind in ("RayCluster", "RayJob", "RayService"):
            found = check_custom_resource(manifest, load_crd(crds, kind)) if crds else []
            found = found or check_rules(manifest)
        else:
            found = [f"a document of kind {kind} is not expected"]
        problems += [f"{kind}: {p}" for p in found]
    return problems


def check_dockerfile(text: str, root: Path = REPOSITORY) -> list[str]:
    """Problems of a Dockerfile: base pinned, constraints used, not root, sources present."""
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    steps = [(line.split()[0].upper(), line.split()[1:]) for line in lines if line.strip()]
    problems = []
    bases = [words[0] for name, words in steps if name == "FROM"]
    if not bases:
        problems.append("no FROM")
    for base in bases:
        if not re.search(r":\d+\.\d+|@sha256:", base):
            problems.append(f"{base} is not pinned to a version")
    users = [words[0] for name, words in steps if name == "USER"]
    if not users or users[-1].split(":")[0] in ("root", "0"):
        problems.append("the last USER must not be root")
    installs = [" ".join(w) for n, w in steps if n == "RUN" and "pip install" in " ".join(w)]
    if not installs or not all("-c constraints.txt" in command for command in installs):
        problems.append("every pip install must use -c constraints.txt")
    for words in (w for n, w in steps if n in ("COPY", "ADD")):
        for source in [w for w in words if not w.startswith("--")][:-1]:
            if not (root / source).exists():
                problems.append(f"COPY {source}: not in the repository")
    return problems


def validate(folder: Path = FOLDER, crds: Path | None = None) -> list[Outcome]:
    """Check the files of a folder that is laid out like this one.

    Args:
        folder: where the files are; what the Dockerfile copies is looked for in its parent.
        crds: folder of CRD schemas; without it the Kubernetes manifests are "not run" unless they
            break a rule that needs no schema.
    """
    checks: dict[str, Callable[[str], list[str]]] = {
        "aws.yaml": lambda text: check_launcher(_mapping(text)),
        "gcp.yaml": lambda text: check_launcher(_mapping(text)),
        **dict.fromkeys(MANIFESTS, lambda text: check_manifests(text, crds)),
        "serve.yaml": lambda text: check_serve(_mapping(text)),
        "Dockerfile": lambda text: check_dockerfile(text, folder.parent),
    }
    outcomes = []
    for name, check in checks.items():
        try:
            problems = check((folder / name).read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            problems = [" ".join(str(error).split())]
        if problems:
            outcomes.append(Outcome(name, "error", "; ".join(problems)))
        elif name in MANIFESTS and crds is None:
            outcomes.append(Outcome(name, "not run", GET_CRDS))
        else:
            outcomes.append(Outcome(name, "ok"))
    return outcomes


def _mapping(text: str) -> dict[str, Any]:
    content = yaml.safe_load(text)
    if not isinstance(content, dict):
        raise ValueError(f"a YAML mapping is expected, got {type(content).__name__}")
    return content


def main(arguments: list[str] | None = None) -> int:
    """Print one line per file; return 1 if any is in error."""
    parser = argparse.ArgumentParser(prog="python -m cluster.validate", description=__doc__)
    parser.add_argument("--crds", help=f"folder of CRD schemas (default ${CRDS_VARIABLE})")
    try:
        crds = crd_folder(parser.parse_args(arguments).crds)
    except FileNotFoundError as error:
        parser.error(str(error))
    outcomes = validate(crds=crds)
    for outcome in outcomes:
        print(f"{outcome.file:<16} {outcome.status:<8} {outcome.reason}".rstrip())
    return int(any(outcome.status == "error" for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
