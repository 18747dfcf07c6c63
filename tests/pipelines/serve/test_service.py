"""The service over real HTTP on a real local Ray.

One long file: the tests of a file run in one process, which starts the service once for all.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load

from cluster.local import free_port
from modeling.images import decode_image, encode_png
from modeling.targets.adapter_training import to_uint8, to_unit
from modeling.targets.families import frozen_target
from modeling.targets.lora import CONFIG_FILE, WEIGHTS_FILE, from_bytes
from modeling.targets.shapes import from_description
from modeling.text import TextEncoder
from pipelines import Run
from pipelines.__main__ import main
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import set_environment
from pipelines.serve.api_keys import ADMINS
from pipelines.serve.command import start
from pipelines.stages.base import load_base
from pipelines.stages.concepts import load_concepts
from pipelines.use.adapter_names import Ask, name_of, parse
from pipelines.use.parts import Loaded, WeightPart
from pipelines.use.saved_run import READ, digest, digests, saved_config
from tests.pipelines.serve.clients import (
    PATIENCE,
    Load,
    ask,
    copies,
    finished_job,
    replaced,
    translate,
)
from tests.pipelines.use.untrained_run import make_run, told

# One service for all tests, as starting Ray and its parts takes longest: few places, small requests
WORDS = [
    f"serve.port={free_port()}",
    "serve.max_text=50",
    "serve.max_image_bytes=100000",
    "serve.max_ongoing=4",
    "serve.max_queued=4",
    "serve.finetunes_waiting=1",
    f"serve.timeout_s={PATIENCE}",
    "serve.max_pairs=12",
    "serve.translator.least=2",
    "serve.translator.most=2",
]
ADMIN = "the administrator's key"


@pytest.fixture(scope="module")
def url(run: RunDir) -> Iterator[str]:
    import ray
    from ray import serve as ray_serve

    os.environ[ADMINS] = ADMIN
    set_environment(local=True)  # as the command does: no worker is started before it is needed
    ray.init(address="local", num_cpus=8, include_dashboard=False, log_to_driver=False)
    try:
        yield start(told(run, *WORDS))
    finally:
        ray_serve.shutdown()
        ray.shutdown()
        del os.environ[ADMINS]


@pytest.fixture(scope="module")
def background(run: RunDir) -> str:
    """A concept that the editor of avatars can make."""
    return next(c.text for c in load_concepts(run) if c.families == ("background",))


def test_readiness_index_and_openapi(url: str, run: RunDir) -> None:
    assert httpx.get(f"{url}/healthz", timeout=PATIENCE).json() == {"status": "ok"}
    ready = httpx.get(f"{url}/readyz", timeout=PATIENCE).json()
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


def test_the_http_part_does_without_torch(url: str) -> None:
    """230 MiB resident instead of 900."""

    def loaded(part: str) -> bool:
        (process,) = map(psutil.Process, copies(part))
        return any("libtorch" in file.path for file in process.memory_maps())

    assert ask(url, concept="something").status_code == 200  # it has worked
    assert loaded("Text") and not loaded("Api")


def test_served_adapter_in_peft_edits_as_translate_does(
    url: str, run: RunDir, picture: np.ndarray, tmp_path: Path
) -> None:
    from peft import PeftModel

    concept = "grüne Haare 头发"
    reply = httpx.post(f"{url}/v1/adapters?format=zip", json={"concept": concept}, timeout=PATIENCE)
    assert reply.status_code == 200 and reply.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(reply.content)) as archive:
        archive.extractall(tmp_path)
    network = frozen_target(from_description(run.read_json("base/base.json")["translator"]))
    network.load_state_dict(load(run.read("base/translator.safetensors")))
    square = decode_image(encode_png(picture), 32)  # edited at its own size
    x = to_unit(torch.from_numpy(square)).permute(2, 0, 1)[None]
    (text,) = TextEncoder().encode([concept])
    mask = torch.ones(1, text.tokens.shape[0], dtype=torch.bool)
    with torch.no_grad():
        plain = network(x, text.tokens[None], mask)
        adapted = PeftModel.from_pretrained(network, str(tmp_path))(x, text.tokens[None], mask)
    expected = to_uint8(adapted)[0].permute(1, 2, 0).numpy().astype(int)

    reply = translate(url, encode_png(square), concept=concept)
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
    saved = saved_config(run, told(run))
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


def test_python_and_the_commands_answer_as_the_service_does(
    url: str, run: RunDir, picture: np.ndarray, tmp_path: Path
) -> None:
    """Equal bytes: one text, seed and picture, three ways."""
    served = ask(url, concept="red hair", seed=5)
    edited = translate(url, encode_png(picture), concept="red hair", seed=5, strength=0.7)
    half = translate(url, encode_png(picture), concept="red hair", seed=5, strength=0)
    assert (decode_image(half.content) == picture).all()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the service's parts have here
    used = Run(run.uri)
    adapter = used.predict("red hair", seed=5)
    assert adapter.files()[WEIGHTS_FILE] == served.content
    assert adapter.name == served.headers["x-adapter-id"] == edited.headers["x-adapter-id"]
    (made,) = used.translate([picture], adapter, strength=0.7)
    np.testing.assert_array_equal(decode_image(edited.content), made)
    mix = json.dumps([["red hair", 1.0], ["sepia", 0.5]])
    mixed = translate(url, encode_png(picture), concepts=mix, seed=5, strength=0.7)
    assert mixed.headers["x-adapter-id"].count("p-") == 2
    parts = [(adapter, 1.0), (used.predict("sepia", seed=5), 0.5)]
    (made,) = used.translate([picture], parts, strength=0.7)
    np.testing.assert_array_equal(decode_image(mixed.content), made)
    assert main(["predict", "red hair", f"run_dir={run.uri}", f"out={tmp_path}", "seed=5"]) == 0
    assert (tmp_path / "red-hair" / WEIGHTS_FILE).read_bytes() == served.content
    torch.set_num_threads(threads)


def test_an_adapters_name_says_which_it_is(url: str, picture: np.ndarray) -> None:
    first = ask(url, concept="red hair", seed=4, steps=3)
    name = first.headers["x-adapter-id"]
    assert parse(name)[0] == Ask("red hair", 4, 900, 3)
    again = httpx.get(f"{url}/v1/adapters/{name}", timeout=PATIENCE)
    assert again.content == first.content and again.headers["x-adapter-id"] == name
    by_name = translate(url, encode_png(picture), adapter=name)
    by_text = translate(url, encode_png(picture), concept="red hair", seed=4, steps=3)
    assert by_name.status_code == 200, by_name.text
    assert by_name.content == by_text.content and by_text.headers["x-adapter-id"] == name
    jpeg = httpx.post(
        f"{url}/v1/translate?format=jpeg",
        files={"image": ("x.png", encode_png(picture))},
        data={"adapter": name},
        timeout=PATIENCE,
    )
    assert jpeg.headers["content-type"] == "image/jpeg"
    got, exact = (decode_image(r.content).astype(int) for r in (jpeg, by_name))
    assert np.abs(got - exact).mean() < 8
    other = name_of(parse(name)[0], "f" * 64)
    assert httpx.get(f"{url}/v1/adapters/{other}", timeout=PATIENCE).status_code == 409
    assert httpx.get(f"{url}/v1/adapters/f-{'0' * 16}", timeout=PATIENCE).status_code == 404


def test_requests_together_are_answered_as_they_are_alone(url: str, picture: np.ndarray) -> None:
    """Other adapters in one batch change nothing beyond rounding."""
    asked = [{"concept": f"{c} hair", "seed": s} for c in ("red", "blue") for s in (7, 8)]

    async def together() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
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
        f"{url}/v1/concepts/nearest", params={"text": "hair of green", "count": 3}, timeout=PATIENCE
    )
    found = reply.json()["concepts"]
    known = {c.concept_id: c for c in load_concepts(run)}
    assert len(found) == 3 and all(known[f["concept_id"]].split == "train" for f in found)
    assert [f["similarity"] for f in found] == sorted(
        (f["similarity"] for f in found), reverse=True
    )
    assert "hair" in found[0]["text"]
    empty = httpx.get(f"{url}/v1/concepts/nearest", params={"text": " "}, timeout=PATIENCE)
    assert empty.status_code == 422


def test_concepts_by_what_their_texts_hold(url: str, run: RunDir) -> None:
    def found(**params: Any) -> list[str]:
        reply = httpx.get(f"{url}/v1/concepts", params=params, timeout=PATIENCE)
        assert reply.status_code == 200, reply.text
        return [c["text"] for c in reply.json()["concepts"]]

    known = {c.text for c in load_concepts(run) if c.split == "train"}
    some = found(contains=" HAIR", count=50)
    assert some and {"hair" in t for t in some} == {True} and set(some) <= known
    first = some[0].split()[0]
    assert found(contains=first, count=1)[0].startswith(first)
    assert found(contains="no such thing") == [] and len(found()) == min(10, len(known))


def test_a_fine_tune_by_an_editor(
    url: str, run: RunDir, picture: np.ndarray, background: str
) -> None:
    fields = {"concept": background, "editor": "avatar", "images": 8, "train_steps": 20}
    reply = httpx.post(f"{url}/v1/finetunes", data=fields, timeout=PATIENCE)
    job = finished_job(url, reply)
    assert job["status"] == "finished" and job["l1_after"] < job["l1_before"], job
    assert "16 other pictures" in job["scored_on"]
    tuned = httpx.get(f"{url}/v1/adapters/{job['adapter']}", timeout=PATIENCE)
    predicted = ask(url, concept=background)
    assert tuned.status_code == 200 and tuned.content != predicted.content
    made = [
        translate(url, encode_png(picture), **f).content
        for f in ({"adapter": job["adapter"]}, {"concept": background})
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
    job = finished_job(
        url, httpx.post(f"{url}/v1/finetunes", data=fields, files=files, timeout=PATIENCE)
    )
    assert job["status"] == "finished" and job["l1_after"] < job["l1_before"], job
    assert job["scored_on"] == "2 other pictures"
    unknown = {"concept": "no such edit", "editor": "avatar"}
    refused = httpx.post(f"{url}/v1/finetunes", data=unknown, timeout=PATIENCE)
    assert refused.status_code == 422 and refused.json()["detail"]
    assert "Traceback" not in refused.text


def test_fine_tunes_wait_are_turned_away_and_cancelled(url: str, background: str) -> None:
    """One at work and one that waits (see WORDS)."""
    fields = {"concept": background, "editor": "avatar", "images": 8, "train_steps": 500}
    replies = [httpx.post(f"{url}/v1/finetunes", data=fields, timeout=PATIENCE) for _ in range(3)]
    assert [r.status_code for r in replies] == [202, 202, 503]
    assert replies[2].headers["retry-after"] == "1"
    for reply in replies[:2]:
        assert (
            httpx.delete(f"{url}{reply.headers['location']}", timeout=PATIENCE).status_code == 200
        )
    ended = [finished_job(url, r) for r in replies[:2]]
    assert [e["status"] for e in ended] == ["cancelled", "cancelled"]
    assert httpx.get(f"{url}/v1/finetunes/{'0' * 16}", timeout=PATIENCE).status_code == 404


def browsed(address: str, profile: Path) -> str:
    """The page as its script leaves it."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=60000", "--dump-dom", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    return done.stdout


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the system package chromium")
def test_the_page_in_a_browser(url: str, background: str, tmp_path: Path) -> None:
    """An avatar, its edit by predicted weights, and after a fine-tune."""
    page = browsed(f"{url}/?concept={quote(background)}&strength=0.8&tune=1", tmp_path)

    def inside(tag: str, name: str) -> str:
        found = re.search(rf'<{tag}[^>]*id="{name}"[^>]*>([^<]*)', page)
        assert found, (name, page[-3000:])
        return found[0]

    assert 'src="blob:' in inside("img", "before")
    assert 'src="blob:' in inside("img", "predicted") and " s" in inside("small", "predicted-says")
    assert 'src="blob:' in inside("img", "tuned"), inside("div", "message")
    assert "L1 0." in inside("small", "tuned-says")
    # beside the picture before, with a link that says what it is
    assert 'src="blob:' in inside("img", "left") and 'src="blob:' in inside("img", "right")
    history = re.search(r'<ul id="history">(.*?)</ul>', page, re.S)
    assert history and history[1].count("<li>") == 2 and "strength=0.8" in history[1]
    assert "<output>0.80</output>" in page
    # the fine-tune's curve, its learned steps shaded
    assert re.search(r'<svg id="curve"[^>]*><rect[^>]*width="[1-9].*<polyline points="0,', page)
    assert inside("div", "message").endswith(">")


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs the system package chromium")
def test_a_mixture_in_a_browser(url: str, tmp_path: Path) -> None:
    page = browsed(f"{url}/?concept=sepia&strength=0.5&concept=red+hair&strength=1", tmp_path)
    assert re.search(r'<img[^>]*id="predicted"[^>]*src="blob:', page), page[-3000:]
    assert "sepia × 0.5 + red hair" in page
    assert "concept=sepia&amp;strength=0.5&amp;concept=red+hair&amp;strength=1" in page
    assert "disabled" in re.search(r'<button id="tune"[^>]*>', page)[0]


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
    """Four at work and four that wait (see WORDS): of forty at once, some are turned away."""

    async def flood() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=PATIENCE) as client:
            asked = [{"concept": "flood", "seed": i} for i in range(40)]
            return await asyncio.gather(
                *(client.post(f"{url}/v1/adapters", json=body) for body in asked)
            )

    replies = asyncio.run(flood())
    refused = [r for r in replies if r.status_code == 503]
    assert {r.status_code for r in replies} == {200, 503}
    assert all(r.headers["retry-after"] == "1" for r in refused)
    assert ask(url, concept="after the flood").status_code == 200


