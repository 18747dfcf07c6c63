"""Portraits, filters, editors and image files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from modeling import images
from modeling.concepts.grammar.families import FAMILIES
from modeling.concepts.planning import Concept, concept_id
from modeling.editors.avatars import ATTRIBUTES, AvatarError, portrait, render
from modeling.editors.filters import FILTER_KEYS, FILTERS, FilterError, apply_filter
from modeling.editors.interface import EditError, Source
from modeling.editors.registry import REGISTRY, make_editor
from modeling.editors.sources import (
    SOURCES,
    avatar_sources,
    folder_sources,
    load_source,
    source_ids,
)
from modeling.images import ImageError, decode_image, encode_png, list_images


def concept(edit: Mapping[str, str], text: str = "a test") -> Concept:
    return Concept(concept_id(text), text, "art", ("hair",), "train", edit=dict(edit))


def changed(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a != b).any(axis=2)


# --- portraits


def test_portraits_are_deterministic_and_distinct() -> None:
    pictures = [render(portrait(seed), 32) for seed in range(40)]
    again = [render(portrait(seed), 32) for seed in range(40)]
    assert all(np.array_equal(a, b) for a, b in zip(pictures, again, strict=True))
    assert len({p.tobytes() for p in pictures}) == 40
    assert portrait(123).attributes["skin"] == "#d08b5b"  # a seed is for ever


def test_replacing_an_attribute_by_itself_changes_nothing() -> None:
    for seed in range(6):
        person = portrait(seed)
        same = {key: person.attributes[key] for key in ATTRIBUTES}
        assert np.array_equal(render(person, 48), render(person, 48, same))


def test_edits_change_their_own_pixels_only() -> None:
    for seed in range(12):
        person = portrait(seed)
        source = render(person, 64)
        clothes = changed(source, render(person, 64, {"clothes_colour": "lime"}))
        assert clothes.any()
        assert not clothes[:40].any()
        short = {"top": "shortFlat"}
        hair = changed(render(person, 64, short), render(person, 64, {**short, "hair": "indigo"}))
        assert hair.sum() > 60
        assert not hair[32:].any()
        background = changed(source, render(person, 64, {"background": "navy"}))
        skin = changed(source, render(person, 64, {"skin": "teal"}))
        # Only antialiased pixels on the outline of the person belong to both.
        assert (background & skin).sum() < 0.1 * background.sum()


def test_hair_and_beard_are_separate() -> None:
    person = portrait(4)
    bearded = {"beard": "beardMajestic", "top": "shortFlat", "beard_colour": "brown"}
    difference = changed(
        render(person, 64, bearded), render(person, 64, {**bearded, "hair": "indigo"})
    )
    assert difference[:30].any()
    assert not difference[34:].any()


def test_independent_edits_do_not_meet() -> None:
    """Where only one of two edits changes the picture, both together give that one's pixels."""
    person = portrait(7)
    source = render(person, 64)
    a = render(person, 64, {"clothes_colour": "crimson"})
    b = render(person, 64, {"background": "teal"})
    both = render(person, 64, {"clothes_colour": "crimson", "background": "teal"})
    only_a = changed(source, a) & ~changed(source, b)
    only_b = changed(source, b) & ~changed(source, a)
    assert np.array_equal(both[only_a], a[only_a])
    assert np.array_equal(both[only_b], b[only_b])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"nose": "long"}, "unknown attribute 'nose'"),
        ({"top": "pointed"}, "unknown top 'pointed'"),
        ({"hair": "indgo"}, "hair: unknown colour 'indgo'"),
        ({"crown": "shiny"}, "crown: unknown colour"),
        ({"eyes": "none"}, "unknown eyes 'none'"),
        ({"view": "0 0 1 1"}, "unknown attribute 'view'"),
    ],
)
def test_wrong_attributes_are_named(edit: dict[str, str], message: str) -> None:
    with pytest.raises(AvatarError, match=message):
        render(portrait(0), 32, edit)


def test_wrong_portraits() -> None:
    with pytest.raises(AvatarError, match="negative"):
        portrait(-1)
    with pytest.raises(AvatarError, match="at least 8"):
        render(portrait(0), 4)


# --- every atom


