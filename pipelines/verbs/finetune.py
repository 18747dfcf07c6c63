"""`finetune TEXT … run_dir=RUN out=DIR`: the prediction trained on example pairs.

The pairs come from an editor of the run, from two folders, or from a Parquet file. Each text gets a
folder: the adapter in PEFT's format, `result.json`, and `index.html`, a page with the curve and
pictures before and after. What is there already is left. Several texts go through the pool of
actors (Ray Data).
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from safetensors.torch import save

from modeling.images import encode_png
from modeling.targets.lora import CONFIG_FILE
from pipelines.config.derived import resolve_editor
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.presentation.curves import INK, LINE, drawing, plain, stand_in
from pipelines.presentation.html import render
from pipelines.runtime.actors import map_actors
from pipelines.runtime.foreign_output import foreign_output_to_file
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.stages.contenders import PREDICTION
from pipelines.use import finetune_jobs as jobs
from pipelines.use.adapter_names import FINETUNED
from pipelines.use.finetune_editors import concept_of, editors
from pipelines.use.finetune_pairs import TESTED, Pairs, edited_pairs
from pipelines.use.finetune_request import FINISHED, FinetuneError, Request
from pipelines.use.given_pairs import from_folders, from_parquet
from pipelines.use.run import Adapter, Run
from pipelines.use.saved_run import saved_config
from pipelines.verbs.texts import folder_names, texts_of, whole_number

RESULT = "result.json"
SHOWN = 4
"""Pictures on the page."""
COUNT = 64
"""Pairs that an editor makes to train on, if the run's coreset is larger."""


@dataclass(frozen=True)
class Asked:
    """All that decides the adapter of a text, besides the run and the pictures of files."""

    editor: str
    count: int
    sources: str
    edits: str
    pairs: str
    steps: int
    seed: int
    keep: bool


def run(given: Mapping[str, str], free: Sequence[str], flags: Collection[str]) -> int:
    """1 if a text's fine-tune failed, 0 otherwise; ConfigError before anything is started."""
    texts = texts_of("finetune", given, free)
    own = ("out", "texts", *Asked.__dataclass_fields__)
    words = [f"{key}={value}" for key, value in given.items() if key not in own]
    told = load_config(words)
    run_dir, out = RunDir(told.run_dir), RunDir(given["out"], "out")
    config = saved_config(run_dir, told, "finetune")
    asked = _asked(given, config)
    if asked.editor:
        _check_editor(config, asked.editor, texts)
    elif len(texts) > 1:
        raise ConfigError("finetune: pairs of files are of one text; several take an editor")
    rows: list[dict[str, Any]] = [
        {"text": text, "folder": name, "of": i}
        for i, (text, name) in enumerate(zip(texts, folder_names(texts), strict=True))
    ]
    there = {row["folder"]: _there(out, row, asked) for row in rows}
    todo = [row for row in rows if there[row["folder"]] is None]
    made = {str(row["folder"]): dict(row) for row in _through(config, run_dir, out, asked, todo)}
    results = [there[r["folder"]] or made[r["folder"]] for r in rows]
    for row in results:
        if row.get("error"):
            log(f"finetune: {row['text']}: {row['error']}")
        else:
            log(
                f"finetune: {row['text']} → {out.url(row['folder'])}: L1 {row['l1_before']:.4f} →"
                f" {row['l1_after']:.4f} on {row['scored_on']}, {row['seconds']:.1f} s"
            )
    if "--json" in flags:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    return 1 if any(row.get("error") for row in results) else 0


def _asked(given: Mapping[str, str], config: Any) -> Asked:
    files = {key: given.get(key, "") for key in ("sources", "edits", "pairs")}
    if bool(files["sources"]) != bool(files["edits"]):
        raise ConfigError("finetune: sources= and edits= go together")
    ways = [bool(given.get("editor")), bool(files["sources"]), bool(files["pairs"])]
    if sum(ways) > 1:
        raise ConfigError("finetune: give one of editor=, sources= with edits=, pairs=")
    editor = given.get("editor", "") or ("" if any(ways) else resolve_editor(config))
    keep = given.get("keep", "false")
    if keep not in ("true", "false"):
        raise ConfigError(f"finetune: keep={keep}: must be true or false")
    return Asked(
        editor,
        whole_number("finetune", given, "count", min(COUNT, config.adapt.coreset), 1),
        files["sources"],
        files["edits"],
        files["pairs"],
        whole_number("finetune", given, "steps", config.adapt.steps, 0),
        whole_number("finetune", given, "seed", 0, 0),
        keep == "true",
    )


def _check_editor(config: Any, editor: str, texts: Sequence[str]) -> None:
    if editor not in editors(config):
        raise ConfigError(f"finetune: editor={editor}: must be one of {', '.join(editors(config))}")
    try:
        for text in texts:
            concept_of(text, editor)
    except FinetuneError as error:
        raise ConfigError(f"finetune: {text}: {error}") from error


def _there(out: RunDir, row: Mapping[str, Any], asked: Asked) -> dict[str, Any] | None:
    """What an earlier command left for a text; ConfigError if it asked for something else."""
    path = f"{row['folder']}/{RESULT}"
    if not out.exists(path):
        return None
    before = dict(out.read_json(path))
    if (before.get("text"), before.get("asked")) != (row["text"], asdict(asked)):
        raise ConfigError(
            f"finetune: {out.url(str(row['folder']))} holds another fine-tune: give another out"
        )
    return before


