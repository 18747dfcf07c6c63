"""The interface alone: limits that are soon reached, and models that answer with what was asked."""

from __future__ import annotations

import base64
import io
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from pipelines.serve.runs.served import ONLY, Limits, Model, RunRefusedError, Served, Table
from pipelines.use.adapter_names import parse
from pipelines.use.answers import AdapterFiles, Known, Near

LIMITS = Limits(
    max_text=20,
    max_image_bytes=10_000,
    max_pixels=10**6,
    size=32,
    t_min=10,
    t_max=999,
    t=999,
    steps=1,
    max_steps=20,
    max_pairs=4,
    max_train_steps=10,
    train_steps=5,
    learned_steps=1,
    max_upload_bytes=20_000,
    editors=("avatar",),
    avatars=True,
    max_ongoing=4,
    max_queued=4,
)


class Fake:
    """Answers with its arguments; the concept "boom" fails."""

    def check(self, name: str) -> None:
        if name.startswith("p-") and parse(name)[0].concept == "boom":
            raise RuntimeError("a secret")

    async def about(self) -> dict[str, Any]:
        raise RuntimeError("a secret")

    async def files(self, name: str) -> AdapterFiles:
        self.check(name)
        return AdapterFiles(b"weights", b"{}", "layout", "base", name)

    async def translate(
        self, picture: np.ndarray, mix: list[tuple[str, float]]
    ) -> tuple[np.ndarray, list[str]]:
        for name, _ in mix:
            self.check(name)
        return picture, [name for name, _ in mix]

    async def containing(self, words: str, count: int) -> list[Known]:
        return [Known("id", words)] * count

    async def nearest(self, text: str, count: int) -> list[Near]:
        return [Near("id", text, 1.0)] * count

    async def submit(self, job: str, request: Any, pairs: Any) -> None:
        return None

    async def status(self, job: str) -> dict[str, Any]:
        return {"id": job, "status": "queued"}

    async def cancel(self, job: str) -> dict[str, Any]:
        return await self.status(job)


class OneRun:
    """One run, which a backend answers for; others may come and go."""

    def __init__(self, backend: Any, limits: Limits = LIMITS) -> None:
        self.fake = backend
        self.table = Table((Served(ONLY, Model("runs/one", "1" * 64), limits),))

    async def now(self) -> Table:
        return self.table

    def backend(self, served: Served) -> Any:
        return self.fake

    async def serve(self, name: str, uri: str) -> Served:
        if "bad" in uri:
            raise RunRefusedError("this run is bad")
        uri = uri or self.table.of(name).model.uri
        new = Served(name, Model(uri, "2" * 64), replace(LIMITS, avatars=False, max_text=10))
        self.table = self.table.with_run(new)
        return new

    async def remove(self, name: str) -> None:
        self.table = self.table.without(name)


def encoded(image: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


SMALL = Image.effect_noise((40, 40), 60).convert("RGB")


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