def test_every_family_changes_the_picture_visibly() -> None:
    editor = make_editor("avatar")
    sources = list(avatar_sources(3, 32, first_seed=50))
    for family in FAMILIES.values():
        atoms = family.atoms()
        for atom in atoms[:: max(1, len(atoms) // 4)]:
            results = [editor.draw(source, concept(atom.edit)) for source in sources]
            assert all(r.image.shape == (32, 32, 3) for r in results)
            assert max(r.scores["change"] for r in results) > 0.0015, atom.text


def test_every_atom_names_known_values() -> None:
    """All atoms of a few portraits' worth: no unknown variant, colour or parameter."""
    person, picture = portrait(1), render(portrait(1), 16)
    for family in FAMILIES.values():
        atoms = family.atoms()
        # Coloured families differ in a colour only: their colours are checked by its name.
        step = 1 if len(atoms) < 38 else 9
        for atom in atoms[::step]:
            if family.needs_avatar:
                render(person, 16, atom.edit)
            else:
                apply_filter(picture, atom.edit)


def test_concepts_of_one_family_differ() -> None:
    editor = make_editor("avatar")
    source = next(avatar_sources(1, 32, first_seed=3))
    for family in FAMILIES.values():
        if family.needs_avatar and family.name not in ("hair", "hairstyle", "persona", "horns"):
            continue
        pictures = [editor.draw(source, concept(atom.edit)).image for atom in family.atoms()]
        assert len({p.tobytes() for p in pictures}) == len(pictures), family.name


# --- filters


ART = [atom for family in FAMILIES.values() if not family.needs_avatar for atom in family.atoms()]


@settings(max_examples=60, deadline=None)
@given(
    image=arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))),
    atom=st.sampled_from(ART),
)
def test_filters_keep_shape_and_dtype(image: np.ndarray, atom: tuple[str, dict[str, str]]) -> None:
    before = image.copy()
    result = apply_filter(image, atom[1])
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert np.array_equal(image, before)
    assert np.array_equal(result, apply_filter(image, atom[1]))


def test_every_filter_belongs_to_a_family() -> None:
    assert {atom.edit["filter"] for atom in ART} == set(FILTERS)
    assert {key for atom in ART for key in atom.edit} == FILTER_KEYS
    assert not FILTER_KEYS & set(ATTRIBUTES)


def test_filters_by_hand() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey = np.stack([ramp] * 3, axis=2)
    negative = {"filter": "negative", "tone": "colour"}
    assert np.array_equal(apply_filter(grey, negative), 255 - grey)
    assert np.array_equal(apply_filter(apply_filter(grey, negative), negative), grey)
    duotone = apply_filter(grey, {"filter": "duotone", "dark": "navy", "light": "gold"})
    assert tuple(duotone[0, 0]) == (18, 28, 98)
    assert tuple(duotone[-1, -1]) == (222, 178, 46)
    two = apply_filter(grey, {"filter": "posterise", "strength": "extreme"})
    assert set(np.unique(two)) == {0, 255}
    flat = np.full((16, 16, 3), 90, np.uint8)
    for strength in ("slight", "moderate", "strong", "extreme"):
        assert np.array_equal(apply_filter(flat, {"filter": "blur", "strength": strength}), flat)
    assert np.array_equal(apply_filter(flat, {"hair": "red"}), flat)


def test_filters_look_the_same_at_every_resolution() -> None:
    person = portrait(11)
    small, large = render(person, 64), render(person, 128)
    # Oil and aberration round their windows to whole pixels: a looser bound holds for all.
    for family in FAMILIES.values():
        if family.needs_avatar:
            continue
        for atom in family.atoms()[::40]:
            a = apply_filter(small, atom.edit).astype(float)
            b = apply_filter(large, atom.edit).astype(float)
            b = b.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
            assert np.abs(a - b).mean() < 22, atom.text


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"filter": "melt"}, "unknown filter 'melt'"),
        ({"filter": "sketch"}, "lacks the parameter 'colour'"),
        ({"filter": "sketch", "colour": "indgo"}, "unknown colour 'indgo'"),
        ({"filter": "blur", "strength": "utter"}, "strength 'utter' is none of"),
    ],
)
def test_wrong_filters_are_named(edit: dict[str, str], message: str) -> None:
    with pytest.raises(FilterError, match=message):
        apply_filter(np.zeros((8, 8, 3), np.uint8), edit)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
