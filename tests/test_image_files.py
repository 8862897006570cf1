"""Images from files: as PIL resizes them, and what is no image."""

import os
import threading

import numpy as np
import pytest
import tensorflow as tf
from mini_imagenet_tree import EXTENT, one, picture
from PIL import Image

from keras_reptile.data import image_files, resizing
from keras_reptile.data.mini_imagenet_classes import WNIDS


def test_nearest_takes_the_pixels_that_pil_takes():
    borders = 0
    centres = 2 * np.arange(EXTENT) + 1
    for size in range(1, 1500):
        indices = resizing.nearest_indices(size, EXTENT)
        line = Image.fromarray(np.arange(size, dtype="int32")[np.newaxis])
        line = line.resize((EXTENT, 1), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(indices, np.asarray(line)[0])
        # And by the rule, floor((i + .5) size / 84), where that is no tie.
        other = indices != centres * size // (2 * EXTENT)
        borders += other.sum()
        assert not (centres[other] * size % (2 * EXTENT)).any()
    assert borders  # PIL's rounding matters.


@pytest.mark.parametrize("height, width", [(375, 500), (61, 400), (84, 30)])
def test_resizing_is_pils(height, width):
    image = picture(np.random.default_rng(0), height, width)
    for name, resampling, most in (
        ("nearest", Image.Resampling.NEAREST, 0),
        ("bicubic", Image.Resampling.BICUBIC, 1),
    ):
        expected = Image.fromarray(image).resize((EXTENT, EXTENT), resampling)
        received = resizing.RESIZES[name](image, EXTENT)
        assert received.dtype == np.uint8
        difference = received.astype(int) - np.asarray(expected, int)
        assert abs(difference).max() <= most, name


@pytest.mark.parametrize(
    "mode, kind, settings",
    [
        ("RGB", "JPEG", {"progressive": True}),
        ("L", "JPEG", {}),
        ("CMYK", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {}),
    ],
)
def test_every_colour_ends_up_as_pils_rgb(tmp_path, mode, kind, settings):
    # PNG under the name of a JPEG is one of ImageNet's own oddities.
    path = tmp_path / "image.JPEG"
    image = Image.fromarray(picture(np.random.default_rng(1), 70, 90))
    image.convert(mode).save(path, kind, **settings)
    decoded, problem = image_files.decode(path, "nearest", EXTENT)
    assert problem is None
    with Image.open(path) as image:
        expected = image.resize((EXTENT, EXTENT), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(decoded, expected.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L"])
def test_what_is_transparent_is_laid_on_white(tmp_path, mode):
    path = tmp_path / "drawing.png"
    rng = np.random.default_rng(1)
    if mode in ("RGBA", "LA"):
        # As of a canvas: black lines, and black where there are none.
        pixels = np.zeros((EXTENT, EXTENT, len(mode)), "uint8")
        pixels[..., -1] = rng.integers(0, 256, (EXTENT, EXTENT))
        Image.fromarray(pixels, mode).save(path)
    else:
        pixels = rng.integers(0, 4, (EXTENT, EXTENT)).astype("uint8")
        image = Image.fromarray(pixels, mode)
        if mode == "P":
            image.putpalette(list(range(0, 120, 10)))
        image.save(path, transparency=2)
    decoded, problem = image_files.decode(path, "nearest", EXTENT)
    assert problem is None
    with Image.open(path) as image:
        drawn = image.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    expected = Image.alpha_composite(white, drawn).convert("RGB")
    assert len(np.unique(expected)) > 3
    difference = decoded.astype(int) - np.asarray(expected, int)
    # PIL rounds in two steps.
    assert abs(difference).max() <= 1


def test_files_that_cannot_be_read_are_named_together(tree, load):
    whole = one(tree).read_bytes()
    bad = {
        one(tree, "train", 0): (whole[: len(whole) // 2], "truncated"),
        one(tree, "train", 4): (whole[:-2], "truncated"),
        one(tree, "val", 1): (b"", "empty"),
        one(tree, "test", 2): (b"<html>404</html>", "no JPEG or PNG"),
        one(tree, "test", 5): (whole[:200] + bytes(len(whole)), "truncated"),
    }
    for path, (content, _) in bad.items():
        path.write_bytes(content)
    with pytest.raises(ValueError, match="5 that cannot be read") as error:
        load(tree)
    for path, (_, reason) in bad.items():
        assert f"{path}: {reason}" in str(error.value)
    assert "Get them again" in str(error.value)


def test_of_many_bad_files_ten_are_named(tree, load):
    for path in tree.glob("*/*/*.JPEG"):
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="(?s)18 that.*and 8 more"):
        load(tree)


def header_of(width, height):
    """The start of a PNG, which is all that its size can be seen by."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    return b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + size + b"\1\0\0\0\0" + bytes(4)


def test_files_that_stand_for_too_many_pixels_are_named(tree, load):
    png, jpeg = one(tree, "train", 0), one(tree, "val", 1)
    png.write_bytes(header_of(20_000, 10_000))
    content = jpeg.read_bytes()
    size = content.index(b"\xff\xc0") + 5
    huge = content[:size] + b"\xc3\x50" * 2 + content[size + 4 :]
    jpeg.write_bytes(huge)
    one(tree, "test", 2).write_bytes(header_of(20_000, 10_000)[:20])
    with pytest.raises(ValueError, match="3 that cannot be read") as error:
        load(tree)
    assert f"{png}: 20000 by 10000, above 50,000,000" in str(error.value)
    assert f"{jpeg}: 50000 by 50000, above 50,000,000" in str(error.value)


def test_as_many_pixels_as_may_be(tree, load, monkeypatch):
    monkeypatch.setattr(image_files, "MOST_PIXELS", 100 * 75)
    load(tree)
    monkeypatch.setattr(image_files, "MOST_PIXELS", 60 * 91)
    path = tree.parent / "image.JPEG"
    for width, problem in ((91, None), (92, "92 by 60, above 5,460 pixels")):
        image = picture(np.random.default_rng(4), 60, width)
        for encode in (tf.io.encode_jpeg, tf.io.encode_png):
            path.write_bytes(encode(image).numpy())
            assert image_files.decode(path, "nearest", EXTENT)[1] == problem


def test_a_pipe_is_not_waited_for(tree, load):
    pipe = tree / "val" / WNIDS["val"][0] / "pipe.JPEG"
    os.mkfifo(pipe)
    # So that whoever does read it comes to an end.
    writer = threading.Thread(target=pipe.write_bytes, args=(b"",))
    writer.start()
    try:
        with pytest.raises(ValueError, match="pipe.JPEG: no file but a pipe"):
            load(tree)
    finally:
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
        writer.join()


def test_a_link_that_leads_nowhere_is_a_bad_file(tree, load):
    link = tree / "val" / WNIDS["val"][0] / "link.jpg"
    link.symlink_to(tree / "absent.jpg")
    with pytest.raises(ValueError, match="link.jpg: No such file"):
        load(tree)
    link.unlink()
    link.symlink_to(one(tree))
    assert load(tree).validation.counts.tolist() == [4, 3]


def test_a_link_that_leads_to_no_class_is_named(tree, load):
    (tree / "train" / "n00000000").symlink_to(tree / "gone")
    with pytest.raises(ValueError, match="train/n00000000: No such file"):
        load(tree)
