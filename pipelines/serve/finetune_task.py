"""The Ray task that does a fine-tune: from its stored request to its stored adapter."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from modeling.editors.interface import EditError, EditResult, Source
from modeling.editors.registry import make_editor
from modeling.editors.sources import AVATARS, ChangedPictureError, load_source, source_ids
from modeling.images import ImageError, decode_image
from modeling.targets.adapter_training import ConceptData, to_unit, translate_all
from modeling.targets.lora import CONFIG_FILE, Adapter, stack, to_files
from pipelines.config import tree as config_tree
from pipelines.config.schema import Config
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.serve.adapter_ids import FINETUNED
from pipelines.serve.finetune_editors import concept_of
from pipelines.serve.finetune_jobs import (
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
from pipelines.serve.finetune_request import (
    CANCELLED,
    FAILED,
    FINISHED,
    RUNNING,
    FinetuneError,
    Request,
)
from pipelines.serve.served_run import READ, digest
from pipelines.stages.base import load_base
from pipelines.stages.editing import editor_options
from pipelines.stages.finetuning import FineTune
from pipelines.stages.prediction import Decoder
from pipelines.stages.source_list import sources_of
from pipelines.stages.sources import location

FRESH = 2 * 10**6
"""First of the avatars that fine-tunes are given: none is among the pairs or is judged on."""
TESTED = 16
"""Pictures, besides those trained on, that an editor makes to score the fine-tune."""
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
    translator.to(device)
    discriminator.to(device)
    start, text = start_of(run, job)
    decoder = Decoder(run, config.adapt, device)
    fine_tune = FineTune(config, run, translator, discriminator, decoder)
    looked = 0.0

    def look(step: int) -> None:
        nonlocal looked
        if time.monotonic() - looked < LOOK_SECONDS:
            return
        looked = time.monotonic()
        if run.exists(f"{folder(job)}/{CANCEL}"):
            raise CancelledError
        run.write_json(f"{folder(job)}/{STATUS}", {"status": RUNNING, "step": step})

    look(0)
    source, edited = (x.to(device) for x in _pictures(config, run, job, request))
    count = len(source)
    test = TESTED if request.editor else count // 5 if count >= 10 else 0
    data = ConceptData(job, source[: count - test], edited[: count - test], text.tokens)
    held = ConceptData(job, source[-test:], edited[-test:], data.tokens) if test else data
    (trained,) = fine_tune(
        [data],
        [{k: v.to(device) for k, v in start.items()}],
        [text],
        replace(config.adapt, steps=request.train_steps),
        request.seed,
        on_step=lambda step, _: look(step),
    )
    if trained.adapter is None:
        raise FinetuneError(trained.error)

    def l1(adapter: Adapter) -> float:
        made = translate_all(translator, stack([adapter]), held.source, [held.tokens])[0]
        return float((to_unit(made) - to_unit(held.edited)).abs().mean())

    before, after = l1({k: v.to(device) for k, v in start.items()}), l1(trained.adapter)
    about = {"concept": request.concept, "id": FINETUNED + job, "base": digest(run, READ["base"])}
    about["train_steps"] = str(request.train_steps)
    files = to_files(trained.adapter, translator.lora_config, about)
    run.write(f"{folder(job)}/{TOKENS_FILE}", save({"tokens": text.tokens.contiguous()}))
    run.write_files(folder(job), files, CONFIG_FILE)
    end(
        run,
        job,
        FINISHED,
        adapter=FINETUNED + job,
        step=request.train_steps,
        l1_before=before,
        l1_after=after,
        scored_on=f"{test} other pictures" if test else f"the {count} pictures trained on",
        seconds=trained.seconds,
    )


def _pictures(
    config: Config, run: RunDir, job: str, request: Request
) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [n, 3, S, S] sources and edits."""
    if not request.editor:
        rows = run.read_table(f"{folder(job)}/{PAIRS}").to_pylist()
        pairs = [(decode_image(r["source"]), decode_image(r["edited"])) for r in rows]
    else:
        sources = _sources(config, run, request.images + TESTED)
        editor = make_editor(request.editor, **editor_options(config, request.editor))
        results = editor.edit(sources, concept_of(request))
        pairs = [
            (s.image, r.image)
            for s, r in zip(sources, results, strict=True)
            if isinstance(r, EditResult)
        ]
        if len(pairs) <= TESTED:
            error = next(r for r in results if isinstance(r, EditError))
            raise FinetuneError(f"the editor made {len(pairs)} of {len(sources)} pictures: {error}")
    return _stacked([a for a, _ in pairs]), _stacked([b for _, b in pairs])


def _sources(config: Config, run: RunDir, count: int) -> list[Source]:
    """Fresh avatars, or the first of the run's own pictures that can be read."""
    size, where = config.images.size, location(config.images)
    if where == AVATARS:
        return [load_source(name, where, size) for name in source_ids(where, count, FRESH)]
    sources: list[Source] = []
    for name, recorded in sources_of(config, run).items():
        if len(sources) == count:
            break
        try:
            sources.append(load_source(name, where, size, recorded))
        except ImageError as error:  # as `pairs` left it out
            log(f"finetune: {error}")
        except ChangedPictureError as error:
            log(f"finetune: {error}")
            raise FinetuneError(f"the picture {name} is not the one that the run has") from error
    if len(sources) < count:
        most = len(sources) - TESTED
        raise FinetuneError(f"the run has {len(sources)} pictures: images can be {most} at most")
    return sources


def _stacked(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
