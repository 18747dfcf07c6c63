"""Example pairs that a person has: two folders, or a Parquet file."""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from modeling.images import ImageError, PictureTree, decode_image
from modeling.reasons import one_line
from pipelines.use.finetune_pairs import Pairs
from pipelines.use.finetune_request import FinetuneError

SHOWN = 8
"""Names that an error lists."""


def from_folders(sources: str, edits: str, size: int) -> Pairs:
    """Pictures of the same path below both folders, whatever their suffix; sorted by it.

    FinetuneError lists what has no partner, and what cannot be read.
    """
    try:
        trees = PictureTree(sources), PictureTree(edits)
        before, after = (_by_stem(tree) for tree in trees)
    except ImageError as error:
        raise FinetuneError(str(error)) from error
    for word, mine, other in (("sources", before, after), ("edits", after, before)):
        alone = sorted(mine[stem] for stem in mine.keys() - other.keys())
        if alone:
            raise FinetuneError(f"{word}: {len(alone)} without a partner: {_listed(alone)}")
    pairs: Pairs = []
    bad: list[str] = []
    for stem in sorted(before):
        try:
            source = decode_image(trees[0].read(before[stem]), size)
            pairs.append((source, decode_image(trees[1].read(after[stem]), size)))
        except ImageError as error:
            bad.append(f"{stem} ({error})")
    if bad:
        raise FinetuneError(f"{len(bad)} pairs cannot be read: {_listed(bad)}")
    return pairs


def _by_stem(tree: PictureTree) -> dict[str, str]:
    """Path without suffix → path; FinetuneError where two pictures differ in it alone."""
    out: dict[str, str] = {}
    for name in tree.listing()[0]:
        stem = str(PurePosixPath(name).with_suffix(""))
        if stem in out:
            raise FinetuneError(f"{tree.where}: {out[stem]} and {name}: which of them?")
        out[stem] = name
    return out


def from_parquet(where: str, size: int) -> Pairs:
    """The pairs of a file with the columns source and edited, pictures in any format.

    FinetuneError if it is none, or a picture cannot be read.
    """
    import fsspec

    try:
        with fsspec.open(where, "rb") as file:
            table = pq.read_table(io.BytesIO(file.read()))
    except (OSError, ValueError, ImportError, pa.ArrowException) as error:
        raise FinetuneError(f"pairs={where}: {one_line(error)}") from error
    missing = {"source", "edited"} - set(table.column_names)
    if missing:
        raise FinetuneError(f"pairs={where}: has no column {', '.join(sorted(missing))}")
    if "image_id" in table.column_names:
        table = table.sort_by("image_id")
    pairs: Pairs = []
    for i, row in enumerate(table.select(["source", "edited"]).to_pylist()):
        try:
            pairs.append((decode_image(row["source"], size), decode_image(row["edited"], size)))
        except (ImageError, TypeError) as error:
            raise FinetuneError(f"pairs={where}: row {i}: {one_line(error)}") from error
    return pairs


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