def serve_run(url: str, name: str, run_dir: str = "") -> httpx.Response:
    headers = {"X-API-Key": ADMIN}
    body = {"run_dir": run_dir}
    return httpx.post(f"{url}/v1/runs/{name}", json=body, headers=headers, timeout=PATIENCE)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[RunDir]:
    """Two more runs, of other models."""
    return [make_run(tmp_path_factory.mktemp(f"run-{seed}"), seed) for seed in (1, 2)]


def test_runs_come_and_go_under_load_and_no_request_is_lost(
    url: str, others: list[RunDir], picture: np.ndarray, background: str
) -> None:
    mine = ask(url, concept="red hair")
    assert serve_run(url, "second", others[0].uri).status_code == 200
    theirs = httpx.post(f"{url}/v1/adapters?run=second", json={"concept": "red hair"}).content
    assert Run(others[0].uri).predict("red hair").files()[WEIGHTS_FILE] == theirs != mine.content
    fields = {"concept": background, "editor": "avatar", "images": 8, "train_steps": 500}
    tuning = httpx.post(f"{url}/v1/finetunes?run=second", data=fields, timeout=PATIENCE)
    with Load(url, 2) as first, Load(url, 2, "second") as second:
        for other in (1, 0, 1):
            swapped = serve_run(url, "second", others[other].uri)
            assert swapped.json()["run_dir"] == others[other].uri, swapped.text
            second.answered(5)
        for broken in ("/nowhere", "s3:/half"):
            assert serve_run(url, "second", broken).status_code == 409
        first.answered(5)
        second.answered(5)
    assert {*first.statuses, *second.statuses} == {200}, (first.statuses, second.statuses)
    # names: of a run under another name, and of one that is served no longer
    new = httpx.post(f"{url}/v1/adapters?run=second", json={"concept": "red hair"})
    name = new.headers["x-adapter-id"]
    for asked in (f"/v1/adapters/{name}", f"/v1/finetunes/{tuning.json()['id']}"):
        assert httpx.get(f"{url}{asked}?run=second", timeout=PATIENCE).status_code == 200
    told = httpx.get(f"{url}/v1/adapters/{name}", timeout=PATIENCE)
    assert told.status_code == 409 and "run=second" in told.text
    job = finished_job(url, tuning)  # of a run that has gone: it is finished
    assert job["status"] == "finished"
    old = name_of(Ask("red hair", 0, 900, 1), digest_of(others[0]))
    for gone in (old, job["adapter"]):
        refused = httpx.get(f"{url}/v1/adapters/{gone}?run=second", timeout=PATIENCE)
        assert refused.status_code == 409 and "have its run served" in refused.text, refused.text
    for forged in ("f-../../x", "f-" + "a" * 300, "f-\x01"):  # no part of it becomes a path
        reply = translate(url, encode_png(picture), adapter=forged)
        assert reply.status_code == 404, reply.text
    headers = {"X-API-Key": ADMIN}
    assert httpx.delete(f"{url}/v1/runs/second", headers=headers, timeout=PATIENCE).is_success
    assert httpx.get(f"{url}/v1?run=second").status_code == 404
    assert ask(url, concept="red hair").content == mine.content