def _through(
    config: Any, run_dir: RunDir, out: RunDir, asked: Asked, todo: Sequence[dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """One text in this process; several by the pool of actors."""
    arguments: dict[str, Any] = {"uri": run_dir.uri, "out": out, "asked": asdict(asked)}
    if len(todo) < 2:
        for row in todo:
            with Progress("finetune", asked.steps, "steps") as progress:
                yield FineTuneTexts(**arguments).one(row, progress)
        return
    arguments["cpus"] = config.cluster.cpus_per_actor
    with (
        Progress("finetune", len(todo), "texts") as progress,
        foreign_output_to_file(),
        ray_session(config),
    ):
        for row in map_actors(config, FineTuneTexts, arguments, todo):
            progress.add()
            yield json.loads(str(row["result"]))


class FineTuneTexts:
    """Ray Data actor, and what the command itself uses: fine-tunes one text after another."""

    def __init__(self, uri: str, out: RunDir, asked: dict[str, Any], cpus: float = 0) -> None:
        import torch

        if cpus:  # an actor's share
            torch.set_num_threads(max(1, int(cpus)))
        self.used, self.out, self.asked = Run(uri), out, Asked(**asked)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = [
            {"text": str(text), "folder": str(folder)}
            for text, folder in zip(batch["text"], batch["folder"], strict=True)
        ]
        return {"result": [json.dumps(self.one(row)) for row in rows]}

    def one(self, row: Mapping[str, Any], progress: Progress | None = None) -> dict[str, Any]:
        """Its result, written last; `error` says why there is none."""
        text, folder, a = str(row["text"]), str(row["folder"]), self.asked
        about = {"text": text, "folder": folder}
        try:
            pairs = self._pairs(text)
            start = self.used.predict(text, seed=a.seed)
            tuned = self.used.finetune(
                text,
                pairs,
                steps=a.steps,
                seed=a.seed,
                start=start,
                test=TESTED if a.editor else None,
                on_step=lambda step: progress.add(step - progress.done) if progress else None,
            )
        except FinetuneError as error:
            return {**about, "error": str(error)}
        assert tuned.outcome is not None
        made = tuned.outcome
        told = {
            **about,
            "run": self.used.uri,
            "steps": len(made.losses),
            "learned": made.learned,
            "pairs": len(pairs),
            "l1_before": made.l1_before,
            "l1_after": made.l1_after,
            "scored_on": made.scored_on,
            "seconds": made.seconds,
            "asked": asdict(a),
            "name": "",
        }
        if a.keep:
            tuned = kept(self.used, tuned, a, told)
            told["name"] = tuned.name
        files = tuned.files() | {"index.html": page(self.used, start, tuned, pairs, told).encode()}
        self.out.write_files(folder, files, last=CONFIG_FILE)
        self.out.write_json(f"{folder}/{RESULT}", told)
        return told

    def _pairs(self, text: str) -> Pairs:
        a, size = self.asked, self.used.size
        if a.sources:
            return from_folders(a.sources, a.edits, size)
        if a.pairs:
            return from_parquet(a.pairs, size)
        run_dir = RunDir(self.used.uri)
        return edited_pairs(self.used.config, run_dir, text, a.editor, a.count)


def kept(used: Run, tuned: Adapter, asked: Asked, told: Mapping[str, Any]) -> Adapter:
    """Store it as a fine-tune of the run's service; the adapter with the name that it has there.

    The same command again stores the same.
    """
    plain = json.dumps([told["text"], told["asked"], used.uri], sort_keys=True)
    job = hashlib.sha256(plain.encode()).hexdigest()[:16]
    named = tuned.renamed(FINETUNED + job)
    run_dir, t = RunDir(used.uri), used.config.adapt.t
    request = Request(tuned.text, asked.seed, t, 1, told["steps"], asked.editor, asked.count)
    tokens = {"tokens": tuned.loaded.tokens.contiguous()}
    run_dir.write(f"{jobs.folder(job)}/{jobs.TOKENS_FILE}", save(tokens))
    run_dir.write_files(jobs.folder(job), named.files(), last=CONFIG_FILE)
    result = {k: told[k] for k in ("l1_before", "l1_after", "scored_on", "seconds")}
    jobs.end(run_dir, job, FINISHED, adapter=FINETUNED + job, step=told["steps"], **result)
    jobs.record(run_dir, job, request)  # last: a service must not take it for one to be done
    return named


def page(used: Run, start: Adapter, tuned: Adapter, pairs: Pairs, told: Mapping[str, Any]) -> str:
    """HTML: the curve, and the last pairs, which no step has seen if any were held out."""
    shown = pairs[-SHOWN:]
    sources = [source for source, _ in shown]
    columns = [sources, [edited for _, edited in shown]]
    columns += [used.translate(sources, adapter) for adapter in (start, tuned)]
    rows = [[_png(picture) for picture in row] for row in zip(*columns, strict=True)]
    assert tuned.outcome is not None
    losses, learned = tuned.outcome.losses, told["learned"]
    label = "loss by step"

    def figure() -> Any:
        return _curve(losses, learned, stand_in(0), INK, LINE)

    curve = drawing(figure, "finetune", [PREDICTION], label, size=10) if losses else ""
    width = used.size * max(1, 128 // used.size)
    return str(
        render("verbs/templates/finetune.html", told=told, curve=curve, rows=rows, width=width)
    )


def _png(picture: np.ndarray) -> str:
    return base64.b64encode(encode_png(picture)).decode()


def _curve(losses: Sequence[float], learned: int, colour: str, ink: str, line: str) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 2.8))
    axes = figure.add_axes((0.08, 0.18, 0.9, 0.74))
    axes.plot(range(1, len(losses) + 1), losses, color=colour, linewidth=2, marker="o")
    if 0 < learned < len(losses):
        axes.axvline(learned + 0.5, color=line, linewidth=1)
        axes.annotate("learned steps end", (learned + 0.6, max(losses)), color=ink, va="top")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("step", color=ink)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plain(axes, ink, line)
    return figure
