"""What filters are made of: a picture, float32 [H, W, 3] in [0, 1], mixed, blurred, outlined."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter


def luminance(x: np.ndarray) -> np.ndarray:
    """Rec. 601 luma, [H, W, 1]."""
    return x @ np.asarray([[0.299], [0.587], [0.114]], np.float32)


def shorter_side(x: np.ndarray) -> int:
    """In pixels."""
    return min(x.shape[0], x.shape[1])


def mix(a: np.ndarray, b: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    """a where share is 0, b where it is 1; broadcasts a colour [3] over a picture."""
    return a + (b - a) * share


def ramp(colours: list[np.ndarray], value: np.ndarray) -> np.ndarray:
    """Map value [H, W, 1] in [0, 1] along evenly spaced colours."""
    stops = np.linspace(0, 1, len(colours))
    channels = [np.interp(value[..., 0], stops, [c[i] for c in colours]) for i in range(3)]
    return np.stack(channels, axis=-1)


def filtered(x: np.ndarray, image_filter: ImageFilter.Filter) -> np.ndarray:
    """A filter of Pillow, through uint8."""
    picture = Image.fromarray(np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8))
    return np.asarray(picture.filter(image_filter), np.float32) / 255


def blurred(x: np.ndarray, fraction: float) -> np.ndarray:
    """Gaussian blur; sigma is a fraction of the shorter side. [H, W, 1] or [H, W, 3]."""
    sigma = fraction * shorter_side(x)
    reach = max(1, round(3 * sigma))
    offsets = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (offsets / max(sigma, 1e-3)) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(3)]
        padded = np.pad(x, pad, mode="edge")
        length = x.shape[axis]
        x = np.zeros_like(x)
        for weight, start in zip(weights, range(2 * reach + 1), strict=True):
            x += np.float32(weight) * padded.take(range(start, start + length), axis=axis)
    return x


def colour_edges(x: np.ndarray) -> np.ndarray:
    """Strength of colour edges in [0, 1], [H, W, 1]; the gradient is per picture side."""
    side = shorter_side(x)
    smooth = blurred(x, 0.008)
    rows = np.diff(smooth, axis=0, append=smooth[-1:])
    columns = np.diff(smooth, axis=1, append=smooth[:, -1:])
    slope = np.sqrt((rows**2 + columns**2).max(axis=2, keepdims=True)) * side
    return np.clip((slope - 1.5) / 6, 0, 1)


def grid(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each pixel's centre as fractions of the shorter side, [H, W, 1]."""
    rows, columns = np.mgrid[: x.shape[0], : x.shape[1]].astype(np.float32) + 0.5
    return rows[..., None] / shorter_side(x), columns[..., None] / shorter_side(x)


def odd_window(x: np.ndarray, fraction: float) -> int:
    """A window of about `fraction` of the shorter side: odd, 3 or more, within the picture."""
    return max(3, 2 * round(fraction * shorter_side(x) / 2) + 1)
