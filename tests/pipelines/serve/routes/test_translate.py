"""Picture → picture: what is taken for a picture, and what else a form may not hold."""

from __future__ import annotations

import struct
import warnings
import zlib

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from modeling.images import decode_image, open_picture
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


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"concepts": '[["a", 1], ["b", 0.5]]'}, 200),
        ({"concepts": '[["a", 1.5]]', "strength": "1"}, 200),
        ({"concepts": '[["a", 1.5]]', "strength": "1.5"}, 422),
        ({"concepts": '[["a", 1]]', "concept": "a"}, 422),
        ({"concepts": "[]"}, 422),
        ({"concepts": '[["a", 1]'}, 422),
        ({"concepts": '[["a"]]'}, 422),
        ({"concepts": '[["a", true]]'}, 422),
        ({"concepts": '[["a", NaN]]'}, 422),
        ({"concepts": '[[" ", 1]]'}, 422),
        ({"concepts": f'[["{"a" * 21}", 1]]'}, 422),
        ({"concepts": "[" * 60}, 422),
        ({"concept": "a", "strength": "-1"}, 422),
        ({"concept": "a", "strength": "nan"}, 422),
        ({}, 422),
    ],
)
def test_mixes_and_strengths(client: TestClient, fields: dict[str, str], status: int) -> None:
    image = {"image": ("x", encoded(SMALL, "PNG"))}
    reply = client.post("/v1/translate", data=fields, files=image)
    assert reply.status_code == status, reply.text
    if status == 200:
        count = fields["concepts"].count('"') // 2
        assert len(reply.headers["x-adapter-id"].split(", ")) == count


def test_a_picture_keeps_its_size_transparency_and_the_format_asked_for(client: TestClient) -> None:
    clear = SMALL.resize((50, 20)).convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize((50, 20)))
    for format, kind in ((None, "PNG"), ("webp", "WEBP"), ("jpeg", "JPEG")):
        reply = client.post(
            "/v1/translate",
            params={"format": format} if format else {},
            data={"concept": "a"},
            files={"image": ("x", encoded(clear, "PNG"))},
        )
        opened = open_picture(reply.content)
        assert opened.kind == kind and opened.colours.shape == (20, 50, 3)
        if format != "jpeg":  # the fake edits nothing
            np.testing.assert_array_equal(opened.alpha, np.asarray(clear.getchannel("A")))
            np.testing.assert_array_equal(opened.colours, np.asarray(clear.convert("RGB")))
