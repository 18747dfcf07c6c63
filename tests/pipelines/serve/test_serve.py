"""The service over real HTTP on a real local Ray; its interface alone for the many bad inputs."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import shutil
import socket
import subprocess
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import torch
import yaml
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load, save
from starlette.responses import Response

from cluster.local import free_port
from cluster.validate import check_serve
from modeling.concepts.planning import plan_concepts, to_table
from modeling.editors.registry import supports
from modeling.images import decode_image, encode_png
from modeling.targets.adapter_training import to_uint8, to_unit
from modeling.targets.families import frozen_target
from modeling.targets.lora import CONFIG_FILE, WEIGHTS_FILE, from_bytes
from modeling.targets.shapes import from_description
from modeling.targets.translator import Translator
from modeling.text import TextEmbedding, TextEncoder
from modeling.weights.checkpoint import to_files
from modeling.weights.codec import BlockLayout
from modeling.weights.ema import EMA
from modeling.weights.normalisation import NormalisationSums
from modeling.weights.weight_generator import build
from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.runtime import stage_graph as stages
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.stage_graph import StageError
from pipelines.runtime.text_table import writing_text
from pipelines.serve import command as serve
from pipelines.serve.adapter_ids import Ask, UnknownAdapterError, name_of, parse
from pipelines.serve.api_keys import from_environment, hashed
from pipelines.serve.app import Limits, make_app
from pipelines.serve.deployments import Weights
from pipelines.serve.http import Admission, proxy_middlewares
from pipelines.serve.parts import READ, AdapterFiles, Loaded, WeightPart, digest, digests
from pipelines.stages import base
from pipelines.stages.base import discriminator_config, load_base, translator_config
from pipelines.stages.concepts import load_concepts
from pipelines.stages.generator import generator_config
from pipelines.stages.writing import embed
from tests.driver import ROOT

TEXT_DIM = 384
SERVE_YAML = ROOT / "cluster" / "serve.yaml"
# Not the preset's, so that a service that took the preset's configuration would be noticed
TRAINED = [
    "preset=tiny",
    "generator.t_min=100",
    "adapt.t=900",
    "lora.rank=2",
    "lora.ranks={head: 1}",
]


def make_run(folder: Path) -> RunDir:
    """A finished run with random networks, made without Ray or training."""
    run = RunDir(str(folder))
    config = load_config([*TRAINED, f"run_dir={folder}"])
    torch.manual_seed(0)
    network = Translator(translator_config(config, TEXT_DIM)).freeze_statistics()
    torch.nn.init.normal_(network.head.weight, std=0.02)  # zero at the start: it would edit nothing
    discriminator = base.PatchDiscriminator(discriminator_config(config))
    about = {
        "translator": network.config.to_dict(),
        "discriminator": vars(discriminator_config(config)),
    }
    run.write("base/translator.safetensors", save(dict(network.state_dict())))
    run.write("base/discriminator.safetensors", save(dict(discriminator.state_dict())))
    run.write_json("base/base.json", about)

    translator, _ = load_base(config, run)
    w = config.weights
    layout = BlockLayout.build(translator.shapes, translator.groups, w.grouping, w.block_size)
    sums = NormalisationSums.empty(layout)
    start = translator.zero_adapter()
    for _ in range(4):
        adapter = {k: v + 0.2 * torch.randn_like(v) for k, v in start.items()}
        sums.add(layout.to_blocks(adapter)[None])
    run.write("weights/layout.json", layout.to_json().encode())
    run.write("weights/normalisation.safetensors", sums.finish(layout, "element").to_bytes())

    model = build(generator_config(config, layout.n_blocks, TEXT_DIM))
    with torch.no_grad():  # its last layer starts at zero: all texts would give one adapter
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    ema = EMA(model)
    for name, data in to_files(model, ema).items():
        run.write(f"generator/{name}", data)

    concepts = plan_concepts(config.concepts, config.seed, supports("avatar"))
    run.write_table("concepts.parquet", to_table(concepts))
    with writing_text(run) as table:
        embed(TextEncoder(), table, concepts)

    run.write("config.yaml", config_tree.to_yaml(config).encode())
    for stage in stages.STAGES[:6]:
        marker = {"config": stages.depends_on(stage, config), "inputs": {}}
        run.write_json(
            f"stages/{stage.name}.json", {**marker, "files": stages.inventory(run, stage)}
        )
    return run


def told(run: RunDir, *words: str) -> Config:
    return load_config([f"run_dir={run.uri}", *words])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_run(tmp_path_factory.mktemp("serve") / "run")


@pytest.fixture
def own_run(tmp_path: Path) -> RunDir:
    """A run that a test may damage."""
    return make_run(tmp_path / "run")


# Over HTTP


@pytest.fixture(scope="module")
def url(run: RunDir) -> Iterator[str]:
    os.environ |= {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_COLOR_PREFIX": "0",
    }
    import ray
    from ray import serve as ray_serve

    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    small = {"max_text": 50, "max_image_bytes": 100_000, "max_ongoing": 4, "max_queued": 4}
    small |= {"finetunes_waiting": 1, "max_pairs": 12}
    given = told(run, f"serve.port={free_port()}", *(f"serve.{k}={v}" for k, v in small.items()))
    try:
        yield serve.start(serve.saved_config(run, given), run)
    finally:
        ray_serve.shutdown()
        ray.shutdown()


def ask(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/adapters", json=body, timeout=60)


def translate(url: str, image: bytes, **fields: Any) -> httpx.Response:
    files = {"image": ("x.png", image)}
    return httpx.post(f"{url}/v1/translate", files=files, data=fields, timeout=60)


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    """uint8 [48, 64, 3], smooth."""
    y, x = np.mgrid[0:48, 0:64]
    return np.stack([4 * x, 5 * y, 2 * x + 2 * y], -1).astype(np.uint8)


def test_readiness_index_and_openapi(url: str, run: RunDir) -> None:
    assert httpx.get(f"{url}/healthz", timeout=60).json() == {"status": "ok"}
    ready = httpx.get(f"{url}/readyz", timeout=60).json()
    assert ready["status"] == "ok" and ready["image_size"] == 32
    assert ready["base"] == digest(run, READ["base"])
    assert ready["generator"] == digest(run, READ["generator"])
    assert len({ready[k] for k in ("base", "weights", "generator", "model", "layout")}) == 5
    index = httpx.get(f"{url}/v1").json()
    assert "POST /v1/adapters" in index["endpoints"] and index["version"] == ready["version"]
    assert httpx.get(url).text.startswith("<!doctype html>")
    paths = httpx.get(f"{url}/openapi.json").json()["paths"]
    assert {"/v1/adapters", "/v1/translate", "/v1/finetunes", "/healthz"} <= set(paths)
    assert httpx.get(f"{url}/docs").status_code == 200


def test_served_adapter_in_peft_edits_as_translate_does(
    url: str, run: RunDir, picture: np.ndarray, tmp_path: Path
) -> None:
    from peft import PeftModel

    concept = "grüne Haare 头发"
    reply = httpx.post(f"{url}/v1/adapters?format=zip", json={"concept": concept}, timeout=60)
    assert reply.status_code == 200 and reply.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        archive.extractall(tmp_path)
    network = frozen_target(from_description(run.read_json("base/base.json")["translator"]))
    network.load_state_dict(load(run.read("base/translator.safetensors")))
    x = to_unit(torch.from_numpy(decode_image(encode_png(picture), 32))).permute(2, 0, 1)[None]
    (text,) = TextEncoder().encode([concept])
    mask = torch.ones(1, text.tokens.shape[0], dtype=torch.bool)
    with torch.no_grad():
        plain = network(x, text.tokens[None], mask)
        adapted = PeftModel.from_pretrained(network, str(tmp_path))(x, text.tokens[None], mask)
    expected = to_uint8(adapted)[0].permute(1, 2, 0).numpy().astype(int)

    reply = httpx.post(
        f"{url}/v1/translate",
        files={"image": ("x.png", encode_png(picture))},
        data={"concept": concept},
        timeout=60,
    )
    assert reply.status_code == 200 and reply.headers["content-type"] == "image/png"
    got = decode_image(reply.content).astype(int)
    assert got.shape == (32, 32, 3)
    assert np.abs(got - expected).max() <= 1  # rounding: PEFT does not merge the weights
    assert np.abs(got - to_uint8(plain)[0].permute(1, 2, 0).numpy()).mean() > 3


def test_equal_requests_give_equal_bytes_and_others_do_not(url: str, run: RunDir) -> None:
    first, again = ask(url, concept="red hair"), ask(url, concept="  red hair ", seed=0, t=900)
    assert first.status_code == 200 and first.content == again.content
    others: list[dict[str, Any]] = [
        {"concept": "blue hair"},
        {"concept": "red hair", "seed": 1},
        {"concept": "red hair", "t": 500},
    ]
    contents = {first.content, *(ask(url, **o).content for o in others)}
    assert len(contents) == 4
    # nor does another process give others
    saved = serve.saved_config(run, told(run))
    threads = torch.get_num_threads()
    part = WeightPart(saved, run)
    (embedding,) = TextEncoder().encode(["red hair"])
    (made,) = part.predict([(Ask("red hair", 0, 900, 1), embedding)])
    torch.set_num_threads(threads)
    assert isinstance(made, Loaded)
    again_made = from_bytes(first.content, "reply")
    assert all(torch.equal(again_made[k], v) for k, v in made.adapter.items())
    assert first.headers["x-concept"] == "red hair"
    assert first.headers["x-base-digest"] == digest(run, READ["base"])
    assert float(again.headers["x-seconds"]) < 10
    # what the run's configuration says: rank 2, rank 1 for the head
    adapter = from_bytes(first.content, "reply")
    translator, _ = load_base(saved, run)
    translator.check(adapter)
    assert adapter["base_model.model.head.lora_A.weight"].shape[0] == 1


def test_an_adapters_name_says_which_it_is(url: str, picture: np.ndarray) -> None:
    first = ask(url, concept="red hair", seed=4, steps=3)
    name = first.headers["x-adapter-id"]
    assert parse(name)[0] == Ask("red hair", 4, 900, 3)
    again = httpx.get(f"{url}/v1/adapters/{name}", timeout=60)
    assert again.content == first.content and again.headers["x-adapter-id"] == name
    by_name = translate(url, encode_png(picture), adapter=name)
    by_text = translate(url, encode_png(picture), concept="red hair", seed=4, steps=3)
    assert by_name.status_code == 200, by_name.text
    assert by_name.content == by_text.content and by_text.headers["x-adapter-id"] == name
    jpeg = httpx.post(
        f"{url}/v1/translate?format=jpeg",
        files={"image": ("x.png", encode_png(picture))},
        data={"adapter": name},
        timeout=60,
    )
    assert jpeg.headers["content-type"] == "image/jpeg"
    got, exact = (decode_image(r.content).astype(int) for r in (jpeg, by_name))
    assert np.abs(got - exact).mean() < 8
    other = name_of(parse(name)[0], "f" * 64)
    assert httpx.get(f"{url}/v1/adapters/{other}", timeout=60).status_code == 409
    assert httpx.get(f"{url}/v1/adapters/f-{'0' * 16}", timeout=60).status_code == 404


def test_requests_together_are_answered_as_they_are_alone(url: str, picture: np.ndarray) -> None:
    """Other adapters in one batch change nothing beyond rounding."""
    asked = [{"concept": f"{c} hair", "seed": s} for c in ("red", "blue") for s in (7, 8)]

    async def together() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            return await asyncio.gather(
                *(
                    client.post(
                        f"{url}/v1/translate",
                        data=a,
                        files={"image": ("x.png", encode_png(picture))},
                    )
                    for a in asked
                )
            )

    made = asyncio.run(together())
    pictures = [decode_image(r.content).astype(int) for r in made if r.status_code == 200]
    assert len(pictures) == 4
    for body, got in zip(asked, pictures, strict=True):
        alone = decode_image(translate(url, encode_png(picture), **body).content).astype(int)
        assert np.abs(got - alone).max() <= 1
    assert len({p.tobytes() for p in pictures}) == 4


def test_nearest_concepts(url: str, run: RunDir) -> None:
    reply = httpx.get(
        f"{url}/v1/concepts/nearest", params={"text": "hair of green", "count": 3}, timeout=60
    )
    found = reply.json()["concepts"]
    known = {c.concept_id: c for c in load_concepts(run)}
    assert len(found) == 3 and all(known[f["concept_id"]].split == "train" for f in found)
    assert [f["similarity"] for f in found] == sorted(
        (f["similarity"] for f in found), reverse=True
    )
    assert "hair" in found[0]["text"]
    empty = httpx.get(f"{url}/v1/concepts/nearest", params={"text": " "}, timeout=60)
    assert empty.status_code == 422


def finished_job(url: str, reply: httpx.Response) -> dict[str, Any]:
    assert reply.status_code == 202, reply.text
    where = f"{url}{reply.headers['location']}"
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        told = httpx.get(where, timeout=60)
        job: dict[str, Any] = told.json()
        if told.status_code != 503:  # its part is being started again: "come again"
            assert told.status_code == 200, job
            if job["status"] not in ("queued", "running"):
                return job
        time.sleep(0.2)
    raise AssertionError(f"still {job}")


def test_a_fine_tune_by_an_editor(url: str, run: RunDir, picture: np.ndarray) -> None:
    concept = next(c.text for c in load_concepts(run) if c.families == ("background",))
    fields = {"concept": concept, "editor": "avatar", "images": 8, "train_steps": 20}
    reply = httpx.post(f"{url}/v1/finetunes", data=fields, timeout=60)
    job = finished_job(url, reply)
    assert job["status"] == "finished" and job["l1_after"] < job["l1_before"], job
    assert "16 other pictures" in job["scored_on"]
    tuned = httpx.get(f"{url}/v1/adapters/{job['adapter']}", timeout=60)
    predicted = ask(url, concept=concept)
    assert tuned.status_code == 200 and tuned.content != predicted.content
    made = [
        translate(url, encode_png(picture), **f).content
        for f in ({"adapter": job["adapter"]}, {"concept": concept})
    ]
    assert made[0] != made[1]
    # nothing but the result is left of the job
    left = {Path(f).name for f in run.files(f"served/finetunes/{job['id']}")}
    assert left == {"request.json", "result.json", WEIGHTS_FILE, CONFIG_FILE, "tokens.safetensors"}


def test_a_fine_tune_on_uploaded_pairs(url: str, picture: np.ndarray) -> None:
    pictures = [np.roll(picture, 5 * i, axis=1) for i in range(10)]
    files = [("sources", (f"{i}.png", encode_png(p))) for i, p in enumerate(pictures)]
    files += [("edits", (f"{i}.png", encode_png(255 - p))) for i, p in enumerate(pictures)]
    fields = {"concept": "a negative", "train_steps": 30}
    job = finished_job(url, httpx.post(f"{url}/v1/finetunes", data=fields, files=files, timeout=60))
    assert job["status"] == "finished" and job["l1_after"] < job["l1_before"], job
    assert job["scored_on"] == "2 other pictures"
    uneven = httpx.post(f"{url}/v1/finetunes", data=fields, files=files[:-1], timeout=60)
    both = httpx.post(
        f"{url}/v1/finetunes", data={**fields, "editor": "avatar"}, files=files, timeout=60
    )
    none = httpx.post(f"{url}/v1/finetunes", data=fields, timeout=60)
    unknown = httpx.post(
        f"{url}/v1/finetunes", data={"concept": "no such edit", "editor": "avatar"}, timeout=60
    )
    for refused in (uneven, both, none, unknown):
        assert refused.status_code == 422 and refused.json()["detail"]
        assert "Traceback" not in refused.text


def test_fine_tunes_wait_are_turned_away_and_cancelled(url: str, run: RunDir) -> None:
    """One at work and one that waits (see `url`)."""
    concept = next(c.text for c in load_concepts(run) if c.families == ("background",))
    fields = {"concept": concept, "editor": "avatar", "images": 8, "train_steps": 500}
    replies = [httpx.post(f"{url}/v1/finetunes", data=fields, timeout=60) for _ in range(3)]
    assert [r.status_code for r in replies] == [202, 202, 503]
    assert replies[2].headers["retry-after"] == "1"
    for reply in replies[:2]:
        assert httpx.delete(f"{url}{reply.headers['location']}", timeout=60).status_code == 200
    ended = [finished_job(url, r) for r in replies[:2]]
    assert [e["status"] for e in ended] == ["cancelled", "cancelled"]
    assert httpx.get(f"{url}/v1/finetunes/{'0' * 16}", timeout=60).status_code == 404


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the system package chromium")
def test_the_page_in_a_browser(url: str, run: RunDir, tmp_path: Path) -> None:
    """An avatar, its edit by predicted weights, and after a fine-tune."""
    concept = next(c.text for c in load_concepts(run) if c.families == ("background",))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=60000", "--dump-dom"]
    command.append(f"{url}/?concept={quote(concept)}&tune=1")
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    page = done.stdout

    def inside(tag: str, name: str) -> str:
        found = re.search(rf'<{tag}[^>]*id="{name}"[^>]*>([^<]*)', page)
        assert found, (name, page[-3000:], done.stderr[-2000:])
        return found[0]

    assert 'src="blob:' in inside("img", "before")
    assert 'src="blob:' in inside("img", "predicted") and " s" in inside("small", "predicted-says")
    assert 'src="blob:' in inside("img", "tuned"), inside("div", "message")
    assert "L1 0." in inside("small", "tuned-says")
    assert inside("div", "message").endswith(">")


def test_metrics_count_by_route(url: str) -> None:
    ask(url, concept="counted")
    text = httpx.get(f"{url}/metrics").text
    assert 'denoised_weights_requests_total{copy="' in text and 'route="/v1/adapters"' in text
    assert "denoised_weights_request_seconds_bucket" in text


def test_bad_requests_get_json_errors(url: str) -> None:
    replies = {
        422: [ask(url, concept=""), ask(url, concept="x" * 51), ask(url, concept="a", surprise=1)],
        415: [translate(url, b"no image", concept="a")],
        # of these, the second is refused before it is parsed
        413: [translate(url, b"x" * n, concept="a") for n in (100_001, 3_000_000)],
    }
    for status, found in replies.items():
        for reply in found:
            assert reply.status_code == status, reply.text
            assert reply.json()["detail"]
    assert httpx.get(f"{url}/healthz").status_code == 200


def test_a_full_queue_gets_503(url: str) -> None:
    """Four at work and four that wait (see `url`): of forty at once, some are turned away."""

    async def flood() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=60) as client:
            asked = [{"concept": "flood", "seed": i} for i in range(40)]
            return await asyncio.gather(
                *(client.post(f"{url}/v1/adapters", json=body) for body in asked)
            )

    replies = asyncio.run(flood())
    refused = [r for r in replies if r.status_code == 503]
    assert {r.status_code for r in replies} == {200, 503}
    assert all(r.headers["retry-after"] == "1" for r in refused)
    assert ask(url, concept="after the flood").status_code == 200


def test_what_nobody_waits_for_is_not_made(run: RunDir) -> None:
    """Four requests wait for three adapters; two of them go. (Serve takes what is cancelled out of
    a batch; its batches are for copies alone, so there is another one here.)"""
    config = serve.saved_config(run, told(run))
    made: list[int] = []

    class Encoder:
        async def remote(self, text: str) -> TextEmbedding:
            return TextEmbedding(torch.zeros(2, TEXT_DIM), torch.zeros(TEXT_DIM))

    async def main() -> list[Any]:
        text, model = SimpleNamespace(encode=Encoder()), digests(run)["model"]
        weights = Weights(config_tree.to_dict(config), run, model, text)

        async def predict(ask: tuple[Ask, TextEmbedding]) -> Any:
            await asyncio.sleep(0.3)
            made.append(ask[0].seed)
            return weights.part.predict([ask])[0]

        weights._predict = predict
        names = [name_of(Ask("a", seed, 900, 1), "") for seed in (0, 1, 1, 2)]
        asked = [asyncio.create_task(weights.load(name)) for name in names]
        await asyncio.sleep(0.1)
        asked[2].cancel()  # its twin still waits
        asked[3].cancel()
        return await asyncio.gather(*asked, return_exceptions=True)

    zero, one, *gone = asyncio.run(main())
    assert isinstance(zero, Loaded) and isinstance(one, Loaded)
    assert all(isinstance(g, asyncio.CancelledError) for g in gone)
    assert made == [0, 1]


# The interface alone

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

    async def translate(self, picture: np.ndarray, name: str) -> tuple[np.ndarray, str]:
        self.check(name)
        return picture, name

    async def nearest(self, text: str, count: int) -> list[tuple[str, str, float]]:
        return [("id", text, 1.0)] * count

    async def submit(self, job: str, request: Any, pairs: Any) -> None:
        return None

    async def status(self, job: str) -> dict[str, Any]:
        return {"id": job, "status": "queued"}

    async def cancel(self, job: str) -> dict[str, Any]:
        return await self.status(job)


@pytest.fixture(scope="module")
def client() -> TestClient:
    return TestClient(make_app(LIMITS, Fake()), raise_server_exceptions=False)


def test_a_key_is_asked_for_everywhere_but_by_probes() -> None:
    key = "a key of sixteen or more"
    guarded = TestClient(make_app(LIMITS, Fake(), [hashed(key)]))
    for path in ("/", "/healthz"):
        assert guarded.get(path).status_code == 200
    for path in ("/v1", "/metrics", "/docs", "/openapi.json", "/v1/concepts/nearest?text=a"):
        assert guarded.get(path).status_code == 401
    for headers, status in (
        ({"X-API-Key": key}, 200),
        ({"Authorization": f"Bearer {key}"}, 200),
        ({"Authorization": key}, 401),
        ({"X-API-Key": key[:-1]}, 401),
        ({"X-API-Key": hashed(key)}, 401),
    ):
        assert guarded.get("/v1", headers=headers).status_code == status
    # refused before the body is taken in, and counted all the same
    assert guarded.post("/v1/adapters", json={"concept": "boom"}).status_code == 401
    assert guarded.get("/v1/nothing/of/it").status_code == 401
    counted = guarded.get("/metrics", headers={"X-API-Key": key}).text
    for route, method in (("/v1/adapters", "POST"), ("none", "GET")):
        line = f'method="{method}",route="{route}",status="401"}} 1.0'
        assert line in counted, counted


def test_so_many_work_so_many_wait_and_probes_do_neither() -> None:
    gate = asyncio.Event()
    at_work: list[int] = [0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"].startswith("/v1/"):
            at_work.append(at_work[-1] + 1)
            try:
                await gate.wait()
            finally:
                at_work.append(at_work[-1] - 1)
        await Response("well")(scope, receive, send)

    admission = Admission(app, ongoing=3, queued=5)

    async def ask(path: str = "/v1/adapters") -> Any:
        told: list[Any] = []

        async def send(message: Any) -> None:
            told.append(message)

        await admission({"type": "http", "path": path, "headers": []}, None, send)
        return told[0]["status"], dict(told[0]["headers"]).get(b"retry-after")

    async def main() -> None:
        asked = [asyncio.create_task(ask()) for _ in range(12)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused = [task for task in asked if task.done()]
        assert [task.result() for task in refused] == [(503, b"1")] * 4
        assert await ask("/healthz") == (200, None)
        # those that go, from work or from the queue, leave their places to others
        for task in (asked[0], asked[7]):
            task.cancel()
        await asyncio.sleep(0.01)
        asked += [asyncio.create_task(ask()) for _ in range(3)]
        await asyncio.sleep(0.01)
        assert [task.done() for task in asked[-3:]] == [False, False, True]
        gate.set()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(answer == (200, None) for answer in answers) == 8
        assert max(at_work) == 3 and at_work[-1] == 0 and admission.there == 0

    asyncio.run(main())


@pytest.mark.parametrize("answer, status", [(Response("well", 418), 418), (None, 503)])
def test_a_request_that_ends_without_an_answer_gets_503(answer: Any, status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if answer:
            await answer(scope, receive, send)

    (middleware,) = proxy_middlewares()
    reply = TestClient(middleware.cls(app)).get("/v1")
    assert (reply.status_code, reply.headers.get("retry-after")) == (
        status,
        None if answer else "1",
    )


def test_keys_come_from_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asking = load_config(["serve.require_key=true"])
    assert from_environment(load_config([])) == []
    for value, message in ((None, "DENOISED_WEIGHTS_API_KEYS"), ("short", "16 characters")):
        monkeypatch.setenv("DENOISED_WEIGHTS_API_KEYS", value or "")
        with pytest.raises(ConfigError, match=message):
            from_environment(asking)
    monkeypatch.setenv("DENOISED_WEIGHTS_API_KEYS", f"{'a' * 16}, {'b' * 20},")
    assert from_environment(asking) == [hashed("a" * 16), hashed("b" * 20)]


@settings(max_examples=200, deadline=None)
@given(
    concept=st.text(min_size=1, max_size=50),
    seed=st.integers(0, 2**63 - 1),
    t=st.integers(0, 999),
    steps=st.integers(1, 50),
)
def test_names_of_adapters_are_an_exact_inverse(
    concept: str, seed: int, t: int, steps: int
) -> None:
    wanted = Ask(concept, seed, t, steps)
    assert parse(name_of(wanted, "0123456789abcdef")) == (wanted, "0123456789ab")


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=60), st.binary(max_size=60).map(lambda b: "p-" + b64(b))))
def test_no_other_text_is_a_name(client: TestClient, text: str) -> None:
    try:
        wanted, digits = parse(text)
    except UnknownAdapterError:
        assert client.get(f"/v1/adapters/{quote(text, safe='')}").status_code in (404, 405, 422)
    else:
        assert name_of(wanted, digits) == text


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


@pytest.mark.parametrize(
    "fields",
    [
        ["x" * 21, 0, 999, 1, ""],
        ["", 0, 999, 1, ""],
        ["a", -1, 999, 1, ""],
        ["a", 2**63, 999, 1, ""],
        ["a", 0, 5, 1, ""],
        ["a", 0, 1000, 1, ""],
        ["a", 0, 999, 21, ""],
        ["a", 0, 10, 12, ""],
        ["a", 0.0, 999, 1, ""],
        ["a", True, 999, 1, ""],
        ["a", 0, 999, 1, None],
        ["a", 0, 999, 1],
        {"a": 1},
    ],
)
def test_a_forged_name_passes_no_limit(client: TestClient, fields: Any) -> None:
    name = "p-" + b64(json.dumps(fields, separators=(",", ":")).encode())
    assert client.get(f"/v1/adapters/{name}").status_code == 404
    image = {"image": ("x", encoded(SMALL, "PNG"))}
    assert client.post("/v1/translate", data={"adapter": name}, files=image).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 5000,
        b"\xff\xfe",
        b'{"concept": " "}',
        b'{"concept": 5}',
        b'{"concept": "twenty-one characters"}',
        rb'{"concept": "\ud800"}',
        rb'{"concept": "a", "\ud800": 1}',
        b'{"concept": "a", "seed": -1}',
        b'{"concept": "a", "seed": 1.5}',
        b'{"concept": "a", "seed": NaN}',
        b'{"concept": "a", "seed": ' + b"9" * 5000 + b"}",
        b'{"concept": "a", "t": 9}',
        b'{"concept": "a", "t": 1000}',
        b'{"concept": "a", "image": "/etc/passwd"}',
    ],
)
def test_bad_json_is_a_4xx_with_json(client: TestClient, body: bytes) -> None:
    reply = client.post("/v1/adapters", content=body, headers={"content-type": "application/json"})
    assert reply.status_code in (400, 422) and reply.json()["detail"]


def test_failures_of_the_model_are_json_without_its_insides(client: TestClient) -> None:
    reply = client.post("/v1/adapters", json={"concept": "boom"})
    assert reply.status_code == 500 and "secret" not in reply.text and reply.json()["detail"]
    assert client.get("/readyz").status_code == 503  # `about` fails


def encoded(image: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


SMALL = Image.effect_noise((40, 40), 60).convert("RGB")


@pytest.mark.parametrize(
    ("image", "status"),
    [
        (encoded(SMALL, "PNG"), 200),
        (encoded(SMALL, "JPEG"), 200),
        (encoded(SMALL, "WEBP"), 200),
        (encoded(SMALL, "GIF"), 415),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
        (b"", 415),
        (encoded(SMALL, "PNG")[:-1000], 422),
        (encoded(SMALL, "PNG")[:60], 422),
        (encoded(Image.new("1", (5000, 5000)), "PNG"), 422),  # 3 kB, 25 million pixels
        (encoded(SMALL, "PNG") + bytes(10_000), 413),
    ],
)
def test_images_by_format_size_and_damage(client: TestClient, image: bytes, status: int) -> None:
    reply = client.post("/v1/translate", files={"image": ("x", image)}, data={"concept": "a"})
    assert reply.status_code == status, reply.text
    if status == 200:
        assert decode_image(reply.content).shape == (32, 32, 3)
    else:
        assert reply.json()["detail"]


@pytest.mark.parametrize("text", ["\x1c", " \x1f\t", "\u2003", "\x85"])
def test_a_text_of_space_alone_says_nothing(client: TestClient, text: str) -> None:
    files = {"image": ("x", encoded(SMALL, "PNG"))}
    for reply in (
        client.post("/v1/adapters", json={"concept": text}),
        client.post("/v1/translate", data={"concept": text}, files=files),
        client.post("/v1/finetunes", data={"concept": text, "editor": "avatar"}),
        client.get("/v1/concepts/nearest", params={"text": text}),
    ):
        assert reply.status_code == 422, reply.text
    spaced = client.get("/v1/concepts/nearest", params={"text": f"{text}blue hair{text}"})
    assert spaced.json()["concepts"][0]["text"] == "blue hair"


def test_forms_take_no_paths_and_no_unknown_fields(client: TestClient) -> None:
    path = client.post("/v1/translate", data={"concept": "a", "image": "/etc/hostname"})
    image = {"image": ("x", encoded(SMALL, "PNG"))}
    extra = client.post("/v1/translate", data={"concept": "a", "surprise": "1"}, files=image)
    assert (path.status_code, extra.status_code) == (422, 422)


def test_more_steps_than_time_steps_are_refused_in_forms_too(client: TestClient) -> None:
    fields = {"concept": "a", "t": 10, "steps": 12}
    image = {"image": ("x", encoded(SMALL, "PNG"))}
    for reply in (
        client.post("/v1/adapters", json=fields),
        client.post("/v1/translate", data=fields, files=image),
        client.post("/v1/finetunes", data={**fields, "editor": "avatar"}),
    ):
        assert reply.status_code == 422 and "time steps" in reply.text


def test_zip_by_accept_header(client: TestClient) -> None:
    body = {"concept": "a"}
    asked = client.post("/v1/adapters", json=body, headers={"Accept": "application/zip"})
    assert (
        zipfile.ZipFile(io.BytesIO(asked.content)).read("adapter_model.safetensors") == b"weights"
    )
    assert client.post("/v1/adapters", json=body).content == b"weights"
    said = client.post(
        "/v1/adapters?format=safetensors", json=body, headers={"Accept": "application/zip"}
    )
    assert said.content == b"weights"


# What is served


def test_the_runs_own_configuration_is_served(run: RunDir) -> None:
    saved = serve.saved_config(run, told(run, "serve.max_text=7", "cluster.actors=1"))
    assert (saved.preset, saved.adapt.t, saved.lora.rank, saved.lora.ranks) == (
        "tiny",
        900,
        2,
        {"head": 1},
    )
    assert (saved.serve.max_text, saved.cluster.actors) == (7, 1)
    assert (serve.limits(saved).t_min, serve.limits(saved).t_max) == (100, 999)
    assert (serve.limits(saved).t, serve.limits(saved).steps) == (900, 1)


def test_a_stages_marker_goes_before_config_yaml(own_run: RunDir) -> None:
    """config.yaml is the last command's; the adapters' rank is what stage gans was run with."""
    text = own_run.read("config.yaml").decode()
    own_run.write("config.yaml", text.replace("  rank: 2", "  rank: 5").encode())
    assert serve.saved_config(own_run, told(own_run)).lora.rank == 2


def test_a_contradicting_key_is_refused(run: RunDir) -> None:
    serve.saved_config(run, told(run, "lora.rank=2"))
    with pytest.raises(ConfigError, match=r"lora\.rank=3.*made with lora\.rank=2"):
        serve.saved_config(run, told(run, "lora.rank=3"))
    with pytest.raises(ConfigError, match=r"serve\.max_queued=0"):
        serve.saved_config(run, told(run, "serve.max_queued=0"))


def test_an_unfinished_run_names_the_command(own_run: RunDir, tmp_path: Path) -> None:
    own_run.delete("stages/generator.json")
    for where in (own_run, RunDir(str(tmp_path / "nothing"))):
        with pytest.raises(StageError, match=r"denoised-weights run .*run_dir="):
            serve.saved_config(where, told(where))


def test_a_taken_port_is_named_before_anything_is_loaded(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(StageError, match=rf"serve\.port={port}"):
            serve.serve_forever(told(run, f"serve.port={port}"), run)


def test_a_foreign_file_is_noticed(own_run: RunDir) -> None:
    data = bytearray(own_run.read("generator/ema.safetensors"))
    data[-1] ^= 1
    own_run.write("generator/ema.safetensors", bytes(data))
    with pytest.raises(ArtifactError, match=r"ema\.safetensors"):
        serve.saved_config(own_run, told(own_run))


# cluster/serve.yaml


def test_serve_yaml_is_strictly_valid_and_listens_on_loopback(run: RunDir) -> None:
    content = yaml.safe_load(SERVE_YAML.read_text())
    assert check_serve(content) == []
    assert content["http_options"]["host"] == "127.0.0.1"
    (application,) = content["applications"]
    assert application["import_path"] == "pipelines.serve:build"
    built = serve.build({**application["args"], "run_dir": run.uri})
    parts = {p._bound_deployment.name for p in built._bound_deployment.init_args}
    assert parts == {"Text", "Weights", "Translator", "Finetunes"}
    assert {d["name"] for d in application["deployments"]} <= {"Api", *parts}


@pytest.mark.parametrize("where", ["", "http_options", "applications", "deployments"])
def test_a_misspelt_key_in_serve_yaml_is_found(where: str) -> None:
    content = yaml.safe_load(SERVE_YAML.read_text())
    (application,) = content["applications"]
    place = {"applications": application, "deployments": application["deployments"][0], "": content}
    place.get(where, content["http_options"])["surprise"] = 1
    assert any("surprise" in problem for problem in check_serve(content))


def test_build_takes_the_command_lines_keys_only(run: RunDir) -> None:
    for args, expected in (
        ({}, "run_dir"),
        ({"run_dir": run.uri, "serve.port": 80}, "http_options"),
        ({"run_dir": run.uri, "surprise": 1}, "surprise"),
    ):
        with pytest.raises(ConfigError, match=expected):
            serve.build(args)