def digest_of(run: RunDir) -> str:
    return digests(run)["model"]


def test_a_change_outlives_the_copies_that_knew_it(url: str, others: list[RunDir]) -> None:
    """All that know which runs are served die at once; Ray's store remembers."""
    assert serve_run(url, "third", others[0].uri).status_code == 200
    for part in ("Runs", "Weights", "Api"):
        before = copies(part)
        for process in before:
            os.kill(process, signal.SIGKILL)
        replaced(part, before, len(before))
    limit = time.monotonic() + PATIENCE
    while True:
        try:
            reply = httpx.get(f"{url}/readyz?run=third", timeout=PATIENCE)
        except httpx.HTTPError:
            reply = httpx.Response(503)
        if reply.status_code != 503 or time.monotonic() > limit:
            break
        time.sleep(0.2)
    assert reply.json()["model"] == digest_of(others[0])


# From here on its parts die or are replaced, under load: only 503s, and nothing lost


def test_a_killed_copy_of_any_part_costs_no_request(url: str) -> None:
    with Load(url) as load:
        # the first two do not call one another: each is missed by another part that lives on
        for parts in (("Translator", "Text"), ("Weights",), ("Api",)):
            before = {part: copies(part) for part in parts}
            for there in before.values():
                os.kill(next(iter(there)), signal.SIGKILL)
            for part, there in before.items():
                replaced(part, there, 1)
            load.answered(20)
    assert set(load.statuses) <= {200, 503}, load.statuses


