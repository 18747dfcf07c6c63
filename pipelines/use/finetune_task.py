"""The Ray task that does a fine-tune: from its stored request to its stored adapter."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from modeling.editors.interface import EditError
from modeling.images import decode_image
from modeling.precision import use
from modeling.targets.lora import CONFIG_FILE, to_files
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.stages.base import load_base
from pipelines.stages.finetuning import FineTune
from pipelines.stages.prediction import Decoder
from pipelines.use.adapter_names import FINETUNED
from pipelines.use.finetune_jobs import (
    CANCEL,
    PAIRS,
    RESULT,
    STATUS,
    TOKENS_FILE,
    end,
    folder,
    request_of,
    start_of,
)
from pipelines.use.finetune_pairs import TESTED, Pairs, edited_pairs
from pipelines.use.finetune_request import (
    CANCELLED,
    FAILED,
    FINISHED,
    RUNNING,
    FinetuneError,
    Request,
)
from pipelines.use.finetuned import fine_tuned, held_out
from pipelines.use.saved_run import READ, digest

LOOK_SECONDS = 0.3
"""Between two looks for a cancellation, at which progress is written, too."""


class CancelledError(RuntimeError):
    """The client wants it no more."""


def finetune(config: dict[str, Any], run: RunDir, job: str) -> None:
    """The whole of one job. It may be run again from its start, and gives the same adapter."""
    try:
        _finetune(config_tree.from_dict(config), run, job)
    except CancelledError:
        end(run, job, CANCELLED)
    except (FinetuneError, EditError) as error:
        end(run, job, FAILED, error=str(error))
    except Exception as error:
        log(f"finetune {job}: {type(error).__name__}: {error}")
        end(run, job, FAILED, error="the fine-tune failed; the service's log says why")


def _finetune(config: Config, run: RunDir, job: str) -> None:
    if run.exists(f"{folder(job)}/{RESULT}"):  # done by an attempt whose end nobody heard of
        return
    request = request_of(run, job)
    torch.set_num_threads(max(1, int(config.cluster.cpus_per_actor)))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    translator, discriminator = load_base(config, run)
    use(config.precision, device)
    translator.to(device)
    discriminator.to(device)
    start, text = start_of(run, job)
    decoder = Decoder(run, config.adapt, device)
    fine_tune = FineTune(config, run, translator, discriminator, decoder)
    look = Look(run, job, config.adapt.learned_steps)
    look.at(0)
    pairs = _pairs(config, run, job, request)
    source, edited = (_stacked(list(side)).to(device) for side in zip(*pairs, strict=True))
    made = fine_tuned(
        fine_tune,
        start,
        text,
        source,
        edited,
        TESTED if request.editor else held_out(len(pairs)),
        replace(config.adapt, steps=request.train_steps),
        request.seed,
        look,
    )
    about = {"concept": request.concept, "id": FINETUNED + job, "base": digest(run, READ["base"])}
    about["train_steps"] = str(request.train_steps)
    files = to_files(made.adapter, translator.lora_config, about)
    run.write(f"{folder(job)}/{TOKENS_FILE}", save({"tokens": text.tokens.contiguous()}))
    run.write_files(folder(job), files, CONFIG_FILE)
    end(
        run,
        job,
        FINISHED,
        adapter=FINETUNED + job,
        step=request.train_steps,
        l1_before=made.l1_before,
        l1_after=made.l1_after,
        scored_on=made.scored_on,
        seconds=made.seconds,
        curve=list({0: made.l1_before, **look.curve, request.train_steps: made.l1_after}.items()),
    )


class Look:
    """Now and then tells how far a job is, and scores it; CancelledError if nobody wants it more.

    Every learned step is scored, and of the rest so many that a long fine-tune's are few enough to
    draw.
    """

    def __init__(self, run: RunDir, job: str, learned: int) -> None:
        self.run, self.job, self.learned = run, job, learned
        self.begun = self.told = self.scored = time.monotonic()
        self.curve: dict[int, float] = {}
        """L1 on the pairs that score the job, by step."""

    def at(self, step: int) -> None:
        if self.run.exists(f"{folder(self.job)}/{CANCEL}"):
            raise CancelledError
        about = {"status": RUNNING, "step": step, "curve": list(self.curve.items())}
        self.run.write_json(f"{folder(self.job)}/{STATUS}", about)

    def __call__(self, step: int, score: Callable[[], float]) -> None:
        now = time.monotonic()
        pause = max(LOOK_SECONDS, (now - self.begun) / 50)
        if step <= self.learned or now - self.scored >= pause:
            self.curve[step] = score()
            self.scored = time.monotonic()
        if now - self.told >= LOOK_SECONDS:
            self.told = now
            self.at(step)


def _pairs(config: Config, run: RunDir, job: str, request: Request) -> Pairs:
    if request.editor:
        return edited_pairs(config, run, request.concept, request.editor, request.images)
    rows = run.read_table(f"{folder(job)}/{PAIRS}").to_pylist()
    return [(decode_image(r["source"]), decode_image(r["edited"])) for r in rows]


def _stacked(pictures: list[np.ndarray]) -> torch.Tensor:
    """uint8 [S, S, 3] each → [n, 3, S, S]."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
