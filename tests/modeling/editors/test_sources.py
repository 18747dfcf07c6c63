"""Source pictures by their ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling.editors.interface import EditError, Source
from modeling.editors.sources import SOURCES, folder_sources, load_source, source_ids
from modeling.images import ImageError, list_images


def test_avatar_sources_by_id() -> None:
    ids = source_ids("avatars", 3, first_seed=20)
    assert ids == ["avatar-0000020", "avatar-0000021", "avatar-0000022"]
    for image_id, source in zip(ids, SOURCES["avatars"](3, 24, 20), strict=True):
        loaded = load_source(image_id, "avatars", 24)
        assert loaded.avatar_seed == source.avatar_seed == int(image_id[-2:])
        assert np.array_equal(loaded.image, source.image)
    for wrong in ("avatar-x", "photo.png", "avatar-"):
        with pytest.raises(ImageError, match="no avatar's id"):
            load_source(wrong, "avatars", 24)
    with pytest.raises(ImageError, match="how many"):
        source_ids("avatars")


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        *(((8, 8, n), np.uint8) for n in (1, 2, 4)),
        *((shape, np.uint8) for shape in ((8, 8), (3,), (1, 8, 8, 3), (0, 8, 3), (8, 0, 3))),
        *(((8, 8, 3), dtype) for dtype in (np.float32, np.uint16, np.int8, np.bool_)),
    ],
)
def test_a_source_is_an_rgb_picture(shape: tuple[int, ...], dtype: type) -> None:
    """Four channels would be taken for latents by a diffusion model, without a word."""
    with pytest.raises(EditError, match=r"'x': a source is a uint8 array \[H, W, 3\], not "):
        Source("x", np.zeros(shape, dtype))


def test_folder_sources(tmp_path: Path) -> None:
    for i, name in enumerate(("b.png", "a.jpg", "c.txt")):
        Image.new("RGB", (40, 30), (i * 50, 10, 10)).save(tmp_path / name, format="PNG")
    assert [p.name for p in list_images(tmp_path)] == ["a.jpg", "b.png"] == source_ids(tmp_path)
    assert source_ids(tmp_path, 1) == ["a.jpg"]
    loaded = list(folder_sources(tmp_path, 16))
    assert [s.image.shape for s in loaded] == [(16, 16, 3)] * 2
    assert loaded[0].avatar_seed is None
    with pytest.raises(ImageError, match="3 pictures wanted"):
        source_ids(tmp_path, 3)
    (tmp_path / "b.png").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"b\.png: the image cannot be decoded"):
        load_source("b.png", tmp_path, 16)
    with pytest.raises(ImageError, match="cannot be read"):
        load_source("gone.png", tmp_path, 16)
    with pytest.raises(ImageError, match="no file name"):
        load_source("../a.jpg", tmp_path, 16)
