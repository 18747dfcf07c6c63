"""Files that start a cluster, from a few words: no REPLACE to be edited by hand.

    python -m cluster.render provider=aws image=REGISTRY/denoised-weights:1 region=us-west-2 \\
      bucket=my-bucket ami=ami-… subnet=subnet-… security_group=sg-… instance_profile=arn:… out=DIR
    python -m cluster.render provider=gcp|kuberay|slurm …
    python -m cluster.render provider=examples       # writes the examples beside this file

What cannot be is refused before anything is written: an unknown word, one that is missing, a
region without the machine, a bucket in another region. Each file is checked as `python -m
cluster.validate` checks it.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cluster.machines import CLOUDS, KUBERNETES
from cluster.validate import check_launcher, check_manifests, check_serve, crd_folder

FOLDER = Path(__file__).parent
FILES = {
    "aws": ("aws.yaml",),
    "gcp": ("gcp.yaml",),
    "kuberay": ("raycluster.yaml", "rayjob.yaml", "rayservice.yaml", "serve.yaml"),
    "slurm": ("slurm.sbatch",),
}
SHARED = {
    "provider": "aws | gcp | kuberay | slurm",
    "out": "the folder that gets the files",
    "bucket": "its name or URI; of slurm a folder that all nodes share will do",
    "preset": "paper if it is not given",
    "nodes": "GPU nodes at most; 8 if it is not given",
    "gpu": "a100 | a100-80gb | h100; a100 if it is not given",
    "spot": "true: machines that may be taken away",
}
OWN = {
    "aws": {
        "image": "that the nodes may pull, built from cluster/Dockerfile",
        "region": "such as us-west-2",
        "zone": "of the region; its first if it is not given",
        "bucket_region": "of the bucket, if it cannot be asked from here",
        "anywhere": "true: also in a region that is not known to have the machine",
        "ami": "of GPU nodes: Ubuntu, Docker, NVIDIA container toolkit, driver for CUDA 13",
        "head_ami": "of the head: Ubuntu with Docker; ami= if it is not given",
        "subnet": "private, with a way to the bucket and the registry",
        "security_group": "that admits itself and nothing else",
        "instance_profile": "its ARN: the bucket, Session Manager, on the head EC2",
    },
    "gcp": {
        "image": "that the nodes may pull, built from cluster/Dockerfile",
        "region": "such as us-central1",
        "zone": "of the region; its first if it is not given",
        "bucket_region": "of the bucket; the cluster's is believed if it is not given",
        "anywhere": "true: also in a region that is not known to have the machine",
        "project": "its id",
        "subnet": "its name, with Private Google Access and a NAT",
        "account": "the service account's address",
        "disk": "source image of GPU nodes, projects/…",
        "head_disk": "source image of the head; disk= if it is not given",
    },
    "kuberay": {
        "image": "that the pods may pull, built from cluster/Dockerfile",
        "redis": "host:port, for what stays: a cluster, the service",
        "selector": "label=value of the nodes that pods may go to, as spot machines have",
        "cpus": "of a worker's pod; by the GPU if not given",
        "memory": "of a worker's pod, such as 900Gi; by the GPU if not given",
        "hours": "that a job may take; 168 if it is not given",
    },
    "slurm": {
        "venv": "a virtual environment that all nodes see, with denoised-weights in it",
        "partition": "of the cluster; its default if it is not given",
        "account": "that is charged; yours if it is not given",
        "gpus": "of a node; 8 if it is not given",
        "cpus": "of a node; 96 if it is not given",
        "hours": "that the job may take; 168 if it is not given",
    },
}
OPTIONAL = {
    *("preset", "nodes", "gpu", "spot", "zone", "bucket_region", "anywhere", "head_ami"),
    *("head_disk", "selector", "cpus", "memory", "hours", "partition", "account", "gpus"),
}
REQUIRED_ACCOUNT = ("gcp",)
EXAMPLES: dict[str, dict[str, str]] = {
    "aws": {
        "region": "us-west-2",
        "ami": "ami-REPLACE",
        "subnet": "subnet-REPLACE",
        "security_group": "sg-REPLACE",
        "instance_profile": "arn:aws:iam::REPLACE:instance-profile/REPLACE",
        "bucket": "s3://BUCKET",
    },
    "gcp": {
        "region": "us-central1",
        "project": "REPLACE",
        "subnet": "REPLACE",
        "account": "REPLACE@REPLACE.iam.gserviceaccount.com",
        "disk": "projects/REPLACE",
        "bucket": "gs://BUCKET",
    },
    "kuberay": {"redis": "redis:6379", "bucket": "s3://BUCKET"},
    "slurm": {"venv": "/shared/venv", "bucket": "s3://BUCKET"},
}
IMAGE = "denoised-weights:latest"


class RenderError(ValueError):
    """What was asked cannot be; the text says what to give."""


def words_of(arguments: Sequence[str]) -> dict[str, str]:
    """RenderError for what is not key=value, twice, unknown, missing, or no choice."""
    given: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not value:
            raise RenderError(f"{argument!r} is not of the form key=value")
        if key in given:
            raise RenderError(f"{key} is given twice")
        given[key] = value
    provider = given.get("provider", "")
    if provider not in FILES:
        raise RenderError(f"provider={provider or '?'}: must be one of {', '.join(FILES)}")
    known = SHARED | OWN[provider]
    for key in given:
        if key not in known:
            near = get_close_matches(key, known, 1)
            raise RenderError(f"{key}: no such word{f', did you mean {near[0]}?' if near else ''}")
    needed = [
        k for k in known if k not in OPTIONAL or (k == "account" and provider in REQUIRED_ACCOUNT)
    ]
    missing = [k for k in needed if k not in given]
    if missing:
        raise RenderError("give also " + "; ".join(f"{k}= ({known[k]})" for k in missing))
    return given


def render(
    given: Mapping[str, str],
    example: bool = False,
    bucket_region: Callable[[str], str] | None = None,
) -> dict[str, str]:
    """File → its text. RenderError if what is asked cannot be, or breaks a rule.

    bucket_region: asks where an S3 bucket is; by default the store itself.
    """
    provider = given["provider"]
    about = _about(given, example)
    if provider in CLOUDS:
        _place(given, about, example, bucket_region or region_of_bucket)
    environment = Environment(  # these are no pages: nothing is escaped, values are checked
        loader=FileSystemLoader(FOLDER / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    out = {}
    for name in FILES[provider]:
        file = str((FOLDER if example else Path(given["out"])) / name)
        shown = f"cluster/{name}" if example else file
        out[name] = environment.get_template(f"{name}.j2").render(**about, file=shown)
        problems = check(name, out[name])
        if problems:
            raise RenderError(f"{name}: {'; '.join(problems)}")
    return out


def _about(given: Mapping[str, str], example: bool) -> dict[str, Any]:
    """What the templates take; each value is of a form that YAML and a shell take as it is."""
    provider, gpu = given["provider"], given.get("gpu", "a100")
    if gpu not in KUBERNETES:
        raise RenderError(f"gpu={gpu}: must be one of {', '.join(KUBERNETES)}")
    for key, value in given.items():
        if key not in ("out", "selector") and not re.fullmatch(r"[\w.:/@+~-]+", value):
            raise RenderError(f"{key}={value}: may hold letters, digits and . : / @ + ~ - _ alone")
    preset = given.get("preset", "paper")
    cpus, memory = KUBERNETES[gpu]
    slurm = provider == "slurm"
    about: dict[str, Any] = {
        "example": example,
        "command": "python -m cluster.render "
        + ("provider=examples" if example else shlex.join(f"{k}={v}" for k, v in given.items())),
        "image": given.get("image", IMAGE),
        "preset": preset,
        "nodes": _count(given, "nodes", 8),
        "spot": _flag(given, "spot"),
        "hours": _count(given, "hours", 168),
        "cpus": _count(given, "cpus", 96 if slurm else cpus),
        "memory": given.get("memory", memory),
        "run_dir": _run_dir(given["bucket"], provider, preset),
        "group": node_name(gpu),
        "selector": _selector(given),
        "gpus": _count(given, "gpus", 8),
        "redis": given.get("redis", ""),
    }
    size = re.fullmatch(r"(\d+)(Gi|Ti)", about["memory"])
    if not size:
        raise RenderError(f"memory={about['memory']}: must be such as 900Gi")
    about["shared_memory"] = f"{max(1, int(size[1]) // 3)}{size[2]}"
    if provider == "kuberay" and about["spot"] and not about["selector"]:
        raise RenderError(
            "spot=true: give selector=, the label that your spot nodes have, such as"
            " karpenter.sh/capacity-type=spot or cloud.google.com/gke-spot=true"
        )
    own = {k: given.get(k, "") for k in OWN[provider]}
    own["head_ami"] = own.get("head_ami") or own.get("ami", "")
    own["head_disk"] = own.get("head_disk") or own.get("disk", "")
    return {**own, **about}


def node_name(gpu: str) -> str:
    """Of a node of eight: a100 → a100x8, a100-80gb → a100x8-80gb."""
    kind, dash, memory = gpu.partition("-")
    return f"{kind}x8{dash}{memory}"


def _place(
    given: Mapping[str, str], about: dict[str, Any], example: bool, ask: Callable[[str], str]
) -> None:
    """Adds zone and node types; RenderError for a place where this cannot be."""
    provider, region, gpu = given["provider"], given["region"], given.get("gpu", "a100")
    machines = CLOUDS[provider]
    if region not in machines[gpu].regions and not _flag(given, "anywhere"):
        raise RenderError(
            f"region={region}: is not known to have {machines[gpu].name} ({gpu}); these are:"
            f" {', '.join(sorted(machines[gpu].regions))}. anywhere=true takes it all the same"
        )
    zone = given.get("zone", f"{region}a" if provider == "aws" else f"{region}-a")
    if not zone.startswith(region) or zone == region:
        raise RenderError(f"zone={zone}: is not a zone of {region}")
    about["zone"] = zone
    if not example:
        where = given.get("bucket_region") or (
            ask(_bucket(given["bucket"])) if provider == "aws" else region
        )
        if where != region:
            raise RenderError(
                f"the bucket is in {where}, the cluster would be in {region}: every byte between"
                " them is billed, and slow. Give region= or another bucket="
            )

    def type_of(kind: str, spot: bool, most: int) -> dict[str, Any]:
        name = node_name(kind) + ("-spot" if spot else "")
        return {"name": name, "machine": machines[kind], "spot": spot, "most": most}

    wanted = [type_of(gpu, about["spot"], about["nodes"])]
    if example:  # what there is to choose from
        wanted += [type_of(gpu, True, 0), *(type_of(k, False, 0) for k in machines if k != gpu)]
    about["types"] = wanted


def region_of_bucket(name: str) -> str:
    """Where an S3 bucket is: the store says it to anybody. RenderError if it cannot be asked."""
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    settings = Config(
        signature_version=UNSIGNED, connect_timeout=5, read_timeout=5, retries={"max_attempts": 1}
    )
    try:
        reply = boto3.client("s3", region_name="us-east-1", config=settings).head_bucket(
            Bucket=name
        )
    except ClientError as error:  # refused, and yet it says where
        reply = error.response
    except BotoCoreError as error:
        raise RenderError(
            f"bucket={name}: its region could not be asked ({error}): give bucket_region="
        ) from error
    where = reply["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", "")
    if not where:
        raise RenderError(f"bucket={name}: there is no such bucket")
    return str(where)


def _bucket(given: str) -> str:
    return given.partition("://")[2].partition("/")[0] if "://" in given else given


def _run_dir(bucket: str, provider: str, preset: str) -> str:
    """Below the bucket, in a URI."""
    if provider == "slurm" and bucket.startswith("/"):
        return f"{bucket.rstrip('/')}/denoised-weights/{preset}"
    scheme = "gs" if provider == "gcp" else "s3"
    uri = bucket if "://" in bucket else f"{scheme}://{bucket}"
    found = uri.partition("://")[0]
    if (provider == "gcp") != (found == "gs") and provider in CLOUDS:
        raise RenderError(f"bucket={bucket}: a {scheme}:// bucket is wanted on {provider}")
    return f"{uri.rstrip('/')}/denoised-weights/{preset}"


def _selector(given: Mapping[str, str]) -> str:
    """A YAML mapping of one label; "" without one."""
    if "selector" not in given:
        return ""
    label, equals, value = given["selector"].partition("=")
    if not equals or not re.fullmatch(r"[\w./-]+", label) or not re.fullmatch(r"[\w.-]+", value):
        raise RenderError(f"selector={given['selector']}: must be label=value")
    return f'{{{label}: "{value}"}}'


def _count(given: Mapping[str, str], key: str, default: int) -> int:
    value = given.get(key, str(default))
    if not value.isascii() or not value.isdigit() or not 0 < int(value) < 10**5:
        raise RenderError(f"{key}={value}: must be a whole number above 0")
    return int(value)


def _flag(given: Mapping[str, str], key: str) -> bool:
    value = given.get(key, "false")
    if value not in ("true", "false"):
        raise RenderError(f"{key}={value}: must be true or false")
    return value == "true"


def check(name: str, text: str) -> list[str]:
    """Problems of a file, as far as they can be seen from here."""
    import yaml

    if name in ("aws.yaml", "gcp.yaml"):
        return check_launcher(yaml.safe_load(text))
    if name == "serve.yaml":
        return check_serve(yaml.safe_load(text))
    return check_manifests(text, crd_folder()) if name.endswith(".yaml") else []


def examples() -> dict[str, str]:
    """The files beside this one."""
    out: dict[str, str] = {}
    for provider, words in EXAMPLES.items():
        out |= render({"provider": provider, **words}, example=True)
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """2, and one line, if what is asked cannot be."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words == ["provider=examples"]:
            folder, files = FOLDER, examples()
        else:
            given = words_of(words)
            folder, files = Path(given["out"]).expanduser(), render(given)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
            print(folder / name)
    except (RenderError, OSError) as error:
        print(f"cluster.render: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
