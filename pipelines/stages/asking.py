"""Prompts to a language model through Ray Data actors; an answer is kept, and paid for once.

Answers lie in `llm/`, by the hash of all that decides them. They are no output of a stage: `redo`
leaves them, and the same request is answered from there. Delete the folder to ask anew.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from modeling.concepts.language_models import (
    Answer,
    LanguageModel,
    LanguageModelError,
    Prompt,
    make_language_model,
    request_hash,
)
from modeling.concepts.recipe import ModelOptions
from modeling.settings import taken
from pipelines.config.schema import Config
from pipelines.config.sections.data import LanguageModelKeys
from pipelines.runtime.actors import map_actors
from pipelines.runtime.log import Progress
from pipelines.runtime.run_dir import ArtifactError, RunDir
from pipelines.runtime.session import threads_per_actor

READERS = 32
"""Threads that look for kept answers: an object store replies after a tenth of a second."""
WAITING_CPUS = 0.1
"""Of an actor that waits for an endpoint: next to nothing."""
WAITING_ACTORS = 2
"""With cluster.actors=0; one that dies leaves the other."""


def answer_file(request: str) -> str:
    return f"llm/{request}.json"


class AskModel:
    """Ray Data actor: asks, and writes each answer as it comes.

    After a failure its other prompts are not asked: an endpoint that is down is down for all.
    """

    def __init__(self, options: ModelOptions, run_dir: RunDir, calls: int, threads: int) -> None:
        self.options, self.run_dir, self.calls, self.threads = options, run_dir, calls, threads
        self.model: LanguageModel | None = None
        self.failure = ""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        prompts = [Prompt(**json.loads(str(text))) for text in batch["prompt"]]
        if self.model is None and not self.failure:
            import torch

            torch.set_num_threads(self.threads)
            try:
                self.model = make_language_model(self.options)
            except LanguageModelError as error:
                self.failure = str(error)
        size = self.model.batch if self.model else 1
        groups = [prompts[i : i + size] for i in range(0, len(prompts), size)]
        with ThreadPoolExecutor(self.calls if self.model and self.model.parallel else 1) as pool:
            rows = [row for rows in pool.map(self._ask, groups) for row in rows]
        return {
            "request": list(batch["request"]),
            "answer": [answer for answer, _ in rows],
            "failure": [failure for _, failure in rows],
        }

    def _ask(self, prompts: list[Prompt]) -> list[tuple[str, str]]:
        """(answer as JSON, "") or ("", why there is none) for each."""
        if self.failure or self.model is None:
            return [("", self.failure)] * len(prompts)
        try:
            answers = self.model.answer(prompts)
        except LanguageModelError as error:
            self.failure = str(error)
            return [("", self.failure)] * len(prompts)
        rows = []
        for prompt, answer in zip(prompts, answers, strict=True):
            record = {"prompt": asdict(prompt), "model": self.options.model, **asdict(answer)}
            self.run_dir.write_json(answer_file(request_hash(self.options, prompt)), record)
            rows.append((json.dumps(asdict(answer)), ""))
        return rows


class Asker:
    """Answers to prompts, from what is kept and else from the model; counts tokens and costs.

    keys: `role`'s section of the configuration.
    """

    def __init__(self, config: Config, run_dir: RunDir, role: str, keys: LanguageModelKeys) -> None:
        self.config, self.run_dir, self.role, self.keys = config, run_dir, role, keys
        self.options = taken(
            ModelOptions, keys, allow_download=config.allow_download, named=f"llm.{role}"
        )
        self.used: dict[str, Answer] = {}
        self.kept: set[str] = set()

    def __call__(self, prompts: Sequence[Prompt]) -> list[Answer]:
        """LanguageModelError if some have no answer; those that came are kept all the same."""
        requests = [request_hash(self.options, p) for p in prompts]
        wanted = {r: p for r, p in zip(requests, prompts, strict=True) if r not in self.used}
        with ThreadPoolExecutor(READERS) as pool:
            for request, answer in zip(wanted, pool.map(self._kept, wanted), strict=True):
                if answer is not None:
                    self.used[request] = answer
                    self.kept.add(request)
        missing = {r: p for r, p in wanted.items() if r not in self.used}
        failures = self._ask(missing)
        if failures:
            raise LanguageModelError(
                f"{len(failures)} of {len(requests)} requests have no answer: {failures[0]}. The"
                " same command goes on, and pays for no answer twice"
            )
        return [self.used[r] for r in requests]

    def _kept(self, request: str) -> Answer | None:
        name = answer_file(request)
        if not self.run_dir.exists(name):
            return None
        record = self.run_dir.read_json(name)
        try:
            return Answer(**{f: record[f] for f in Answer.__dataclass_fields__})
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"{self.run_dir.url(name)} is damaged: {error}; delete it to ask again"
            ) from error

    def _ask(self, missing: dict[str, Prompt]) -> list[str]:
        """Ask for these; returns why, for each that has no answer."""
        if not missing:
            return []
        o, asked = self.options, self.config.cluster.actors
        local = o.provider == "local"
        # of those that only wait, a few do: each makes many calls at once
        actors = min(asked or WAITING_ACTORS, self.keys.concurrency)
        calls = 1 if local else math.ceil(self.keys.concurrency / actors)
        # every actor keeps its share of the rate, which is an endpoint's: together they keep it
        options = replace(o, rate=o.rate / actors)
        batch = o.batch if local else calls
        rows = [{"request": r, "prompt": json.dumps(asdict(p))} for r, p in missing.items()]
        progress = Progress(f"llm.{self.role}", len(rows), "answers")
        failures = []
        for row in map_actors(
            self.config,
            AskModel,
            {
                "options": options,
                "run_dir": self.run_dir,
                "calls": calls,
                "threads": threads_per_actor(self.config),
            },
            rows,
            batch,
            None if local else actors,
            gpus=None if local else 0,
            cpus=None if local else WAITING_CPUS,
        ):
            if row["failure"]:
                failures.append(str(row["failure"]))
            else:
                self.used[str(row["request"])] = Answer(**json.loads(str(row["answer"])))
                progress.add()
        return failures

    def summary(self) -> dict[str, Any]:
        """Requests, tokens and cost of all answers, and the part of the cost of this run alone."""
        k, answers = self.keys, self.used

        def cost(used: Sequence[Answer]) -> float:
            tokens_in = sum(a.prompt_tokens for a in used)
            tokens_out = sum(a.completion_tokens for a in used)
            return round((tokens_in * k.input_price + tokens_out * k.output_price) / 1e6, 6)

        return {
            "model": k.model,
            "requests": len(answers),
            "kept": len(self.kept),
            "retries": sum(a.retries for r, a in answers.items() if r not in self.kept),
            "prompt_tokens": sum(a.prompt_tokens for a in answers.values()),
            "completion_tokens": sum(a.completion_tokens for a in answers.values()),
            "cost": cost(list(answers.values())),
            "cost_now": cost([a for r, a in answers.items() if r not in self.kept]),
        }
