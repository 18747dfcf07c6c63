"""Language models: an endpoint that misbehaves, and a tiny local one."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling.concepts.language_models import (
    Answer,
    EndpointModel,
    LanguageModel,
    LanguageModelError,
    LocalModel,
    Prompt,
    make_language_model,
    request_hash,
)
from modeling.concepts.recipe import ModelOptions
from tests.chat_server import Reply, chat_reply, chat_server
from tests.tiny_chat import save_tiny_chat

SCHEMA = {"type": "object", "properties": {"concepts": {"type": "array"}}}
PROMPT = Prompt(({"role": "user", "content": "say hello"},), SCHEMA)


def options(url: str, **changes: Any) -> ModelOptions:
    return replace(ModelOptions("endpoint", "fake", url, retries=2, timeout_s=5), **changes)


def ask(url: str, **changes: Any) -> Answer:
    (answer,) = make_language_model(options(url, **changes)).answer([PROMPT])
    return answer


def hello(text: str) -> str:
    return "hello"


def test_an_answer_with_its_tokens() -> None:
    with chat_server(write=hello) as server:
        assert ask(server.url, temperature=0.5, max_tokens=7) == Answer("hello", "stop", 100, 10)
    (body,) = server.bodies
    assert body["model"] == "fake" and body["messages"] == list(PROMPT.messages)
    assert (body["temperature"], body["max_tokens"]) == (0.5, 7)
    assert body["response_format"]["json_schema"]["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("name", "sent"), [("json_object", {"type": "json_object"}), ("none", None)]
)
def test_response_formats(name: str, sent: dict[str, str] | None) -> None:
    with chat_server(write=hello) as server:
        ask(server.url, response_format=name)
    assert server.bodies[0].get("response_format") == sent


def test_retry_after_is_waited_for() -> None:
    busy = (429, {"retry-after": "1"}, json.dumps({"error": {"message": "slow down"}}))
    with chat_server(write=hello, misbehave=lambda n, text: busy if n == 0 else None) as server:
        assert ask(server.url).retries == 1
    first, second = server.times
    assert 0.95 < second - first < 5


@pytest.mark.parametrize("status", [500, 502, 503, 408])
def test_errors_of_the_server_are_tried_again(status: int) -> None:
    bad: Reply = (status, {"retry-after": "0.01"}, "<html>oh</html>")
    with chat_server(write=hello, misbehave=lambda n, text: bad if n < 2 else None) as server:
        assert ask(server.url) == Answer("hello", "stop", 100, 10, retries=2)


def test_a_time_out_is_tried_again() -> None:
    release = threading.Event()

    def slow(number: int, text: str) -> Reply | None:
        if number == 0:
            release.wait(20)
        return None

    with chat_server(write=hello, misbehave=slow) as server:
        assert ask(server.url, timeout_s=0.5).retries == 1
        release.set()


def test_time_outs_without_end() -> None:
    release = threading.Event()

    def slow(number: int, text: str) -> Reply | None:
        release.wait(20)
        return (500, {}, "")

    with chat_server(misbehave=slow) as server:
        with pytest.raises(
            LanguageModelError, match=r"no answer within llm\.writer\.timeout_s=0\.3"
        ):
            ask(server.url, timeout_s=0.3, retries=1)
        release.set()
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (429, "quota", r"answers 429 .*llm\.writer\.retries=1"),
        (500, "boom", "answers 500"),
        (404, "no such model", r"answers 404 .*llm\.writer\.model=fake"),
        (400, "response_format is not supported", r"llm\.writer\.response_format=json_object or"),
        (403, "forbidden", r"llm\.writer\.key_env=\(none\)"),
    ],
)
def test_statuses_that_stay_name_the_key(status: int, message: str, expected: str) -> None:
    body = json.dumps({"error": {"message": message}})
    bad: Reply = (status, {"retry-after": "0.01"}, body)
    with (
        chat_server(misbehave=lambda n, text: bad) as server,
        pytest.raises(LanguageModelError, match=expected),
    ):
        ask(server.url, retries=1)
    assert len(server.bodies) == (2 if status in (429, 500) else 1)


@pytest.mark.parametrize("body", ["not json", "{}", '{"choices": []}', '"text"', "[1]", "null"])
def test_what_is_no_chat_completion_says_so(body: str) -> None:
    with (
        chat_server(misbehave=lambda n, text: (200, {}, body)) as server,
        pytest.raises(LanguageModelError, match="does not answer with chat completions"),
    ):
        ask(server.url)


@pytest.mark.parametrize(
    ("changes", "finish"),
    [
        ({"finish_reason": "length"}, "length"),
        ({"finish_reason": "content_filter"}, "refusal"),
        ({"message": {"content": None, "refusal": "no"}}, "refusal"),
    ],
)
def test_how_an_answer_ended(changes: dict[str, Any], finish: str) -> None:
    reply = (200, {}, chat_reply("x", **changes))
    with chat_server(misbehave=lambda n, text: reply) as server:
        assert ask(server.url).finish == finish


def test_an_endpoint_that_is_not_there() -> None:
    with chat_server() as server:
        pass
    with pytest.raises(LanguageModelError, match=r"llm\.writer\.base_url=.*cannot be reached"):
        ask(server.url, retries=0)


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server(write=hello, key="secret") as server:
        monkeypatch.setenv("A_KEY", "secret")
        assert ask(server.url, key_env="A_KEY").text == "hello"
        monkeypatch.setenv("A_KEY", "wrong")
        with pytest.raises(LanguageModelError, match=r"401 .*llm\.writer\.key_env=A_KEY") as caught:
            ask(server.url, key_env="A_KEY")
        assert "wrong" not in str(caught.value)
        monkeypatch.delenv("A_KEY")
        with pytest.raises(LanguageModelError, match=r"key_env=A_KEY: .* is not set"):
            ask(server.url, key_env="A_KEY")
        # nor is a key of the client's own taken that was not named
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        with pytest.raises(LanguageModelError, match="401"):
            ask(server.url)


def test_the_rate_holds_over_threads() -> None:
    with chat_server(write=hello) as server:
        model = EndpointModel(options(server.url, rate=600))
        with ThreadPoolExecutor(6) as pool:
            begun = time.monotonic()
            list(pool.map(lambda _: model.answer([PROMPT]), range(6)))
        assert time.monotonic() - begun >= 0.5  # five gaps of a tenth


def test_a_request_is_known_by_what_decides_its_answer() -> None:
    o = options("http://a/v1")
    same = (options("http://b/v1", rate=5, key_env="K", retries=9),)
    other = (options("", model="x"), options("", temperature=1.0), options("", max_tokens=1))
    assert {request_hash(p, PROMPT) for p in same} == {request_hash(o, PROMPT)}
    hashes = [request_hash(p, PROMPT) for p in (o, *other)]
    hashes.append(request_hash(o, replace(PROMPT, messages=({"role": "user", "content": "x"},))))
    assert len(set(hashes)) == len(hashes)


@pytest.fixture(scope="module")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield save_tiny_chat(tmp_path_factory.mktemp("chat"))
    torch.set_num_threads(threads)


def local(folder: Path, **changes: Any) -> LanguageModel:
    return make_language_model(
        replace(ModelOptions("local", str(folder), max_tokens=12), **changes)
    )


def test_a_local_model_answers_in_batches_as_alone(chat_folder: Path) -> None:
    prompts = [PROMPT, replace(PROMPT, messages=({"role": "user", "content": "a longer one"},))]
    model = local(chat_folder)
    together = model.answer(prompts)
    assert together == model.answer(prompts)
    alone = [local(chat_folder).answer([p])[0] for p in prompts]
    assert [a.text for a in together] == [a.text for a in alone]
    for answer, prompt in zip(together, prompts, strict=True):
        # one token per byte: <s>user: …</s><s>
        assert answer.prompt_tokens == len(f"user: {prompt.messages[0]['content']}") + 3
        assert answer.finish in ("stop", "length") and answer.completion_tokens <= 12
    warm = local(chat_folder, temperature=1.0)
    assert warm.answer(prompts) == local(chat_folder, temperature=1.0).answer(prompts)
    assert warm.answer(prompts) != together


def test_a_local_model_that_cannot_be_had(chat_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LanguageModelError, match="there is no such folder"):
        local(tmp_path / "nothing")
    with pytest.raises(LanguageModelError, match=r"llm\.writer\.model=nobody/x: cannot be loaded"):
        LocalModel(ModelOptions("local", "nobody/x"))
    with pytest.raises(LanguageModelError, match="has no chat template"):
        local(save_tiny_chat(tmp_path / "plain", template=False))
    with pytest.raises(LanguageModelError, match=r"max_tokens=5000: .* more than the 4096"):
        local(chat_folder, max_tokens=5000).answer([PROMPT])
