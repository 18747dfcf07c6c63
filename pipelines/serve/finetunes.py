"""Fine-tunes that clients of the service ask for: what is stored of one, and the task that does it.

A job is a folder served/finetunes/JOB in the run directory: `request.json` and, uploaded,
`pairs.parquet`; `start.safetensors`, the predicted adapter; `status.json` while it goes on; and
`result.json`, written last, with the adapter in PEFT's format beside it. So a job survives the
replica that took it in, and its adapter every restart.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load, save

from modeling.concepts.planning import Concept, concept_id, parse_concept
from modeling.editors.interface import EditError, EditResult
from modeling.editors.registry import EXACT, make_editor, supports
from modeling.editors.sources import load_source, source_ids
from modeling.images import decode_image, encode_png
from modeling.targets.adapter_training import ConceptData, to_unit, train_adapters, translate_all
from modeling.targets.lora import CONFIG_FILE, Adapter, stack, to_files
from modeling.targets.recipe import finetune_recipe
from pipelines.config import tree as config_tree
from pipelines.config.derived import resolve_editor
from pipelines.config.schema import Config
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import RunDir
from pipelines.serve.adapter_ids import FINETUNED
from pipelines.serve.finetune_request import (
    CANCELLED,
    FAILED,
    FINISHED,
    QUEUED,
    RUNNING,
    FinetuneError,
    Request,
)
from pipelines.serve.parts import JOBS, READ, TOKENS_FILE, Loaded, digest
from pipelines.stages.base import load_base
from pipelines.stages.editing import editor_options

REQUEST, STATUS, RESULT = "request.json", "status.json", "result.json"
START, PAIRS, CANCEL = "start.safetensors", "pairs.parquet", "cancel"
PAIR = pa.schema([("source", pa.binary()), ("edited", pa.binary())])  # PNG
FRESH = 2 * 10**6
"""First of the avatars that fine-tunes are given: none is among the pairs or is judged on."""
TESTED = 16
"""Pictures, besides those trained on, that an editor makes to score the fine-tune."""
LOOK_SECONDS = 0.3
"""Between two looks for a cancellation, at which progress is written, too."""


class CancelledError(RuntimeError):
    """The client wants it no more."""


def folder(job: str) -> str:
    return f"{JOBS}/{job}"


def editors(config: Config) -> list[str]:
    """Editors that a client may name: those that can edit this run's kind of pictures."""
    exact = ["avatar", "filter"] if config.images.source == "avatars" else ["filter"]
    own = resolve_editor(config)
    return exact if own in (*exact, "best") else [*exact, own]


def check(config: Config, request: Request) -> None:
    """FinetuneError if the editor cannot be named or cannot make this edit."""
    if not request.editor:
        return
    if request.editor not in editors(config):
        raise FinetuneError(f"editor: must be one of {', '.join(editors(config))}")
    _concept(request)


def _concept(request: Request) -> Concept:
    concept = parse_concept(request.concept)
    if request.editor in EXACT:
        if concept is None or not all(supports(request.editor)(f) for f in concept.families):
            raise FinetuneError(
                f"the editor {request.editor!r} cannot make this edit: upload pairs, or say it as"
                " one of the run's concepts does (GET /v1/concepts/nearest)"
            )
        return concept
    text = request.concept
    return concept or Concept(concept_id(text), text, "characteristic", (), "test")


def accept(
    run: RunDir,
    job: str,
    request: Request,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    start: Loaded,
) -> None:
    """Store a job. pairs: uint8 [S, S, 3] each, none with an editor."""
    if pairs:
        rows = [{"source": encode_png(a), "edited": encode_png(b)} for a, b in pairs]
        run.write_table(f"{folder(job)}/{PAIRS}", pa.Table.from_pylist(rows, PAIR))
    tensors = {**start.adapter, "tokens": start.tokens}
    run.write(f"{folder(job)}/{START}", save({k: v.contiguous() for k, v in tensors.items()}))
    # last: with it the job is there
    run.write_json(f"{folder(job)}/{REQUEST}", {**vars(request), "accepted": time.time()})


def start_of(run: RunDir, job: str) -> tuple[Adapter, torch.Tensor]:
    """The predicted adapter that a job starts from, and its prompt's tokens [L, D]."""
    tensors = load(run.read(f"{folder(job)}/{START}"))
    tokens = tensors.pop("tokens")
    return tensors, tokens


def request_of(run: RunDir, job: str) -> Request:
    fields = dict(run.read_json(f"{folder(job)}/{REQUEST}"))
    fields.pop("accepted")
    return Request(**fields)


def jobs(run: RunDir) -> list[tuple[float, str]]:
    """(accepted, name) of all that are stored, the oldest first."""
    found = []
    for file in run.files(JOBS):
        if file.endswith(f"/{REQUEST}"):
            found.append((float(run.read_json(file)["accepted"]), file.split("/")[-2]))
    return sorted(found)


def status(run: RunDir, job: str) -> dict[str, Any] | None:
    """What a client is told, or None for no such job."""
    if not run.exists(f"{folder(job)}/{REQUEST}"):
        return None
    request = request_of(run, job)
    about = {"id": job, "concept": request.concept, "of": request.train_steps}
    for name in (RESULT, STATUS):
        if run.exists(f"{folder(job)}/{name}"):
            return {**about, **run.read_json(f"{folder(job)}/{name}")}
    return {**about, "status": QUEUED, "step": 0}


def end(run: RunDir, job: str, how: str, **about: Any) -> None:
    run.write_json(f"{folder(job)}/{RESULT}", {"status": how, **about})
    for name in (START, PAIRS, STATUS, CANCEL):
        run.delete(f"{folder(job)}/{name}")


def forget(run: RunDir, keep: int) -> None:
    """Delete the oldest jobs that have ended, until `keep` are left."""
    there = [job for _, job in jobs(run)]
    ended = [j for j in there if run.exists(f"{folder(j)}/{RESULT}")]
    for job in ended[: max(0, len(there) - keep)]:
        run.delete(folder(job))


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
    start, tokens = start_of(run, job)
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
    data = ConceptData(job, source[: count - test], edited[: count - test], tokens.to(device))
    held = ConceptData(job, source[-test:], edited[-test:], data.tokens) if test else data
    trained_by = finetune_recipe(config.adapt)
    (trained,) = train_adapters(
        translator,
        [data],
        [{k: v.to(device) for k, v in start.items()}],
        type(trained_by)(**{**vars(trained_by), "steps": request.train_steps}),
        discriminator,
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
    run.write(f"{folder(job)}/{TOKENS_FILE}", save({"tokens": tokens.contiguous()}))
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
    size = config.images.size
    if not request.editor:
        rows = run.read_table(f"{folder(job)}/{PAIRS}").to_pylist()
        pairs = [(decode_image(r["source"]), decode_image(r["edited"])) for r in rows]
    else:
        where = "avatars" if config.images.source == "avatars" else config.images.path
        first = FRESH if where == "avatars" else 0
        names = source_ids(where, request.images + TESTED, first)
        sources = [load_source(name, where, size) for name in names]
        editor = make_editor(request.editor, **editor_options(config, request.editor))
        results = editor.edit(sources, _concept(request))
        pairs = [
            (s.image, r.image)
            for s, r in zip(sources, results, strict=True)
            if isinstance(r, EditResult)
        ]
        if len(pairs) <= TESTED:
            error = next(r for r in results if isinstance(r, EditError))
            raise FinetuneError(f"the editor made {len(pairs)} of {len(sources)} pictures: {error}")
    return _stacked([a for a, _ in pairs]), _stacked([b for _, b in pairs])


def _stacked(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
