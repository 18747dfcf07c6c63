"""`sheet TEXT … run_dir=RUN images=DIR out=FILE`: texts × pictures in one PNG."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from modeling.images import ImageError, list_images, open_picture
from pipelines.config.error import ConfigError
from pipelines.runtime.log import log
from pipelines.use.run import Run
from pipelines.verbs.texts import texts_of, whole_number

CELL, GAP, LABEL = 192, 8, 22
"""Pixels: a picture's longest side, between pictures, for a line of words."""
PAPER, INK = "#ffffff", "#1e293b"


def run(given: Mapping[str, str], free: Sequence[str], flags: Collection[str]) -> int:
    texts = texts_of("sheet", given, free)
    most = whole_number("sheet", given, "most", 6, 1)
    out = Path(given["out"]).expanduser()
    if out.suffix.lower() != ".png":
        raise ConfigError(f"sheet: out={out}: a sheet is a PNG: give a name that ends in .png")
    where = Path(given["images"]).expanduser()
    try:
        files = [where] if where.is_file() else list_images(where)[:most]
        pictures = [open_picture(file.read_bytes()).seen for file in files]
    except (ImageError, OSError) as error:
        raise ConfigError(f"sheet: images={where}: {error}") from error
    used = Run(given["run_dir"])
    rows = [("source", pictures)]
    for text in texts:
        rows.append((text, used.translate(pictures, used.predict(text))))
        log(f"sheet: {text}")
    out.parent.mkdir(parents=True, exist_ok=True)
    drawn(rows).save(out)
    log(f"sheet: {out}")
    if "--json" in flags:
        told = {"sheet": str(out), "texts": texts, "pictures": [str(file) for file in files]}
        print(json.dumps(told, indent=2, ensure_ascii=False))
    return 0


def drawn(rows: Sequence[tuple[str, Sequence[np.ndarray]]]) -> Image.Image:
    """A row of pictures for each, its words above it."""
    columns = max(len(pictures) for _, pictures in rows)
    width = GAP + columns * (CELL + GAP)
    sheet = Image.new("RGB", (width, GAP + len(rows) * (LABEL + CELL + GAP)), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, (words, pictures) in enumerate(rows):
        top = GAP + i * (LABEL + CELL + GAP)
        pen.text((GAP, top), words, fill=INK, font=font)
        for j, picture in enumerate(pictures):
            cell = _cell(Image.fromarray(picture))
            left = GAP + j * (CELL + GAP)
            place = (left + (CELL - cell.width) // 2, top + LABEL + (CELL - cell.height) // 2)
            sheet.paste(cell, place)
    return sheet


def _cell(picture: Image.Image) -> Image.Image:
    """Enlarged by a whole number, so that pixels stay sharp, or shrunk."""
    factor = CELL // max(picture.size)
    if not factor:
        return ImageOps.contain(picture, (CELL, CELL), Image.Resampling.LANCZOS)
    width, height = picture.size
    return picture.resize((width * factor, height * factor), Image.Resampling.NEAREST)
