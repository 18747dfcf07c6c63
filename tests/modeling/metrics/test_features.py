from __future__ import annotations

import hashlib
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import modeling.metrics.features
from modeling.metrics.distances import frechet_distance_from_features, kid
from modeling.metrics.features import (
    INCEPTION_FILE,
    EfficientNetLite0,
    FeatureError,
    Inception,
    find_inception,
    make_features,
)
from tests.driver import ROOT
from tests.rounding import in_its_precision
from tests.tiny_clip import save_clip

AS_FLOAT32 = {"rtol": 1e-6, "atol": 1e-6}
"""What a float64 network makes, rounded once: 8 roundings."""


def images(n: int, size: int, seed: int) -> np.ndarray:
    """Smooth random colour fields: uint8 [n, size, size, 3]."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3)).astype(np.float32)
    tensor = torch.from_numpy(coarse).permute(0, 3, 1, 2)
    smooth = torch.nn.functional.interpolate(tensor, size=size, mode="bilinear")
    return smooth.permute(0, 2, 3, 1).numpy().astype(np.uint8)


@pytest.fixture(scope="module")
def efficientnet() -> EfficientNetLite0:
    return EfficientNetLite0(input_size=64, batch_size=4)


@pytest.fixture(scope="module")
def exact() -> EfficientNetLite0:
    """In float64, in which batched and single differ by the rounding of the result alone."""
    extractor = EfficientNetLite0(input_size=64, batch_size=4)
    extractor._network.double()
    in_its_precision(extractor._network._conv_stem)
    return extractor


def test_features_do_not_depend_on_the_batch(
    efficientnet: EfficientNetLite0, exact: EfficientNetLite0
) -> None:
    batch = images(9, 48, seed=0)
    features = efficientnet(batch)
    assert features.shape == (9, efficientnet.dim) and features.dtype == np.float32
    assert np.isfinite(features).all() and (features >= 0).all()  # ReLU6, pooled
    assert features.std(0).max() > 0.05
    alone = np.concatenate([exact(batch[i : i + 1]) for i in range(9)])
    np.testing.assert_allclose(exact(batch), alone, **AS_FLOAT32)
    np.testing.assert_array_equal(features, efficientnet(batch))


def test_the_features_are_what_the_classifier_reads(exact: EfficientNetLite0) -> None:
    """The package's own forward pass ends in a linear layer over exactly these features."""
    network = exact._network
    batch = images(3, 64, seed=1)  # already at the input size: the resize is the identity
    tensor = (torch.from_numpy(batch).permute(0, 3, 1, 2).float() - 127.0) / 128.0
    with torch.inference_mode():
        logits = network(tensor)
        ours = network._fc(torch.from_numpy(exact(batch)).double())
    # the features are float32: 1280 roundings, weighted
    torch.testing.assert_close(ours, logits, atol=1e-5, rtol=1e-5)


def test_resize_is_clean_fids() -> None:
    from cleanfid.resize import build_resizer

    class Flat(EfficientNetLite0):
        def _embed(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    image = images(1, 40, seed=2)
    resized = Flat(input_size=299)(image).reshape(3, 299, 299).transpose(1, 2, 0)
    np.testing.assert_array_equal(resized, build_resizer("clean")(image[0]))


def test_distances_order_a_small_and_a_large_change(efficientnet: EfficientNetLite0) -> None:
    batch = images(40, 48, seed=3)
    small, large = (np.clip(batch.astype(int) + s, 0, 255).astype(np.uint8) for s in (8, 90))
    x, near, far = (efficientnet(b) for b in (batch, small, large))
    for distance in (kid, lambda a, b: frechet_distance_from_features(a, b, min_count=2)):
        assert distance(x, x) < distance(x, near) < distance(x, far)


def test_names_say_what_was_measured(efficientnet: EfficientNetLite0) -> None:
    assert efficientnet.name == "FD-EfficientNet"
    assert "64x64" in efficientnet.description and "1280" in efficientnet.description
    assert isinstance(make_features("efficientnet-lite0", input_size=96), EfficientNetLite0)
    with pytest.raises(FeatureError, match="efficientnet-lite0, inception"):
        make_features("vgg")


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((2, 3, 8, 8), np.uint8),
        np.zeros((0, 8, 8, 3), np.uint8),
    ],
)
def test_bad_images_are_refused(efficientnet: EfficientNetLite0, bad: np.ndarray) -> None:
    with pytest.raises(FeatureError):
        efficientnet(bad)


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(FeatureError, match="32"):
        EfficientNetLite0(input_size=16)
    with pytest.raises(FeatureError, match="batch_size"):
        EfficientNetLite0(batch_size=0)


