"""Rendered clusters: nothing is left to be edited, nothing that cannot be is written."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster.render import FILES, FOLDER, RenderError, examples, main, region_of_bucket, render
from cluster.render import words_of as words
from tests.object_store import object_store

AWS = {
    "provider": "aws",
    "out": "mine",
    "image": "123.dkr.ecr.us-west-2.amazonaws.com/denoised-weights:1",
    "region": "us-west-2",
    "bucket": "my-bucket",
    "ami": "ami-0123456789abcdef0",
    "subnet": "subnet-0a1b2c",
    "security_group": "sg-0a1b2c",
    "instance_profile": "arn:aws:iam::123456789012:instance-profile/ray",
}
GCP = {
    "provider": "gcp",
    "out": "mine",
    "image": "us-central1-docker.pkg.dev/p/r/denoised-weights:1",
    "region": "us-central1",
    "bucket": "gs://my-bucket",
    "project": "my-project",
    "subnet": "private",
    "account": "ray@my-project.iam.gserviceaccount.com",
    "disk": "projects/my-project/global/images/gpu",
}
KUBERAY = {
    **{"provider": "kuberay", "out": "mine", "image": "registry.example/dw:1"},
    **{"bucket": "s3://my-bucket/team", "redis": "redis.db:6379"},
}
SLURM = {"provider": "slurm", "out": "mine", "venv": "/home/me/venv", "bucket": "/scratch/me"}


def here(_: str) -> str:
    return "us-west-2"


def test_the_files_of_the_repository_are_its_output() -> None:
    made = examples()
    assert sorted(made) == sorted(n for names in FILES.values() for n in names)
    for name, text in made.items():
        assert (FOLDER / name).read_text() == text, (
            f"cluster/{name} is edited in cluster/templates, and written by"
            " `python -m cluster.render provider=examples`"
        )


@pytest.mark.parametrize("given", [AWS, GCP, KUBERAY, SLURM], ids=lambda g: g["provider"])
@pytest.mark.parametrize("more", [{}, {"nodes": "3", "gpu": "h100", "preset": "small"}])
def test_nothing_is_left_to_be_edited(given: dict[str, str], more: dict[str, str]) -> None:
    for name, text in render(given | more, bucket_region=here).items():
        assert not re.search(r"REPLACE|BUCKET|\{\{|\{%", text), name
        if name.endswith(".yaml"):
            assert list(yaml.safe_load_all(text))


def test_a_launcher_has_the_nodes_that_are_wanted() -> None:
    wanted = AWS | {"nodes": "3", "gpu": "h100", "spot": "true"}
    made = yaml.safe_load(render(wanted, bucket_region=here)["aws.yaml"])
    types = made["available_node_types"]
    assert set(types) == {"head", "h100x8-spot"} and made["max_workers"] == 3
    node = types["h100x8-spot"]
    assert (node["max_workers"], node["resources"]) == (3, {"CPU": 192, "GPU": 8})
    assert node["node_config"]["InstanceType"] == "p5.48xlarge"
    assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    made = yaml.safe_load(render(GCP | {"spot": "true"})["gcp.yaml"])
    scheduling = made["available_node_types"]["a100x8-spot"]["node_config"]["scheduling"]
    assert scheduling["provisioningModel"] == "SPOT"


def test_pods_go_to_the_nodes_that_are_named() -> None:
    more = {"spot": "true", "selector": "cloud.google.com/gke-spot=true", "nodes": "2"}
    made = render(KUBERAY | more | {"cpus": "30", "memory": "200Gi", "hours": "5"})
    (job,) = yaml.safe_load_all(made["rayjob.yaml"])
    assert job["spec"]["activeDeadlineSeconds"] == 18000
    assert job["spec"]["entrypoint"].endswith("run_dir=s3://my-bucket/team/denoised-weights/paper")
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    pod = group["template"]["spec"]
    assert pod["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert group["maxReplicas"] == 2
    assert pod["containers"][0]["resources"]["limits"]["memory"] == "200Gi"


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "provider=?: must be one of aws, gcp, kuberay, slurm"),
        ({"provider": "azure"}, "provider=azure: must be one of"),
        (AWS | {"regoin": "x"}, "regoin: no such word, did you mean region?"),
        ({k: v for k, v in AWS.items() if k != "subnet"}, "give also subnet= (private"),
        ({"provider": "slurm", "out": "x"}, "give also bucket= (its name"),
        (AWS | {"region": "eu-north-1"}, "is not known to have p4d.24xlarge (a100); these are:"),
        (AWS | {"region": "us-east-1"}, "the bucket is in us-west-2, the cluster would be in us-"),
        (AWS | {"bucket_region": "eu-west-1"}, "the bucket is in eu-west-1"),
        (AWS | {"zone": "us-east-1a"}, "zone=us-east-1a: is not a zone of us-west-2"),
        (AWS | {"gpu": "v100"}, "gpu=v100: must be one of a100, a100-80gb, h100"),
        (AWS | {"nodes": "0"}, "nodes=0: must be a whole number above 0"),
        (AWS | {"nodes": "²"}, "nodes=²: must be a whole number"),
        (AWS | {"spot": "yes"}, "spot=yes: must be true or false"),
        (AWS | {"image": "a b"}, "image=a b: may hold letters, digits"),
        (AWS | {"subnet": "x]\nfile_mounts: {a: b"}, "may hold letters, digits"),
        (AWS | {"bucket": "gs://other"}, "a s3:// bucket is wanted on aws"),
        (GCP | {"bucket": "s3://other"}, "a gs:// bucket is wanted on gcp"),
        (GCP | {"region": "us-south1"}, "is not known to have a2-highgpu-8g"),
        (KUBERAY | {"spot": "true"}, "give selector=, the label that your spot nodes have"),
        (KUBERAY | {"selector": "spot"}, "selector=spot: must be label=value"),
        (KUBERAY | {"selector": 'a="},{'}, "must be label=value"),
        (KUBERAY | {"memory": "lots"}, "memory=lots: must be such as 900Gi"),
        (SLURM | {"venv": "/home/$(id)"}, "may hold letters, digits"),
    ],
)
def test_what_cannot_be_is_refused(
    given: dict[str, str], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RenderError) as caught:
        render(words([f"{k}={v}" for k, v in given.items()]), bucket_region=here)
    assert reason in str(caught.value)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = KUBERAY | {"out": str(tmp_path / "new" / "folder")}
    assert main([f"{k}={v}" for k, v in given.items()]) == 0
    assert sorted(p.name for p in (tmp_path / "new/folder").iterdir()) == sorted(FILES["kuberay"])
    assert (
        f"kubectl apply -f {tmp_path}/new/folder/rayjob.yaml"
        in (tmp_path / "new/folder/rayjob.yaml").read_text()
    )
    assert main(["provider=kuberay", "image"]) == 2
    assert "'image' is not of the form key=value" in capsys.readouterr().err


@pytest.fixture
def store() -> Iterator[None]:
    import boto3

    with object_store():
        place = {"LocationConstraint": "eu-west-1"}
        client = boto3.client("s3", region_name="eu-west-1")
        client.create_bucket(Bucket="mine", CreateBucketConfiguration=place)
        yield


def test_a_bucket_is_asked_where_it_is(store: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert region_of_bucket("mine") == "eu-west-1"
    with pytest.raises(RenderError, match="there is no such bucket"):
        region_of_bucket("nobodys")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(RenderError, match="give bucket_region="):
        region_of_bucket("mine")


# Slurm


@pytest.mark.parametrize("more", [{}, {"spot": "true", "partition": "gpu", "account": "me"}])
def test_the_slurm_script_is_clean(more: dict[str, str], tmp_path: Path) -> None:
    script = tmp_path / "slurm.sbatch"
    script.write_text(render(SLURM | more)["slurm.sbatch"])
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    # SC1091: the virtual environment is not here
    done = subprocess.run(
        [shellcheck, "-e", "SC1091", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


SRUN = """#!/bin/bash
# One node is this script's; of each other, what symmetric-run does there is done beside it: on one
# machine it would take itself for the head twice.
while [ "$1" != ray ]; do shift; done
address=$4
args=(); for a in "${@:7}"; do [ "$a" = -- ] && break; args+=("$a"); done
for ((i = 1; i < SLURM_JOB_NUM_NODES; i++)); do
  (until ray start --address="$address" --block "${args[@]}"; do sleep 1; done) &
