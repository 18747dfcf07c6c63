"""`translate images=… out=… run_dir=RUN concept=…`: any number of pictures through one adapter.

By a pool of actors (Ray Data), here or on a cluster. A picture keeps its name, folder, size and
transparency, and its format if that is PNG, JPEG or WebP; others become PNG. What is there already
is left: the same command goes on. `translate.json` in `out` says what was done, and which pictures
could not be read, with the reason.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from modeling.images import ImageError, PictureTree, encode_like, open_picture
from modeling.images.folder import in_words
from modeling.targets.lora import WEIGHTS_FILE
from pipelines.config import tree as config_tree
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.config.schema import Config
from pipelines.runtime.actors import map_actors
from pipelines.runtime.foreign_output import foreign_output_to_file
from pipelines.runtime.log import Progress, log
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session, threads_per_actor
from pipelines.use.parts import Loaded, TranslatorPart
from pipelines.use.run import Adapter, Run
from pipelines.use.saved_run import saved_config
from pipelines.use.strength import StrengthError, checked, mix_of

DONE = "translate.json"
WAYS = ("concept", "adapter", "concepts")
TOGETHER = 16
"""Pictures that an actor takes at a time."""
KEPT = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG"}
"""Suffix of a name that is kept → the format that is written."""


def run(given: Mapping[str, str], free: Sequence[str], flags: Collection[str]) -> int:
    """1 if a picture could not be edited, 0 otherwise; ConfigError before anything is started."""
    asked = _asked(given)
    own = ("run_dir", "images", "out", *WAYS, "strength")
    rest = [f"{k}={v}" for k, v in given.items() if k not in own]
    told = load_config([f"run_dir={given['run_dir']}", *rest])
    out = RunDir(given["out"], "out")
    try:
        source = PictureTree(_home(given["images"]))
        names, left_out = source.listing()
    except ImageError as error:
        raise ConfigError(f"translate: {error}") from error
    places = destinations(source.where, names)
    used = Run(told.run_dir)
    config = saved_config(RunDir(told.run_dir), told, "translate")
    mix = [
        (used.load(what) if "adapter" in given else used.predict(what), part)
        for what, part in asked
    ]
    about = _about(mix)
    _check_out(out, about)
    there = set(out.files(""))
    todo = [name for name in names if places[name] not in there]
    if left_out:
        log(f"translate: left out: {in_words(left_out)}")
    begun = time.monotonic()
    with foreign_output_to_file(), ray_session(config):
        made_by = [(adapter.loaded, part) for adapter, part in mix]
        bad = _through(config, used.uri, source, out, made_by, places, todo)
    seconds = time.monotonic() - begun
    done = len(todo) - len(bad)
    rate = done / seconds if done else 0.0
    out.write_json(DONE, {**about, "bad": bad, "left_out": left_out})
    log(
        f"translate: {done} pictures, {rate:.1f}/s, {len(names) - len(todo)} were there,"
        f" {len(bad)} could not be edited{': ' + out.url(DONE) if bad else ''}"
    )
    if "--json" in flags:
        told_of = {**about, "out": out.uri, "pictures": done, "a_second": round(rate, 2)}
        told_of |= {"there": len(names) - len(todo), "bad": bad, "left_out": left_out}
        print(json.dumps(told_of, indent=2, ensure_ascii=False))
    return 1 if bad else 0


def _through(
    config: Config,
    run: str,
    source: PictureTree,
    out: RunDir,
    made_by: Sequence[tuple[Loaded, float]],
    places: Mapping[str, str],
    todo: Sequence[str],
) -> dict[str, str]:
    """Pictures that could not be edited, and why."""
    bad: dict[str, str] = {}
    progress = Progress("translate", len(places), "pictures", len(places) - len(todo))
    arguments = {
        "config": config_tree.to_dict(config),
        "run_dir": RunDir(run),
        "source": source,
        "out": out,
        "made_by": made_by,
    }
    rows = [{"name": name, "to": places[name]} for name in todo]
    for row in map_actors(config, TranslatePictures, arguments, rows, batch=TOGETHER):
        if row["error"]:
            bad[str(row["name"]) or source.where] = str(row["error"])
        elif row["note"]:
            log(f"translate: {row['name'] or source.where}: {row['note']}")
        progress.add()
    return dict(sorted(bad.items()))


class TranslatePictures:
    """Ray Data actor: reads pictures, edits them, writes them."""

    def __init__(
        self,
        config: dict[str, Any],
        run_dir: RunDir,
        source: PictureTree,
        out: RunDir,
        made_by: Sequence[tuple[Loaded, float]],
    ) -> None:
        import torch

        tree = config_tree.from_dict(config)
        torch.set_num_threads(threads_per_actor(tree))
        self.source, self.out = source, out
        self.part = TranslatorPart(tree, run_dir, "cuda" if torch.cuda.is_available() else "cpu")
        self.mix = [self.part.merge(one)._replace(strength=part) for one, part in made_by]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        out: dict[str, list[str]] = {"name": [], "error": [], "note": []}
        opened = []
        for name, to in zip(batch["name"], batch["to"], strict=True):
            try:
                one = open_picture(self.source.read(str(name)))
                kind = KEPT[PurePosixPath(to).suffix.lower()]
                opened.append((str(name), str(to), replace(one, kind=kind)))
            except ImageError as error:
                _add(out, str(name), error=str(error))
        made = self.part.translate([(one.seen, self.mix) for _, _, one in opened])
        for (name, to, one), edited in zip(opened, made, strict=True):
            self.out.write(to, encode_like(one, edited)[0])
            _add(out, name, note=one.note)
        return out


def _add(out: dict[str, list[str]], name: str, error: str = "", note: str = "") -> None:
    for key, value in (("name", name), ("error", error), ("note", note)):
        out[key].append(value)


def destinations(where: str, names: Sequence[str]) -> dict[str, str]:
    """Where each picture goes below `out`; ConfigError where two would be one file."""
    out: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        path = PurePosixPath(name or where.replace("\\", "/").rpartition("/")[2])
        suffix = path.suffix.lower()
        to = path if suffix in KEPT else path.with_suffix(".png")
        if str(to) in taken:
            raise ConfigError(
                f"translate: {taken[str(to)]} and {name} would both become {to}: rename one"
            )
        taken[str(to)] = name
        out[name] = str(to)
    return out


def _asked(given: Mapping[str, str]) -> list[tuple[str, float]]:
    """Texts, or an adapter's place, and the strength of each; ConfigError."""
    ways = [way for way in WAYS if given.get(way)]
    if len(ways) != 1:
        raise ConfigError("translate: give one of concept=TEXT, adapter=FOLDER, concepts=JSON")
    try:
        whole = checked(float(given.get("strength", "1")))
    except StrengthError as error:
        raise ConfigError(f"translate: {error}") from error
    except ValueError as error:
        raise ConfigError(f"translate: strength={given['strength']}: is no number") from error
    if ways != ["concepts"]:
        return [(given[ways[0]], whole)]
    try:
        return [
            (text, checked(part * whole)) for text, part in mix_of(json.loads(given["concepts"]))
        ]
    except ValueError as error:  # StrengthError and JSON's own
        raise ConfigError(f"translate: {error}") from error


def _home(where: str) -> str:
    from os.path import expanduser

    return where if "://" in where else expanduser(where)


def _about(mix: Sequence[tuple[Adapter, float]]) -> dict[str, Any]:
    return {
        "texts": [adapter.text for adapter, _ in mix],
        "adapters": [
            hashlib.sha256(adapter.files()[WEIGHTS_FILE]).hexdigest() for adapter, _ in mix
        ],
        "strengths": [strength for _, strength in mix],
    }


def _check_out(out: RunDir, about: Mapping[str, Any]) -> None:
    """ConfigError if `out` holds what another adapter or strength has made."""
    if not out.exists(DONE):
        out.write_json(DONE, {**about, "bad": {}, "left_out": {}})
        return
    before = out.read_json(DONE)
    for key, value in about.items():
        if before.get(key) != value:
            raise ConfigError(
                f"translate: {out.uri} holds pictures made with other {key}"
                f" ({before.get(key)}, now {value}): give another out"
            )