def test_a_rolling_update_costs_no_request(url: str, run: RunDir) -> None:
    before = copies("Translator")
    with Load(url) as load:
        words = [word for word in WORDS if not word.startswith("serve.max_text=")]
        changed = told(run, *words, "serve.cache=7", "serve.max_text=77")
        assert start(changed) == url
        replaced("Translator", before, 2)
        load.answered(30)
    assert set(load.statuses) <= {200, 503}, load.statuses
    assert ask(url, concept="x" * 77).status_code == 200
    assert ask(url, concept="x" * 78).status_code == 422


def test_a_fine_tune_outlives_the_copy_that_took_it_in(
    url: str, run: RunDir, background: str
) -> None:
    fields = {"concept": background, "editor": "avatar", "images": 8, "train_steps": 200}
    first, second = (
        httpx.post(f"{url}/v1/finetunes", data=fields, timeout=PATIENCE) for _ in range(2)
    )
    (manager,) = copies("Finetunes")
    os.kill(manager, signal.SIGKILL)
    replaced("Finetunes", {manager}, 1)
    made = []
    for reply in (first, second):
        job = finished_job(url, reply)
        assert job["status"] == "finished", job
        made.append(
            httpx.get(f"{url}/v1/adapters/{job['adapter']}?format=zip", timeout=PATIENCE).content
        )
    # the one that was begun twice is what it would have been
    weights = [Path(run.path(f"served/finetunes/{r.json()['id']}")) for r in (first, second)]
    a, b = ((w / "result.json").read_text() for w in weights)
    assert all(k in a and k in b for k in ("l1_before", "l1_after"))
    assert len(made[0]) == len(made[1])