done
exec "$@"
"""
DRIVER = """
import json, os, sys, ray
ray.init(address="auto")
ray.get([ray.remote(num_cpus=1)(lambda: 1).remote() for _ in range(4)])
nodes = [n["Resources"].get("CPU") for n in ray.nodes() if n["Alive"]]
if "FAIL" in os.environ:
    sys.exit(int(os.environ["FAIL"]))
json.dump({"words": sys.argv[1:], "nodes": nodes}, open(os.environ["TOLD"], "w"))
"""


@pytest.fixture
def short() -> Iterator[str]:
    """A folder of few letters: Ray's sockets are below it."""
    with tempfile.TemporaryDirectory(prefix="dw") as folder:
        yield folder


def alone() -> list[str]:
    """A command prefix: its own process namespace, for `ray stop` ends every Ray that it sees."""
    for prefix in (["unshare"], ["unshare", "--user", "--map-root-user"]):
        whole = [*prefix, "--pid", "--fork", "--mount-proc", "--kill-child"]
        done = subprocess.run([*whole, "true"], capture_output=True, check=False)
        if done.returncode == 0:
            return whole
    pytest.skip("needs unshare --pid, to keep other tests' Ray alive")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("unshare"), reason="needs util-linux")
def test_the_slurm_script_starts_ray_on_all_its_nodes(tmp_path: Path, short: str) -> None:
    import ray.util

    if ray.util.get_node_ip_address().startswith("127."):
        pytest.skip("symmetric-run takes no loopback address for several nodes")
    prefix = alone()
    venv, binaries, own = tmp_path / "venv", tmp_path / "bin", Path(sys.executable).parent
    (venv / "bin").mkdir(parents=True)
    binaries.mkdir()
    (venv / "bin" / "activate").write_text(f"export PATH={binaries}:{own}:$PATH\n")
    (tmp_path / "driver.py").write_text(DRIVER)
    programs = {
        "srun": SRUN,
        "scontrol": f"#!/bin/bash\nexec {sys.executable} -c"
        " 'import ray; print(ray.util.get_node_ip_address())'\n",
        # the pipeline's place is taken by a driver that looks at the cluster
        "python": f"#!/bin/bash\n[ \"$1 $2\" = '-m pipelines' ] && "
        f'exec {sys.executable} {tmp_path}/driver.py "${{@:3}}"\nexec {sys.executable} "$@"\n',
    }
    for name, text in programs.items():
        (binaries / name).write_text(text)
        (binaries / name).chmod(0o755)
    given = SLURM | {"venv": str(venv), "nodes": "2", "gpus": "1", "cpus": "2"}
    script = tmp_path / "slurm.sbatch"
    # no GPUs here
    text = render(given | {"bucket": "/scratch"})["slurm.sbatch"]
    script.write_text(text.replace("--num-gpus=1", "--num-gpus=0"))
    environment = os.environ | {
        **{"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_ID": "4242"},
        **{"TOLD": str(tmp_path / "told.json"), "RAY_TMPDIR": short},
    }
    environment.pop("RAY_ADDRESS", None)

    def sent(**more: str) -> tuple[int, str]:
        done = subprocess.run(
            [*prefix, "bash", script],
            env=environment | more,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    status, said = sent()
    assert status == 0, said[:3000] + said[-2000:]
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["nodes"] == [2.0, 2.0]
    assert told["words"][:3] == [
        *("run", "preset=paper", "run_dir=/scratch/denoised-weights/paper"),
    ]
    # the job's status is the driver's, whatever Ray's own command says
    status, said = sent(FAIL="3")
    assert status == 3, said[-3000:]
    (tmp_path / "file").write_text("no folder can be made below it")
    status, said = sent(RAY_TMPDIR=str(tmp_path / "file"))
    assert status == 1 and "Ray was not started" in said, said[-3000:]
