"""Which files of a folder are pictures, and what is said of the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from modeling.images import ImageError, PictureFolder, decode_image, encode_png, list_images
from modeling.images.folder import in_words
from tests.modeling.images.test_colours import encoded


def png() -> bytes:
    from PIL import Image

    return encoded(Image.new("RGB", (4, 4), "red"))


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        list_images(tmp_path / "gone")
    with pytest.raises(ImageError, match="holds no image"):
        list_images(tmp_path)
    (tmp_path / "file.png").write_bytes(png())
    with pytest.raises(ImageError, match="is no folder"):
        list_images(tmp_path / "file.png")
    (tmp_path / "file.png").rename(tmp_path / "a.heic")
    with pytest.raises(ImageError, match=r"holds no image .*; there are: 1 \.heic"):
        list_images(tmp_path)


def file(name: str | bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        Path(os.fsdecode(os.path.join(os.fsencode(folder), os.fsencode(name)))).write_bytes(png())

    return make


def link(name: str, to: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).symlink_to(folder / to)


@pytest.mark.parametrize(
    ("make", "taken", "left_out"),
    [
        (file("._a.jpg"), [], {"hidden": 1}),
        (file(".DS_Store"), [], {"hidden": 1}),
        *((file(f"b{s}"), [f"b{s}"], {}) for s in (".JPG", ".jfif", ".jpe", ".webp", ".TIFF")),
        *((file(f"b{s}"), [], {s: 1}) for s in (".heic", ".gif", ".txt", ".mp4")),
        (file("b.HEIC"), [], {".heic": 1}),
        (file("Makefile"), [], {"file without a suffix": 1}),
        (lambda folder: (folder / "c.png").mkdir(), [], {"sub-folder": 1}),
        (link("c.png", "gone"), [], {"link to nowhere": 1}),
        (link("c.png", "c.png"), [], {"link to nowhere": 1}),
        (link("c.png", "a.png"), ["c.png"], {}),
        (lambda folder: os.mkfifo(folder / "c.png"), [], {"no ordinary file": 1}),
        (file(b"caf\xe9.png"), [r"caf\xe9.png"], {}),
        (file("café #1 [x]?.png"), ["café #1 [x]?.png"], {}),
        (file(r"caf\xe9.png"), [r"caf\xe9.png"], {}),
    ],
)
def test_what_is_taken(
    tmp_path: Path,
    make: Callable[[Path], None],
    taken: list[str],
    left_out: dict[str, int],
) -> None:
    file("a.png")(tmp_path)
    make(tmp_path)
    folder = PictureFolder(tmp_path)
    pictures, others = folder.listing()
    assert [p.image_id for p in pictures] == ["a.png", *taken] and others == left_out
    for picture in pictures:
        data = folder.read(picture.image_id)
        assert len(data) == picture.size and decode_image(data).shape == (4, 4, 3)
        picture.image_id.encode()


def test_two_names_that_would_be_one_id(tmp_path: Path) -> None:
    for name in (b"caf\xe9.png", rb"caf\xe9.png"):
        file(name)(tmp_path)
    pictures, others = PictureFolder(tmp_path).listing()
    assert len(pictures) == 1 and others == {"name taken twice": 1}


def test_avif_is_taken_where_pillow_reads_it(tmp_path: Path) -> None:
    from PIL import Image, features

    if not features.check("avif"):
        pytest.skip("this Pillow is built without AVIF")
    (tmp_path / "a.avif").write_bytes(encoded(Image.new("RGB", (8, 8), "red"), "AVIF"))
    folder = PictureFolder(tmp_path)
    assert decode_image(folder.read(folder.listing().pictures[0].image_id)).shape == (8, 8, 3)


def test_a_folder_of_a_store() -> None:
    store = fsspec.filesystem("memory")
    for name in ("b.png", "a.jpg", "._a.jpg", "deeper/c.png", "d.heic"):
        store.pipe_file(f"/photos-of-a-test/{name}", encode_png(decode_image(png())))
    folder = PictureFolder("memory://photos-of-a-test")
    pictures, others = folder.listing()
    assert [p.image_id for p in pictures] == ["a.jpg", "b.png"]
    assert others == {"hidden": 1, "sub-folder": 1, ".heic": 1}
    assert len(folder.read("a.jpg")) == pictures[0].size
    with pytest.raises(ImageError, match="cannot be read"):
        folder.read("gone.png")
    for wrong, said in (("memory://gone", "does not exist"), ("nothing://x", "nothing")):
        with pytest.raises(ImageError, match=said):
            PictureFolder(wrong).listing()


def test_counts_in_words() -> None:
    assert in_words({".heic": 3, "hidden": 20, ".gif": 3}) == "20 hidden, 3 .gif, 3 .heic"
    assert in_words({f".{i}": 1 for i in range(10)}).endswith(", 2 others")
