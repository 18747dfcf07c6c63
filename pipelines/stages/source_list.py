"""The list of a run's source pictures: written by its first stage, read by all that follow.

`sources.parquet` has a folder's pictures as they were when the run began. A folder that is listed
anew at every start would be split anew, too: with one picture more, a test picture of yesterday's
concepts is a training picture of today's. Sizes are compared at every start, which takes a listing;
hashes where a picture is read anyway, which takes no second reading. Times are not compared: a copy
has others. To hash a picture once takes a twentieth of what each actor spends to decode it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa

from modeling.editors.sources import AVATARS, digest_of, source_ids
from modeling.images import ImageError
from modeling.images.folder import Listing, PictureFolder, in_words
from pipelines.config.error import ConfigError
from pipelines.config.schema import Config
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import READERS, ArtifactError, RunDir
from pipelines.runtime.stage_table import SOURCES, StageError

SCHEMA = pa.schema([("image_id", pa.string()), ("bytes", pa.int64()), ("sha256", pa.string())])
AGAIN = (
    "put back what was there, or give redo=[pairs] to begin again on the folder as it is now, or"
    " another run_dir"
)
NAMED = 3
"""Pictures that a message names."""


def sources_of(config: Config, run_dir: RunDir) -> dict[str, str]:
    """A run's source pictures in order: image_id → SHA-256 of its file, "" where nobody knows it.

    Of a run that was begun before there was a list, the pictures of its pairs, or of the folder.
    """
    if config.images.source == AVATARS:
        return dict.fromkeys(source_ids(AVATARS, config.images.count), "")
    if run_dir.exists(SOURCES):
        table = run_dir.read_table(SOURCES)
        return dict(zip(table["image_id"].to_pylist(), table["sha256"].to_pylist(), strict=True))
    ids = _of_its_pairs(config, run_dir) or _of_the_folder(config, listing_of(config))
    return dict.fromkeys(ids, "")


def record_sources(config: Config, run_dir: RunDir) -> dict[str, str]:
    """Write the list, or hold the folder against the one that is there; returns `sources_of`.

    Raises ConfigError for a folder that is not there or too small, StageError for one that lacks
    a picture of the list or has another in its place.
    """
    if config.images.source == AVATARS:
        return sources_of(config, run_dir)
    if run_dir.exists(SOURCES):
        made_for = json.loads(run_dir.read_schema(SOURCES).metadata[b"folder"])
        if _keys(config) == made_for["keys"]:
            _check(config, run_dir.read_table(SOURCES), made_for["pictures"])
            return sources_of(config, run_dir)
        if run_dir.exists("stages/pairs.started.json"):
            return sources_of(config, run_dir)  # `pairs` refuses the other keys by their names
    run_dir.write_table(SOURCES, _new_list(config, run_dir))
    return sources_of(config, run_dir)


def listing_of(config: Config) -> Listing:
    """What lies in images.path; ConfigError if that is too little."""
    images = config.images
    try:
        listing = PictureFolder(images.path).listing()
    except ImageError as error:
        raise ConfigError(f"images.path={images.path}: {error}") from error
    count = len(listing.pictures)
    if count < images.count:
        besides = f" (besides {in_words(listing.left_out)})" if listing.left_out else ""
        raise ConfigError(
            f"images.count={images.count}: the folder images.path={images.path} holds {count}"
            f" pictures{besides}"
        )
    return listing


def _keys(config: Config) -> dict[str, Any]:
    return {"path": config.images.path, "count": config.images.count}


def _new_list(config: Config, run_dir: RunDir) -> pa.Table:
    """Rows of SCHEMA; what was left out is said."""
    path, count = config.images.path, config.images.count
    ids = _of_its_pairs(config, run_dir)
    listing = Listing([], {}) if ids else listing_of(config)
    ids = ids or _of_the_folder(config, listing)
    left_out = dict(listing.left_out)
    if len(listing.pictures) > len(ids):
        left_out[f"beyond images.count={count}"] = len(listing.pictures) - len(ids)
    log(
        f"images: {len(ids)} pictures of {path}"
        + (f"; left out: {in_words(left_out)}" if left_out else "")
    )
    folder = PictureFolder(path)
    sizes = _sizes(folder, config)
    _lacking(config, [i for i in ids if i not in sizes], "gone", len(ids))

    def row(image_id: str) -> dict[str, Any]:
        try:
            data = folder.read(image_id)
        except ImageError:  # an error row of every concept, or there again when it is read
            return {"image_id": image_id, "bytes": None, "sha256": ""}
        return {"image_id": image_id, "bytes": len(data), "sha256": digest_of(data)}

    rows = []
    with ThreadPoolExecutor(READERS) as pool, Progress("images", len(ids), "pictures") as progress:
        for one in pool.map(row, ids):
            rows.append(one)
            progress.add()
    about = {"keys": _keys(config), "pictures": len(listing.pictures)}
    return pa.Table.from_pylist(rows, SCHEMA).replace_schema_metadata({"folder": json.dumps(about)})


def _of_the_folder(config: Config, listing: Listing) -> list[str]:
    return [file.image_id for file in listing.pictures][: config.images.count]


def _of_its_pairs(config: Config, run_dir: RunDir) -> list[str]:
    """The pictures that a run's pairs were begun on when no list was kept; [] where none tell."""
    for name in run_dir.files("pairs"):
        try:
            table = run_dir.read_table(name, ["image_id"])
            about = json.loads(table.schema.metadata[b"about"])
        except (ArtifactError, KeyError, TypeError):
            continue  # damaged: it is made again
        if about["images"] == config.images.count:  # others are of concepts without an adapter
            return sorted({*table["image_id"].to_pylist(), *about["errors"], *about["rejected"]})
    return []


def _sizes(folder: PictureFolder, config: Config) -> dict[str, int]:
    try:
        return folder.sizes()
    except ImageError as error:
        raise StageError(f"images.path={config.images.path}: {error}") from error


def _check(config: Config, table: pa.Table, then: int) -> None:
    """Hold the folder against the list, whose folder held `then` pictures; 0: not known."""
    sizes, rows = _sizes(PictureFolder(config.images.path), config), table.to_pylist()
    gone = [r["image_id"] for r in rows if r["image_id"] not in sizes]
    _lacking(config, gone, "gone", len(rows))
    other = [r["image_id"] for r in rows if r["bytes"] not in (None, sizes[r["image_id"]])]
    _lacking(config, other, "changed", len(rows))
    more = len(listing_of(config).pictures) - then if then else 0
    if more > 0:
        log(f"images: {more} more in {config.images.path} than when this run began: left out")


def _lacking(config: Config, ids: Sequence[str], what: str, count: int) -> None:
    """StageError that names pictures, if there are any."""
    if not ids:
        return
    names = ", ".join(ids[:NAMED]) + (", …" if len(ids) > NAMED else "")
    raise StageError(
        f"images.path={config.images.path}: {len(ids)} of the {count} pictures that this run began"
        f" with {'is' if len(ids) == 1 else 'are'} {what} ({names}): {AGAIN}"
    )
