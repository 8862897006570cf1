"""Photographs that a camera took sideways, against PIL."""

import numpy as np
import pytest
from mini_imagenet_tree import picture
from PIL import Image, ImageOps

import keras_reptile as kr
from keras_reptile.data import image_files, orientation, resizing

_ORIENTATION = 0x0112


def photograph(path, number, endian="<", kind="JPEG"):
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F] = "Maker"  # Which comes before it.
    exif[_ORIENTATION] = number
    image = Image.fromarray(picture(np.random.default_rng(0), 40, 56))
    image.save(path, kind, exif=exif)
    return path


def as_pil(path, extent=12):
    with Image.open(path) as image:
        turned = ImageOps.exif_transpose(image)
    nearest = Image.Resampling.NEAREST
    return np.asarray(turned.resize((extent, extent), nearest))


@pytest.mark.parametrize("endian", "<>")
def test_all_orientations_are_pils(tmp_path, endian):
    seen = set()
    for number in range(10):  # 0 and 9 mean nothing.
        path = photograph(tmp_path / f"{number}.jpg", number, endian)
        image, problem = image_files.decode(path, "nearest", 12, turn=True)
        assert problem is None
        np.testing.assert_array_equal(image, as_pil(path), err_msg=str(number))
        seen.add(image.tobytes())
    assert len(seen) == 8


def test_folders_are_turned_and_what_was_kept_before_is_not_taken(
    tmp_path, monkeypatch
):
    folder = tmp_path / "parts" / "bolt"
    folder.mkdir(parents=True)
    path = photograph(folder / "a.jpg", 6)
    arguments = ("nearest", 12, "folder", tmp_path / "cache")
    as_stored, _ = image_files.decode_once(folder.parent, [path], *arguments)
    for _ in range(2):  # Decoded, and as it was kept.
        classes = kr.data.from_folder(
            folder.parent, 12, resize="nearest", cache_dir=tmp_path / "cache"
        )
        np.testing.assert_array_equal(classes.x[0], as_pil(path))
        monkeypatch.setattr(image_files, "decode_all", None)
    assert (classes.x != as_stored).any()


def test_a_turned_photograph_is_resized_by_bicubic_too(tmp_path):
    path = photograph(tmp_path / "a.jpg", 6)
    received, _ = image_files.decode(path, "bicubic", 12, turn=True)
    with Image.open(path) as image:
        turned = np.ascontiguousarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(received, resizing.bicubic(turned, 12))


def test_it_is_not_turned_where_nobody_asks(tmp_path):
    """As mini-ImageNet's, which are those of the original."""
    path = photograph(tmp_path / "a.jpg", 6)
    received, _ = image_files.decode(path, "nearest", 12)
    with Image.open(path) as image:
        stored = image.resize((12, 12), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(received, stored)


@pytest.mark.parametrize("endian", "<>")
def test_it_may_be_a_long_integer(tmp_path, endian):
    path = photograph(tmp_path / "a.jpg", 6, endian)
    order = "little" if endian == "<" else "big"
    short, long = (
        b"".join(
            [number.to_bytes(2, order) for number in (_ORIENTATION, kind)]
            + [(1).to_bytes(4, order), value]
        )
        for kind, value in (
            (3, (6).to_bytes(2, order) + bytes(2)),
            (4, (6).to_bytes(4, order)),
        )
    )
    content = path.read_bytes()
    assert short in content
    image = picture(np.random.default_rng(0), 4, 6)
    turned = orientation.upright(image, content.replace(short, long))
    np.testing.assert_array_equal(turned, np.rot90(image, -1))


def test_what_cannot_be_read_is_upright(tmp_path):
    image = picture(np.random.default_rng(0), 4, 6)
    whole = photograph(tmp_path / "a.jpg", 6).read_bytes()
    assert orientation.upright(image, whole).shape == (6, 4, 3)
    # Any number of these may come before a marker.
    filled = whole[:2] + b"\xff\xff" + whole[2:]
    assert orientation.upright(image, filled).shape == (6, 4, 3)
    tiff = whole.index(b"Exif\0\0") + 6
    far = whole[: tiff + 4] + b"\xff\xff\xff\xff" + whole[tiff + 8 :]
    order = whole[:tiff] + b"??" + whole[tiff + 2 :]
    late = whole[:2] + b"\xff\xda\0\2" + whole[2:]  # Among the pixels.
    png = photograph(tmp_path / "a.png", 6, kind="PNG").read_bytes()
    for content in (b"", b"\xff\xd8\xff", far, order, late, png):
        assert orientation.upright(image, content) is image
    for end in range(len(whole[: tiff + 40])):
        assert orientation.upright(image, whole[:end]).shape in (
            (4, 6, 3),
            (6, 4, 3),
        )