def test_clients_that_go_free_what_they_waited_for(url: str) -> None:
    """All adapters are predicted by one process, which is stopped: nobody who left waits for it."""
    (predicting,) = copies("Weights")
    os.kill(predicting, signal.SIGSTOP)
    try:
        leave_and_be_counted(url)
    finally:
        os.kill(predicting, signal.SIGCONT)
    assert ask(url, concept="who stayed").status_code == 200


def leave_and_be_counted(url: str) -> None:
    begun = time.monotonic()

    def leave(seed: int) -> None:
        body = {"concept": "left behind", "seed": seed}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{url}/v1/adapters", json=body, timeout=2.0)

    clients = [threading.Thread(target=leave, args=(seed,)) for seed in range(6)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()

    def told_of(metric: str) -> float:
        text = httpx.get(f"{url}/metrics", timeout=PATIENCE).text
        values = re.findall(rf"^denoised_weights_{metric} (\S+)$", text, re.M)
        return sum(map(float, values))

    gone = 'requests_total\\{copy="[^"]*",method="POST",route="/v1/adapters",status="499"\\}'
    while told_of(gone) < 6 or told_of(r"requests_ongoing\{[^}]*\}") > 1:  # the question itself
        assert time.monotonic() < begun + 60, httpx.get(f"{url}/metrics", timeout=PATIENCE).text
        time.sleep(0.2)
