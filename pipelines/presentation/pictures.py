"""A grid of pictures as one PNG for a README."""

from __future__ import annotations

import io
from collections.abc import Sequence

from modeling.images import decode_image
from pipelines.presentation.scores import Numbers, When
from pipelines.stages.contenders import IDENTITY, PREDICTION

SOURCE, TRUTH = "source", "ground truth"


def draw_png(rows: Sequence[Numbers], columns: Sequence[tuple[str, str, str, When]]) -> bytes:
    """The PNG; rows as of `report.pictures.grids`.

    columns: title, note, method, end of the fine-tune.
    """
    from PIL import Image, ImageDraw, ImageFont

    ink, faint, accent, good = "#0f172a", "#64748b", "#4338ca", "#15803d"
    small, bold = ImageFont.load_default(13), ImageFont.load_default(14)
    width = next((decode_image(d).shape[1] for row in rows for d in row[TRUTH].values()), 96)
    side = -(-96 // width) * width if width < 96 else 96  # whole multiples stay crisp
    gap, head, label, foot = 10, 44, 24, 22
    width = gap + len(columns) * (side + gap)
    height = head + max(len(rows), 1) * (label + side + foot)
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    for i, (title, note, method, _) in enumerate(columns):
        x = gap + i * (side + gap) + side // 2
        colour = accent if method == PREDICTION else ink
        pen.text((x, 8), title, colour, bold, anchor="ma")
        pen.text((x, 25), note, faint, small, anchor="ma")
    for j, row in enumerate(rows):
        y = head + j * (label + side + foot)
        pen.text((gap, y + 3), f"“{row['concept'].text}”", ink, bold)
        y += label
        for i, (_, _, method, when) in enumerate(columns):
            x = gap + i * (side + gap)
            cell = row["cells"].get(method, {}).get(when)
            if method in (SOURCE, TRUTH):
                images, score = row[method], ""
            elif method == IDENTITY:
                images, score = row[SOURCE], f"L1 {cell['l1']:.3f}" if cell else ""
            else:
                images = cell["images"] if cell else {}
                score = f"L1 {cell['l1']:.3f}" if cell else "not scored"
            if images:
                picture = Image.fromarray(decode_image(next(iter(images.values()))))
                grows = picture.width < side
                how = Image.Resampling.NEAREST if grows else Image.Resampling.LANCZOS
                canvas.paste(picture.resize((side, side), how), (x, y))
            best = bool(cell and cell["best"] and when == "before")
            if best:
                pen.rectangle((x - 3, y - 3, x + side + 2, y + side + 2), outline=good, width=2)
            pen.text(
                (x + side // 2, y + side + 5), score, good if best else faint, small, anchor="ma"
            )
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
