"""Language models that answer a chat: behind an OpenAI-compatible endpoint, or in this process."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from modeling.concepts.recipe import ModelOptions

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionMessageParam


class LanguageModelError(RuntimeError):
    """A model cannot be had or gives no answer; the message names the key to change."""


@dataclass(frozen=True)
class Prompt:
    """messages: role and content; schema: JSON schema of the answer."""

    messages: tuple[dict[str, str], ...]
    schema: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """finish: "stop", "length" (cut at max_tokens) or "refusal". retries: attempts that failed."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int
    retries: int = 0


class LanguageModel(Protocol):
    """batch: how many prompts one call takes; parallel: whether calls may come from threads."""

    batch: int
    parallel: bool

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """An answer to each; raises LanguageModelError."""


def make_language_model(options: ModelOptions) -> LanguageModel:
    return LocalModel(options) if options.provider == "local" else EndpointModel(options)


class EndpointModel:
    """vLLM, Ray Serve LLM, a hosted service: what speaks OpenAI's chat completions.

    The client itself (openai's, no loop of ours) retries time-outs, lost connections, 408, 409, 429
    and 5xx with growing pauses, or after the time that Retry-After asks for (up to two minutes;
    more is an error).
    """

    batch, parallel = 1, True

    def __init__(self, options: ModelOptions) -> None:
        import openai

        self.options = options
        if options.key_env and not os.environ.get(options.key_env):
            raise LanguageModelError(
                f"{options.named}.key_env={options.key_env}: this environment variable is not set"
                " on the node that asks; export the endpoint's key in it"
            )
        self._pace = _Pace(options.rate)
        self._client = openai.OpenAI(
            api_key=os.environ[options.key_env] if options.key_env else "none",
            base_url=options.base_url,
            timeout=options.timeout_s,
            max_retries=options.retries,
            # each attempt passes here, a retry as well
            http_client=openai.DefaultHttpxClient(
                timeout=options.timeout_s,
                event_hooks={"request": [lambda request: self._pace.wait()]},
            ),
        )

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        return [self._answer(prompt) for prompt in prompts]

    def _answer(self, prompt: Prompt) -> Answer:
        import openai

        o = self.options
        more: dict[str, Any] = {}
        if o.response_format == "json_object":
            more["response_format"] = {"type": "json_object"}
        elif o.response_format == "json_schema":
            schema = {"name": "answer", "strict": True, "schema": prompt.schema}
            more["response_format"] = {"type": "json_schema", "json_schema": schema}
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=o.model,
                messages=cast("list[ChatCompletionMessageParam]", list(prompt.messages)),
                temperature=o.temperature,
                max_tokens=o.max_tokens,
                **more,
            )
            completion = raw.parse()
            choice = completion.choices[0]
        except openai.APITimeoutError as error:
            raise LanguageModelError(
                f"{o.named}.base_url={o.base_url}: no answer within {o.named}.timeout_s="
                f"{o.timeout_s:g}, {o.retries + 1} times"
            ) from error
        except openai.APIConnectionError as error:
            reason = str(error.__cause__ or error)
            raise LanguageModelError(
                f"{o.named}.base_url={o.base_url}: cannot be reached ({reason}), tried"
                f" {o.retries + 1} times"
            ) from error
        except openai.APIStatusError as error:
            raise LanguageModelError(self._status(error)) from error
        # an answer that is no chat completion at all: the client lets some through
        except (openai.OpenAIError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise LanguageModelError(
                f"{o.named}.base_url={o.base_url}: does not answer with chat completions"
                f" ({type(error).__name__}: {_line(error)}); is it an OpenAI-compatible /v1?"
            ) from error
        message, usage = choice.message, completion.usage
        refused = choice.finish_reason == "content_filter" or getattr(message, "refusal", None)
        finish = "refusal" if refused else "length" if choice.finish_reason == "length" else "stop"
        return Answer(
            text=message.content or "",
            finish=finish,
            prompt_tokens=usage.prompt_tokens if usage else 0,
            completion_tokens=usage.completion_tokens if usage else 0,
            retries=raw.retries_taken,
        )

    def _status(self, error: Any) -> str:
        o, status = self.options, error.status_code
        said = _line(error)
        if status in (401, 403):
            fix = f"check the key in {o.named}.key_env={o.key_env or '(none)'}"
        elif status == 404:
            fix = f"check {o.named}.base_url={o.base_url} and {o.named}.model={o.model}"
        elif status == 400 and "response_format" in said:
            fix = f"give {o.named}.response_format=json_object or none"
        elif status == 429:
            fix = f"lower {o.named}.rate or raise {o.named}.retries={o.retries}"
        else:
            fix = f"{o.named}.base_url={o.base_url}"
        return f"{o.named}: the endpoint answers {status} ({said}): {fix}"


class LocalModel:
    """A causal LM of transformers with a chat template, on a GPU if there is one.

    Greedy at temperature 0, else drawn with a seed made of the prompts.
    """

    parallel = False

    def __init__(self, options: ModelOptions) -> None:
        import torch
        from safetensors import SafetensorError
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.options, self.batch = options, options.batch
        name = f"{options.named}.model={options.model}"
        advice = "Give a folder saved with save_pretrained, or a hub id with allow_download=true"
        if Path(options.model).is_absolute() and not Path(options.model).is_dir():
            raise LanguageModelError(f"{name}: there is no such folder. {advice}")
        offline = not options.allow_download
        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(
                options.model, local_files_only=offline, padding_side="left"
            )
            kind: Any = AutoModelForCausalLM  # its stub forgets output_loading_info
            model, info = kind.from_pretrained(
                options.model,
                local_files_only=offline,
                output_loading_info=True,
                dtype="auto" if device == "cuda" else torch.float32,
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise LanguageModelError(
                f"{name}: cannot be loaded ({_line(error)}). {advice}"
            ) from error
        if info["missing_keys"]:
            raise LanguageModelError(
                f"{name}: its file lacks {min(info['missing_keys'])}. {advice}"
            )
        if not self.tokenizer.chat_template:
            raise LanguageModelError(f"{name}: it has no chat template; give an instructed model")
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = model.eval().requires_grad_(False).to(device)

    def answer(self, prompts: Sequence[Prompt]) -> list[Answer]:
        import torch

        o = self.options
        texts = [
            str(
                self.tokenizer.apply_chat_template(
                    list(p.messages), tokenize=False, add_generation_prompt=True
                )
            )
            for p in prompts
        ]
        inputs = self.tokenizer(
            texts, padding=True, add_special_tokens=False, return_tensors="pt"
        ).to(self.model.device)
        longest = int(getattr(self.model.config, "max_position_embeddings", 0) or 0)
        length = inputs["input_ids"].shape[1]
        if longest and length + o.max_tokens > longest:
            raise LanguageModelError(
                f"{o.named}.max_tokens={o.max_tokens}: with a prompt of {length} tokens more than"
                f" the {longest} that {o.model} can read"
            )
        seed = hashlib.sha256("".join(texts).encode()).digest()[:4]
        torch.manual_seed(int.from_bytes(seed, "big"))
        how: dict[str, Any] = {
            "do_sample": False,
            "temperature": None,
            "top_p": None,
            "top_k": None,
        }
        if o.temperature > 0:
            how = {"do_sample": True, "temperature": o.temperature}
        out = self.model.generate(
            **inputs, max_new_tokens=o.max_tokens, pad_token_id=self.tokenizer.pad_token_id, **how
        )
        ends = self.model.generation_config.eos_token_id
        stops = set(ends if isinstance(ends, list) else [ends]) - {None}
        answers = []
        for mask, ids in zip(inputs["attention_mask"], out[:, length:].tolist(), strict=True):
            end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
            finish = "stop" if end < len(ids) else "length"
            text = str(self.tokenizer.decode(ids[:end], skip_special_tokens=True))
            answers.append(Answer(text, finish, int(mask.sum()), min(end + 1, len(ids))))
        return answers


class _Pace:
    """At most `rate` passes a minute, 0 for any number; for threads.

    Evenly spaced: the token buckets of libraries let bursts through.
    """

    def __init__(self, rate: float) -> None:
        self._gap = 60 / rate if rate else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        if not self._gap:
            return
        with self._lock:
            now = time.monotonic()
            at = max(now, self._next)
            self._next = at + self._gap
        time.sleep(at - now)


def request_hash(options: ModelOptions, prompt: Prompt) -> str:
    """What an answer is known by: all that decides it. Not the address, nor the key."""
    parts = {
        "model": options.model,
        "temperature": options.temperature,
        "max_tokens": options.max_tokens,
        "response_format": options.response_format if options.provider == "endpoint" else "local",
        "messages": list(prompt.messages),
        "schema": prompt.schema,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _line(error: Exception) -> str:
    """The first line of an error's text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
