"""translate: pictures keep name, size and format; bad ones are recorded; it goes on."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modeling.images import ImageError, PictureTree, open_picture
from pipelines import Run
from pipelines.__main__ import main
from pipelines.config.error import ConfigError
from pipelines.config.load import load_config
from pipelines.runtime.run_dir import RunDir
from pipelines.runtime.session import ray_session
from pipelines.verbs.translate import destinations


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    """One local Ray for the commands of this file."""
    with ray_session(load_config(["preset=tiny", "cluster.actors=1"])):
        yield


def noise(seed: int, size: tuple[int, int], channels: int = 3) -> Image.Image:
    shape = (size[1], size[0], channels)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "sub" / "日本").mkdir(parents=True)
    noise(0, (32, 32)).save(folder / "square.png")
    noise(1, (50, 30)).save(folder / "sub" / "wide one.JPG", "JPEG", quality=95)
    noise(2, (30, 50), 4).save(folder / "sub" / "日本" / "clear.webp", lossless=True)
    noise(3, (40, 40)).save(folder / "scan.tif")
    (folder / "broken.png").write_bytes(b"\x89PNG not a picture")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def told(capsys: pytest.CaptureFixture[str], status: int, *words: str) -> Any:
    assert main(["translate", *words, "--json", "cluster.actors=1"]) == status
    return json.loads(capsys.readouterr().out)


def test_pictures_keep_their_names_sizes_and_formats(
    run: RunDir, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [f"run_dir={run.uri}", f"images={pictures}", f"out={out}", "concept=indigo hair"]
    result = told(capsys, 1, *words)
    assert result["pictures"] == 4 and result["there"] == 0
    assert set(result["bad"]) == {"broken.png", "empty.jpg"}
    assert result["left_out"] == {"hidden": 1, ".txt": 1}
    made = {
        p.relative_to(out).as_posix(): Image.open(p)
        for p in out.rglob("*")
        if p.is_file() and p.suffix != ".json"
    }
    assert {k: (v.format, v.size, v.mode) for k, v in made.items()} == {
        "square.png": ("PNG", (32, 32), "RGB"),
        "sub/wide one.JPG": ("JPEG", (50, 30), "RGB"),
        "sub/日本/clear.webp": ("WEBP", (30, 50), "RGBA"),
        "scan.png": ("PNG", (40, 40), "RGB"),
    }
    used = Run(run.uri)
    adapter = used.predict("indigo hair")
    (expected,) = used.translate([np.asarray(Image.open(pictures / "square.png"))], adapter)
    np.testing.assert_array_equal(np.asarray(made["square.png"]), expected)
    before = open_picture((pictures / "sub/日本/clear.webp").read_bytes())
    after = open_picture((out / "sub/日本/clear.webp").read_bytes())
    np.testing.assert_array_equal(after.alpha, before.alpha)

    # the same command does what is left, and tries what was bad again
    (out / "scan.png").unlink()
    noise(4, (20, 20)).save(pictures / "empty.jpg", "JPEG")
    again = told(capsys, 1, *words)
    assert (again["pictures"], again["there"], set(again["bad"])) == (2, 3, {"broken.png"})
    (pictures / "empty.jpg").write_bytes(b"")
    # another strength would mix with what is there
    assert main(["translate", *words, "strength=0.5"]) == 2
    assert "made with other strengths" in capsys.readouterr().err


def test_one_picture_by_a_saved_adapter_at_no_strength_is_itself(
    run: RunDir, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Run(run.uri).predict("sepia").save(tmp_path / "adapter")
    words = [f"run_dir={run.uri}", f"images={pictures / 'square.png'}", f"out={tmp_path / 'out'}"]
    assert told(capsys, 0, *words, f"adapter={folder}", "strength=0")["pictures"] == 1
    np.testing.assert_array_equal(
        np.asarray(Image.open(tmp_path / "out" / "square.png")),
        np.asarray(Image.open(pictures / "square.png")),
    )


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ([], "one of concept=TEXT"),
        (["concept=a", "adapter=b"], "one of concept=TEXT"),
        (["concept=a", "strength=2"], "from 0 to 1.5"),
        (['concepts=[["a", 1]', "strength=1"], "translate: "),
        (['concepts=[["a", "b"]]'], "must be a list such as"),
        (['concepts=[["a", 1.6]]'], "from 0 to 1.5"),
        (["concept=a", "strength=much"], "is no number"),
        (["concept=a", "images=OUT/nowhere"], "does not exist"),
        (["concept=a", "images=OUT"], "holds no image"),
        (["concept=a", "images=nosuch://x"], "images=nosuch://x"),
    ],
)
def test_what_is_refused(
    more: list[str],
    reason: str,
    run: RunDir,
    pictures: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = {"run_dir": run.uri, "images": str(pictures), "out": str(tmp_path / "out")}
    words |= dict(w.replace("OUT", str(tmp_path)).split("=", 1) for w in more)
    assert main(["translate", *(f"{k}={v}" for k, v in words.items())]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_two_pictures_that_would_be_one_file_are_refused() -> None:
    assert destinations("x", ["a.tif", "b.PNG"]) == {"a.tif": "a.png", "b.PNG": "b.PNG"}
    with pytest.raises(ConfigError, match=r"a\.bmp and a\.tif would both become a\.png"):
        destinations("x", ["a.bmp", "a.tif"])


def test_a_tree_on_any_file_system() -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    buffer = io.BytesIO()
    noise(0, (4, 4)).save(buffer, "PNG")
    for name in ("one.png", "below/two.png", "below/._two.png"):
        memory.pipe(f"/tree/{name}", buffer.getvalue())
    tree = PictureTree("memory://tree")
    assert tree.listing() == (["below/two.png", "one.png"], {"hidden": 1})
    assert tree.read("below/two.png") == buffer.getvalue()
    with pytest.raises(ImageError, match="cannot be read"):
        tree.read("three.png")