def test_filters_take_colour_pictures_only(shape: tuple[int, ...]) -> None:
    with pytest.raises(FilterError, match="uint8 image"):
        apply_filter(np.zeros(shape, np.uint8), {"filter": "negative", "tone": "colour"})


# --- editors and sources


def test_avatar_editor_applies_attributes_then_the_filter() -> None:
    (source,) = avatar_sources(1, 32, first_seed=9)
    both = {"hair": "indigo", "filter": "negative", "tone": "colour"}
    result = make_editor("avatar").draw(source, concept(both))
    assert np.array_equal(result.image, 255 - render(portrait(9), 32, {"hair": "indigo"}))
    assert result.scores["exactness"] == 1.0


def test_filter_editor_edits_any_picture() -> None:
    editor = make_editor("filter")
    photo = Source("photo", np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    edit = {"filter": "tone", "tone": "noir"}
    assert np.array_equal(editor.draw(photo, concept(edit)).image, apply_filter(photo.image, edit))
    assert editor.supports("sketch")
    assert not editor.supports("hair")
    assert not editor.supports("nonsense")
    with pytest.raises(EditError, match=r"'filter' cannot do .*\['hair'\]"):
        editor.draw(photo, concept({"hair": "red"}))
    with pytest.raises(EditError, match="no drawn portrait"):
        make_editor("avatar").draw(photo, concept(edit))
    with pytest.raises(EditError, match="no exact edit"):
        editor.draw(photo, concept({}))


def test_registry_lists_its_names() -> None:
    assert {make_editor(name).name for name in ("avatar", "filter")} <= set(REGISTRY)
    with pytest.raises(EditError, match="unknown editor 'magic': use one of avatar, filter"):
        make_editor("magic")


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


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="does not exist"):
        list_images(tmp_path / "gone")
    with pytest.raises(ImageError, match="holds no image"):
        list_images(tmp_path)


# --- image files


@settings(max_examples=20, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3))))
def test_png_is_lossless(image: np.ndarray) -> None:
    assert np.array_equal(decode_image(encode_png(image)), image)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000), flip=st.integers(0, 10_000), value=st.integers(1, 255))
def test_damaged_files_raise_image_errors_only(cut: int, flip: int, value: int) -> None:
    data = encode_png(render(portrait(0), 16))
    damaged = bytearray(data)
    damaged[flip % len(data)] ^= value
    for broken in (data[: cut % len(data)], bytes(damaged)):
        with contextlib.suppress(ImageError):
            assert decode_image(broken, 8).shape == (8, 8, 3)
    for end in (0, 10, len(data) // 2):
        with pytest.raises(ImageError):
            decode_image(data[:end])


def test_too_many_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode_png(np.zeros((10, 10, 3), np.uint8))
    monkeypatch.setattr(images, "MAX_PIXELS", 99)
    with pytest.raises(ImageError, match="too large: 10 x 10"):
        decode_image(data)


def test_orientation_crop_transparency_and_depth() -> None:
    picture = Image.new("RGB", (30, 10), "red")
    picture.paste("blue", (20, 0, 30, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn clockwise to look at it
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", exif=exif)
    upright = decode_image(buffer.getvalue())
    assert upright.shape == (30, 10, 3)
    assert tuple(upright[-1, 0]) == (0, 0, 255)
    assert tuple(decode_image(buffer.getvalue(), 4)[2, 2]) == (255, 0, 0)  # the middle is red

    buffer = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(buffer, format="PNG")
    assert (decode_image(buffer.getvalue()) == 255).all()

    buffer = io.BytesIO()
    Image.fromarray(np.full((4, 4), 0x8000, np.uint16)).save(buffer, format="PNG")
    assert (decode_image(buffer.getvalue()) == 0x80).all()


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_only_colour_pictures_are_encoded(image: np.ndarray) -> None:
    with pytest.raises(ImageError, match="uint8 array"):
        encode_png(image)


@pytest.mark.parametrize("seed", [79, 159, 221])
def test_portraits_whose_view_rounds_up_have_the_size_asked_for(seed: int) -> None:
    assert render(portrait(seed), 32).shape == (32, 32, 3)
