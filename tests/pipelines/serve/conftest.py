"""What the tests of the service share: the interface alone, and a picture."""

from __future__ import annotations

import numpy as np
import pytest
from fastapi.testclient import TestClient

from pipelines.serve.app import make_app
from tests.pipelines.serve.fake import LIMITS, Fake, OneRun


@pytest.fixture(scope="session")
def client() -> TestClient:
    return TestClient(make_app(LIMITS, OneRun(Fake())), raise_server_exceptions=False)


@pytest.fixture(scope="session")
def picture() -> np.ndarray:
    """uint8 [48, 64, 3], smooth."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([4 * x, 5 * y, 2 * x + 2 * y], -1).astype(np.uint8)
