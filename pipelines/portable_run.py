"""A finished run in one small file, for people who want to use one before they train their own.

Of the run it holds what the service reads: base, layout, normalisation, the weight generator's
average, of the fine-tune the basis and, if wanted, the refiner, the concepts that adapters were
collected for, and a few of those adapters. Weights of generator, refiner and basis are stored in
half precision, which moves no pixel by more than 1/255 (tests/pipelines/test_portable_run.py).
Texts are embedded again where it is read. Such a run is used, and not continued.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import re
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from modeling.concepts.table import to_table
from modeling.text import TextEncoder
from pipelines.config import tree as config_tree
from pipelines.config.load import load_config
from pipelines.runtime.log import log
from pipelines.runtime.run_dir import ArtifactError, RunDir, parquet_bytes
from pipelines.runtime.run_lock import locked
from pipelines.runtime.stage_graph import finished
from pipelines.runtime.stage_table import StageError
from pipelines.runtime.text_table import writing_text
from pipelines.stages.concepts import CONCEPTS, load_concepts, with_adapter
from pipelines.stages.writing import embed
from pipelines.use.saved_run import READ, of_finetunes, saved_config

FORMAT, VERSION = "denoised-weights run", 1
MANIFEST = "manifest.json"
ADAPTERS = 8
MODEL, EMA = "generator/model.safetensors", "generator/ema.safetensors"


class PortableRunError(StageError):
    """A run cannot be written to a file, or read from one; the text says what is wrong."""


def export_run(
    run: RunDir, file: Path, adapters: int = ADAPTERS, refiner: bool = False
) -> dict[str, Any]:
    """Write a finished run to a file (.tar.xz); returns its manifest.

    refiner: with that of its learned steps, which makes up half of the file; without it fine-tunes
    take as many of Adam's.

    Raises what `saved_config` raises for a run that is not finished, PortableRunError for a file
    that is there already.
    """
    if file.exists():
        raise PortableRunError(f"{file} is there already: give another file")
    config = saved_config(run, load_config([f"run_dir={run.uri}"]), "export-run")
    if not refiner:
        config = replace(config, adapt=replace(config.adapt, learned_steps=0))
    known = [c for c in with_adapter(load_concepts(run)) if c.split == "train"]
    names = [f for files in READ.values() for f in files if f != MODEL] + of_finetunes(config)
    contents = {name: run.read(name) for name in names}
    for name in contents:
        if name.endswith(".safetensors") and name.startswith("generator/"):
            contents[name] = _halved(contents[name])
    contents[CONCEPTS] = parquet_bytes(to_table(known))
    told = replace(config, run_dir="run")  # where it lay is nobody's business
    contents["config.yaml"] = config_tree.to_yaml(told).encode()
    for name in READ:
        marker = dict(finished(run, name) or {})
        for key in ("files", "identity"):  # those of what is imported
            marker.pop(key, None)
        contents[f"stages/{name}.json"] = json.dumps(marker, indent=2, sort_keys=True).encode()
    folders = sorted(
        n.rpartition("/")[0] for n in run.files("adapters") if n.endswith("/metrics.json")
    )
    for folder in folders[:: max(1, len(folders) // adapters)][:adapters] if adapters else []:
        for name in run.files(folder):
            if name.count("/") == 2:  # its last checkpoint alone
                contents[name] = run.read(name)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "commit": str((finished(run, "generator") or {}).get("commit", "")),
        "concepts": len(known),
        "files": {name: _sha256(data) for name, data in contents.items()},
    }
    contents = {MANIFEST: json.dumps(manifest, indent=2).encode()} | contents
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:xz", preset=9) as archive:
        for name, data in contents.items():
            about = tarfile.TarInfo(name)  # no times, no owners: equal runs give equal files
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    log(f"export-run: {file}, {file.stat().st_size / 2**20:.1f} MiB")
    return manifest


def import_run(file: Path, run: RunDir) -> dict[str, Any]:
    """Read such a file into a fresh run directory; returns its manifest.

    Raises PortableRunError if it is none, or damaged, or the run directory holds something.
    """
    if run.files(""):
        raise PortableRunError(f"{run.uri} is not empty: give another run_dir")
    contents = _contents(file)
    manifest = json.loads(contents.pop(MANIFEST))
    for name, data in contents.items():
        if name.endswith(".safetensors") and name.startswith("generator/"):
            contents[name] = _widened(data, name)
    contents[MODEL] = contents[EMA]
    markers = {n: contents.pop(f"stages/{n}.json") for n in READ}
    config = config_tree.from_dict(
        config_tree.from_yaml(contents["config.yaml"].decode()) | {"run_dir": run.uri}
    )
    contents["config.yaml"] = config_tree.to_yaml(config).encode()
    for name, data in contents.items():
        run.write(name, data)
    with writing_text(run) as table:
        encoder = TextEncoder(config.text_encoder, config.allow_download)
        embed(encoder, table, load_concepts(run))
    for name, marker in markers.items():
        there = [n for n in contents if n.startswith(f"{name}/")]
        files = {n: run.checksum(n) for n in there}
        run.write_json(f"stages/{name}.json", json.loads(marker) | {"files": files})
    log(f"import-run: {manifest['concepts']} concepts, {run.uri}; next: serve, predict, translate")
    return dict(manifest)


def _contents(file: Path) -> dict[str, bytes]:
    """What the archive holds, each file as the manifest has it, and nothing else."""
    try:
        with tarfile.open(file, "r:xz") as archive:
            found: dict[str, bytes] = {}
            for about in archive:
                data = archive.extractfile(about) if about.isreg() else None
                # it comes from somebody else
                if data is None or not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", about.name):
                    raise PortableRunError(f"{file} holds {about.name!r}, which no run has")
                if ".." in about.name.split("/"):
                    raise PortableRunError(f"{file} holds {about.name!r}, outside of the run")
                found[about.name] = data.read()
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError) as error:
        raise PortableRunError(f"{file} cannot be read as a run in a file: {error}") from error
    try:
        manifest = json.loads(found[MANIFEST])
        form, sums = (manifest["format"], manifest["version"]), dict(manifest["files"])
    except (KeyError, ValueError, TypeError) as error:
        raise PortableRunError(f"{file} has no manifest: no run in a file") from error
    if form != (FORMAT, VERSION):
        raise PortableRunError(f"{file}: format {form}, this code reads {(FORMAT, VERSION)}")
    if set(found) - {MANIFEST} != set(sums):
        raise PortableRunError(f"{file} holds other files than its manifest names")
    for name, digest in sums.items():
        if _sha256(found[name]) != digest:
            raise PortableRunError(f"{file}: {name} is damaged")
    return found


def _halved(data: bytes) -> bytes:
    return _cast(data, torch.float16)


def _widened(data: bytes, name: str) -> bytes:
    try:
        return _cast(data, torch.float32)
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(f"{name} is damaged: {error}") from error


def _cast(data: bytes, to: torch.dtype) -> bytes:
    """The tensors of a safetensors file in another precision, its metadata kept."""
    end = 8 + int.from_bytes(data[:8], "little")
    about: Mapping[str, str] = json.loads(data[8:end]).get("__metadata__", {})
    tensors = safetensors.torch.load(data)
    made = {k: v.to(to) if v.is_floating_point() else v for k, v in tensors.items()}
    return safetensors.torch.save(made, dict(about) or None)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def command(name: str, words: list[str]) -> None:
    """`export-run run_dir=RUN file=FILE [adapters=N] [refiner=true]`, or

    `import-run file=FILE run_dir=RUN`.
    """
    given = {key: value for key, _, value in (word.partition("=") for word in words)}
    run, file = RunDir(given["run_dir"]), Path(given["file"]).expanduser()
    if name == "export-run":
        count = given.get("adapters", str(ADAPTERS))
        if not count.isdigit():
            raise PortableRunError(f"adapters={count}: must be a whole number")
        keep = given.get("refiner", "false")
        if keep not in ("true", "false"):
            raise PortableRunError(f"refiner={keep}: must be true or false")
        export_run(run, file, int(count), keep == "true")
        return
    with locked(run, [name, *words]):
        import_run(file, run)
