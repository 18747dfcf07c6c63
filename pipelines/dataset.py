"""A collection of adapters as a dataset to publish: `export-dataset` and `import-dataset`.

The layout is that of a dataset on the Hugging Face hub: a card, `data/*.parquet` with one row per
(concept, checkpoint), and beside them what the rows mean: base, layout, concepts, texts. Adapters
travel inside the Parquet rows, as their safetensors bytes: the paper's 97,611 concepts would
otherwise be 780,000 files, and a hub folder holds 10,000. Pictures are left out: their licence is
that of their source, and the stage `pairs` makes them again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from string import Template
from typing import Any

import pyarrow as pa

from modeling.targets.lora import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    AdaptedTranslator,
    AdapterError,
    from_bytes,
)
from pipelines.runtime.inventory import files_of, inventory, unchanged
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import RunDir, parquet_bytes
from pipelines.runtime.run_lock import locked
from pipelines.runtime.stage_graph import finished, made_with
from pipelines.runtime.stage_table import BY_NAME, StageError
from pipelines.stages.base import load_base
from pipelines.stages.concepts import load_concepts

FORMAT = "denoised-weights/adapters"
VERSION = 1
MANIFEST = "manifest.json"
CARRIED = ("concepts", "pairs", "base", "gans")
"""Stages whose records travel; of pairs the record and the index alone."""
SHARD_BYTES = 2**28
CARD = Path(__file__).parent / "dataset_card.md"
SCHEMA = pa.schema(
    [
        ("concept_id", pa.string()),
        ("text", pa.string()),
        ("category", pa.string()),
        ("split", pa.string()),  # train | val
        ("origin", pa.string()),
        ("parents", pa.list_(pa.string())),
        ("step", pa.int32()),
        ("last", pa.bool_()),  # the end of the collection; others are earlier checkpoints
        ("seed", pa.int32()),  # of the LoRA start, one for all
        ("l1", pa.float64()),  # on validation images, of the last checkpoint
        ("zero", pa.float64()),  # of zero LoRA there
        ("identity", pa.float64()),  # of doing nothing there
        ("seconds", pa.float64()),
        ("base_sha256", pa.string()),
        ("layout_sha256", pa.string()),  # "" where the stage weights has not finished
        ("adapter_sha256", pa.string()),
        ("adapter", pa.binary()),  # safetensors
        ("metrics", pa.string()),  # metrics.json, verbatim
    ]
)


class DatasetError(StageError):
    """A dataset cannot be written or read; the text names the file."""


def export_dataset(run: RunDir, target: RunDir, licence: str) -> dict[str, Any]:
    """Write the finished collection of a run as a dataset; returns its manifest.

    Raises StageError if the collection is not finished, DatasetError if `target` is in use or an
    adapter does not fit the base.
    """
    for name in CARRIED:
        if finished(run, name) is None:
            raise StageError(
                f"{run.uri}: stage {name} has not finished: there is nothing to publish"
            )
    if target.files(""):
        raise DatasetError(f"{target.uri} is not empty: give another target")
    names = ["config.yaml", "editing/index.parquet"]
    names += [f for name in ("concepts", "base") for f in _outputs(run, name)]
    names += [f for f in run.files("adapters") if f.count("/") == 1]
    if finished(run, "weights") is not None:
        names += ["weights/layout.json", "weights/normalisation.safetensors"]
    sums: dict[str, str] = {}

    def write(name: str, data: bytes) -> None:
        target.write(name, data)
        sums[name] = _sha256(data)

    for name in names:
        write(name, run.read(name))
    for name in CARRIED:
        marker = finished(run, name) or {}
        files = {"files": files_of(run, marker)}  # with its files, whether they had a table or not
        write(f"stages/{name}.json", json.dumps(marker | files, sort_keys=True).encode())
    rows = _Rows(run)
    adapters = 0
    for number, table in enumerate(rows.tables()):
        write(f"data/train-{number:05d}.parquet", parquet_bytes(table))
        adapters += table.num_rows
    write(CONFIG_FILE, rows.config)
    marker = run.read_json("stages/gans.json")
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "licence": licence,
        "concepts": len(rows.ids),
        "adapters": adapters,
        "weights_per_adapter": rows.translator.n_weights,
        "versions": marker["versions"],
        "commit": marker["commit"],
        "files": sums,
    }
    target.write("README.md", _card(manifest).encode())
    target.write_json(MANIFEST, manifest)  # last: a folder without a manifest is no dataset
    log(f"export-dataset: {adapters} adapters of {len(rows.ids)} concepts, {target.uri}")
    return manifest


class _Rows:
    """The adapters of a run as rows of SCHEMA, each checked against the base."""

    def __init__(self, run: RunDir) -> None:
        self.run = run
        self.translator, _ = load_base(made_with(run), run)
        self.base = _sha256(run.read("base/translator.safetensors"))
        self.layout = ""
        if finished(run, "weights") is not None:
            self.layout = _sha256(run.read("weights/layout.json"))
        self.folders: dict[str, list[str]] = defaultdict(list)
        for name in run.files("adapters"):
            if name.endswith(f"/{WEIGHTS_FILE}"):
                self.folders[name.split("/")[1]].append(name.rpartition("/")[0])
        concepts = load_concepts(run)
        self.concepts = {c.concept_id: c for c in concepts}
        self.ids = [c.concept_id for c in concepts if c.concept_id in self.folders]
        # one layout, one recipe: the configs of all adapters are equal
        self.config = run.read(f"{self.folders[self.ids[0]][0]}/{CONFIG_FILE}")

    def tables(self) -> Iterator[pa.Table]:
        """Tables of about SHARD_BYTES."""
        rows: list[dict[str, Any]] = []
        size = 0
        for concept_id in self.ids:
            for row in self._concept(concept_id):
                rows.append(row)
                size += len(row["adapter"])
                if size >= SHARD_BYTES:
                    yield pa.Table.from_pylist(rows, SCHEMA)
                    rows, size = [], 0
        if rows:
            yield pa.Table.from_pylist(rows, SCHEMA)

    def _concept(self, concept_id: str) -> Iterator[dict[str, Any]]:
        concept, home = self.concepts[concept_id], f"adapters/{concept_id}"
        text = self.run.read(f"{home}/metrics.json").decode()
        metrics = json.loads(text)
        for folder in sorted(self.folders[concept_id]):
            data = self.run.read(f"{folder}/{WEIGHTS_FILE}")
            where = self.run.url(folder)
            _check(self.translator, data, where)
            if self.run.read(f"{folder}/{CONFIG_FILE}") != self.config:
                raise DatasetError(f"{where}/{CONFIG_FILE} differs from the other adapters'")
            last = folder == home
            yield {
                "concept_id": concept_id,
                "text": concept.text,
                "category": concept.category,
                "split": concept.split,
                "origin": concept.origin,
                "parents": list(concept.parents),
                "step": metrics["steps"] if last else int(folder.rpartition("-")[2]),
                "last": last,
                "seed": int(metrics["seed"]),
                **{k: metrics[k] for k in ("l1", "zero", "identity", "seconds") if last},
                "base_sha256": self.base,
                "layout_sha256": self.layout,
                "adapter_sha256": _sha256(data),
                "adapter": data,
                "metrics": text if last else "",
            }


def import_dataset(source: RunDir, run: RunDir) -> dict[str, Any]:
    """Read a dataset into a fresh run directory, verified; returns its manifest.

    Afterwards the stages up to `gans` count as finished there: `weights`, `generator`, … go on, and
    `pairs` makes the pictures again where a later stage needs them. Nothing is written before all
    files have the manifest's hashes, and no stage counts as finished before its files are those of
    the run that was exported. Raises DatasetError that names the file.
    """
    manifest = _manifest(source)
    if run.files("stages"):
        raise DatasetError(f"{run.uri} already holds a run: give another run_dir")
    files: dict[str, str] = manifest["files"]
    with Progress("import-dataset, verifying", len(files), "files") as progress:
        for name, expected in files.items():
            if _sha256(_read(source, name)) != expected:
                raise DatasetError(
                    f"{source.url(name)} is damaged: its SHA-256 is not the manifest's"
                )
            progress.add()
    # the stage `weights` cuts the blocks anew: it takes seconds
    copied = ("config.yaml", "concepts.parquet", "text.parquet", "editing/", "base/", "adapters/")
    for name in files:
        if name.startswith(copied):
            run.write(name, source.read(name))
    translator, _ = load_base(made_with(source), run)
    config, adapters = source.read(CONFIG_FILE), 0
    for name in sorted(n for n in files if n.startswith("data/")):
        adapters += _unpack(source, name, run, translator, config)
    if adapters != manifest["adapters"]:
        raise DatasetError(
            f"{source.uri}: {adapters} adapters, but {manifest['adapters']} promised"
        )
    for name in ("concepts", "base", "gans"):
        recorded = files_of(source, source.read_json(f"stages/{name}.json"))
        there = inventory(run, BY_NAME[name])
        wrong = sorted(f for f in recorded.keys() | there if not _same(recorded, there, f))
        if wrong:
            raise DatasetError(f"{run.url(wrong[0])} is not the file of the run that was exported")
    for name in CARRIED:
        run.write(f"stages/{name}.json", source.read(f"stages/{name}.json"))
    log(f"import-dataset: {adapters} adapters, {run.uri}; next: the stage weights")
    return manifest


def _unpack(
    source: RunDir, name: str, run: RunDir, translator: AdaptedTranslator, config: bytes
) -> int:
    """Write the adapters of one data file; returns how many."""
    base = _sha256(run.read("base/translator.safetensors"))
    table = source.read_table(name)
    if table.schema.names != SCHEMA.names:
        raise DatasetError(f"{source.url(name)} has other columns than a dataset of adapters")
    for row in table.to_pylist():
        where = f"{source.url(name)}, {row['concept_id']} step {row['step']}"
        if not re.fullmatch(r"[a-z0-9-]+", row["concept_id"]):
            raise DatasetError(f"{where}: no concept_id")
        if row["base_sha256"] != base:
            raise DatasetError(f"{where}: an adapter of another base")
        if _sha256(row["adapter"]) != row["adapter_sha256"]:
            raise DatasetError(f"{where}: its SHA-256 is not the row's")
        _check(translator, row["adapter"], where)
        folder = f"adapters/{row['concept_id']}"
        written = {WEIGHTS_FILE: row["adapter"], CONFIG_FILE: config}
        if row["last"]:
            written["metrics.json"] = row["metrics"].encode()
            run.write_files(folder, written, last="metrics.json")
        else:
            run.write_files(f"{folder}/step-{row['step']:06d}", written, last=CONFIG_FILE)
    return table.num_rows


def _manifest(source: RunDir) -> dict[str, Any]:
    """The manifest, its form and the names in it checked."""
    if not source.exists(MANIFEST):
        raise DatasetError(f"{source.url(MANIFEST)} is missing: no dataset of adapters")
    manifest = source.read_json(MANIFEST)
    form = manifest.get("format"), manifest.get("version")
    if form != (FORMAT, VERSION):
        raise DatasetError(
            f"{source.url(MANIFEST)}: format {form}, this code reads {FORMAT} {VERSION}"
        )
    for name in manifest["files"]:
        path = PurePosixPath(name)
        # a dataset comes from somebody else
        if path.is_absolute() or ".." in path.parts or path.as_posix() != name:
            raise DatasetError(f"{source.url(MANIFEST)} names {name!r}, outside the dataset")
    return dict(manifest)


def _read(source: RunDir, name: str) -> bytes:
    if not source.exists(name):
        raise DatasetError(f"{source.url(name)} is missing, and the manifest names it")
    return source.read(name)


def _check(translator: AdaptedTranslator, data: bytes, where: str) -> None:
    try:
        translator.check(from_bytes(data, where))
    except AdapterError as error:
        raise DatasetError(f"{where}: {error}") from error


def _same(recorded: dict[str, str], there: dict[str, str], name: str) -> bool:
    return name in recorded and unchanged(recorded[name], there.get(name))


def _outputs(run: RunDir, stage: str) -> list[str]:
    return [f for out in BY_NAME[stage].outputs for f in run.files(out)]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _card(manifest: dict[str, Any]) -> str:
    """The hub's dataset card."""
    size = next((name for top, name in SIZES if manifest["adapters"] < top), "1M<n<10M")
    return Template(CARD.read_text()).substitute(manifest, size=size)


SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
)


def command(name: str, words: list[str]) -> None:
    """`export-dataset run_dir=RUN target=PLACE licence=ID` or `import-dataset source= run_dir=`.

    The words are whole: commandline/typed.py has seen to it.
    """
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    if name == "export-dataset":
        export_dataset(
            RunDir(given["run_dir"]), RunDir(given["target"], "target"), given["licence"]
        )
    else:
        run = RunDir(given["run_dir"])
        with locked(run, [name, *words]):
            import_dataset(RunDir(given["source"], "source"), run)
