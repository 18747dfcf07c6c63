"""Picture → picture: what is taken for a picture, and what else a form may not hold."""

from __future__ import annotations

import struct
import warnings
import zlib

import pytest
from fastapi.testclient import TestClient
from PIL import Image

from modeling.images import decode_image
from tests.pipelines.serve.fake import LIMITS, SMALL, encoded


@pytest.mark.parametrize(
    ("image", "status"),
    [
        (encoded(SMALL, "PNG"), 200),
        (encoded(SMALL, "JPEG"), 200),
        (encoded(SMALL, "WEBP"), 200),
        (encoded(SMALL, "GIF"), 415),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 415),
        (b"", 415),
        (encoded(SMALL, "PNG")[:-1000], 422),
        (encoded(SMALL, "PNG")[:60], 422),
        (encoded(Image.new("1", (5000, 5000)), "PNG"), 422),  # 3 kB, 25 million pixels
        (encoded(SMALL, "PNG") + bytes(10_000), 413),
    ],
)
def test_images_by_format_size_and_damage(client: TestClient, image: bytes, status: int) -> None:
    reply = client.post("/v1/translate", files={"image": ("x", image)}, data={"concept": "a"})
    assert reply.status_code == status, reply.text
    if status == 200:
        assert decode_image(reply.content).shape == (40, 40, 3)
    else:
        assert reply.json()["detail"]


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (12_000, 10_000), (60_000, 1_000)])
def test_a_picture_of_too_many_pixels_is_told_so(
    client: TestClient, width: int, height: int
) -> None:
    """By its header, which says so; the rest is that of a small one."""
    image = bytearray(encoded(SMALL, "PNG"))
    image[16:24] = struct.pack(">II", width, height)
    image[29:33] = struct.pack(">I", zlib.crc32(image[12:29]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # none of Pillow's own
        reply = client.post(
            "/v1/translate", files={"image": ("x", bytes(image))}, data={"concept": "a"}
        )
    assert reply.status_code == 422
    (detail,) = reply.json()["detail"]
    assert f"over {LIMITS.max_pixels}" in detail["msg"]


def test_forms_take_no_paths_and_no_unknown_fields(client: TestClient) -> None:
    path = client.post("/v1/translate", data={"concept": "a", "image": "/etc/hostname"})
    image = {"image": ("x", encoded(SMALL, "PNG"))}
    extra = client.post("/v1/translate", data={"concept": "a", "surprise": "1"}, files=image)
    assert (path.status_code, extra.status_code) == (422, 422)
