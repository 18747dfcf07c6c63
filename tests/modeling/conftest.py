"""Fixtures of the maths' tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def threads() -> Iterator[None]:
    """As many as the environment says, whatever ran before in this process: one, but for a purpose.

    Tiny convolutions on two threads take 40 times as long where another process has a core.
    """
    torch = sys.modules.get("torch")  # not every test beside this file needs it
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    yield
    torch.set_num_threads(before)
