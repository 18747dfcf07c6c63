"""An object store on this machine, for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest


@contextmanager
def object_store() -> Iterator[None]:
    """S3 by moto; its address and keys are in the environment, as for any S3 store.

    Its buckets outlive it in this process: name them after the test.
    """
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    s3 = fsspec.get_filesystem_class("s3")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        environment.setenv("AWS_ACCESS_KEY_ID", "testing")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "testing")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3.clear_instance_cache()  # file systems are kept by what they were made with
        yield
    server.stop()
    s3.clear_instance_cache()
