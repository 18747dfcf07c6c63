"""Fine-tunes that clients of the service ask for: what is stored of one.

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
from safetensors.torch import load, save

from modeling.images import encode_png
from modeling.targets.lora import Adapter
from modeling.text import TextEmbedding
from pipelines.runtime.run_dir import RunDir
from pipelines.use.finetune_request import QUEUED, Request

JOBS = "served/finetunes"
"""Fine-tunes that clients asked for, a folder each."""
TOKENS_FILE = "tokens.safetensors"
REQUEST, STATUS, RESULT = "request.json", "status.json", "result.json"
START, PAIRS, CANCEL = "start.safetensors", "pairs.parquet", "cancel"
PAIR = pa.schema([("source", pa.binary()), ("edited", pa.binary())])  # PNG


def folder(job: str) -> str:
    return f"{JOBS}/{job}"


def accept(
    run: RunDir,
    job: str,
    request: Request,
    pairs: list[tuple[np.ndarray, np.ndarray]],
    start: Adapter,
    text: TextEmbedding,
) -> None:
    """Store a job. pairs: uint8 [S, S, 3] each, none with an editor. start: what is trained on,
    an adapter predicted from the prompt."""
    if pairs:
        rows = [{"source": encode_png(a), "edited": encode_png(b)} for a, b in pairs]
        run.write_table(f"{folder(job)}/{PAIRS}", pa.Table.from_pylist(rows, PAIR))
    tensors = {**start, "tokens": text.tokens, "pooled": text.pooled}
    run.write(f"{folder(job)}/{START}", save({k: v.contiguous() for k, v in tensors.items()}))
    record(run, job, request)  # last: with it the job is there


def record(run: RunDir, job: str, request: Request) -> None:
    """That there is such a job, from now on."""
    run.write_json(f"{folder(job)}/{REQUEST}", {**vars(request), "accepted": time.time()})


def start_of(run: RunDir, job: str) -> tuple[Adapter, TextEmbedding]:
    """The predicted adapter that a job starts from, and its prompt."""
    tensors = load(run.read(f"{folder(job)}/{START}"))
    return tensors, TextEmbedding(tensors.pop("tokens"), tensors.pop("pooled"))


def request_of(run: RunDir, job: str) -> Request:
    fields = dict(run.read_json(f"{folder(job)}/{REQUEST}"))
    fields.pop("accepted")
    return Request(**fields)


def stored(run: RunDir) -> list[tuple[float, str]]:
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
    there = [job for _, job in stored(run)]
    ended = [j for j in there if run.exists(f"{folder(j)}/{RESULT}")]
    for job in ended[: max(0, len(there) - keep)]:
        run.delete(folder(job))