class Layers(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)).repeat(1, 683)[:, :2048]


class TinyInception(torch.nn.Module):
    """Has the `layers` attribute that clean-fid's wrapper calls."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.fixture
def inception_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / INCEPTION_FILE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(TinyInception()), str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setattr(modeling.metrics.features, "INCEPTION_SHA256", digest)
    return path


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_inception_is_called_as_clean_fid_calls_it(inception_file: Path) -> None:
    extractor = make_features("inception", cache_folder=inception_file.parent, batch_size=2)
    assert (extractor.name, extractor.dim, extractor.input_size) == ("FID", 2048, 299)
    grey = np.full((3, 20, 20, 3), 192, np.uint8)
    # a resize of values below 256, in float32
    np.testing.assert_allclose(extractor(grey), np.full((3, 2048), 0.5), rtol=0, atol=1e-6)
    assert isinstance(make_features("inception", weights=inception_file), Inception)


def test_missing_inception_names_the_file_and_the_remedies(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match=r"inception-2015-12-05\.pt.*allow_download=true"):
        make_features("inception", cache_folder=tmp_path)
    with pytest.raises(FeatureError, match="efficientnet-lite0"):
        find_inception(weights=tmp_path / INCEPTION_FILE, allow_download=True)
    with pytest.raises(FeatureError, match="only a file named"):
        find_inception(weights=tmp_path / "other.pt")


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"))


def test_clip_features_by_hand(clip_folder: Path) -> None:
    from transformers import CLIPModel

    clip = make_features("clip", model=str(clip_folder), batch_size=2)
    clip._network.double()
    assert (clip.name, clip.dim, clip.input_size) == ("FD-CLIP", 16, 32)
    assert clip.description == "CLIP (clip), 16 projected features, clean-fid resize to 32x32"
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3), np.uint8)
    from cleanfid.resize import make_resizer

    resize = make_resizer("PIL", False, "bicubic", (32, 32))
    pixels = torch.from_numpy(np.stack([resize(i) for i in images])).permute(0, 3, 1, 2) / 255
    # the constants of CLIP's own preprocessing
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    with torch.no_grad():
        model = CLIPModel.from_pretrained(clip_folder).double()
        out = model.get_image_features((pixels - mean) / deviation).pooler_output
    np.testing.assert_allclose(clip(images), out.numpy(), **AS_FLOAT32)


def test_a_missing_clip_is_named(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match=r"features_path=FOLDER.*allow_download=true"):
        make_features("clip", model=str(tmp_path))


def test_a_wrong_or_half_inception_is_never_opened(inception_file: Path) -> None:
    inception_file.write_bytes(inception_file.read_bytes()[:-10])
    with pytest.raises(FeatureError, match="SHA-256"):
        find_inception(inception_file)


def test_a_bad_download_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(folder: str) -> str:
        path = Path(folder, INCEPTION_FILE)
        path.write_bytes(b"half")
        return str(path)

    monkeypatch.setattr("cleanfid.downloads_helper.check_download_inception", half)
    with pytest.raises(FeatureError, match="SHA-256"):
        find_inception(cache_folder=tmp_path, allow_download=True)
    assert list(tmp_path.iterdir()) == []
    digest = hashlib.sha256(b"half").hexdigest()
    monkeypatch.setattr(modeling.metrics.features, "INCEPTION_SHA256", digest)
    path = find_inception(cache_folder=tmp_path, allow_download=True)
    assert path.read_bytes() == b"half" and list(tmp_path.iterdir()) == [path]


def test_importing_the_modules_is_light() -> None:
    code = (
        "import sys, modeling.metrics.features, modeling.metrics.distances;"
        "assert not {'torch', 'cleanfid', 'scipy', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
