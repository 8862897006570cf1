"""Classes out of a folder of one's own images."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import messages
from mini_imagenet_tree import one, write_tree
from PIL import Image

import keras_reptile as kr
from keras_reptile.data import image_files


@pytest.fixture
def folder(tmp_path):
    """Two classes of three images, of several shapes."""
    return write_tree(tmp_path / "tree") / "train"


def load(folder, cache, **arguments):
    arguments = {"image_size": 12, "cache_dir": cache, **arguments}
    return kr.data.from_folder(folder, **arguments)


def test_each_folder_is_a_class(folder, tmp_path, monkeypatch):
    (folder / "about.txt").write_text("of no class")
    for _ in range(2):  # Decoded, and as it was kept.
        classes = load(folder, tmp_path / "cache")
        assert classes.names == sorted(p.name for p in folder.glob("n*"))
        np.testing.assert_array_equal(classes.counts, [3, 3])
        path = one(folder.parent, number=4)
        image = tf.image.resize(
            tf.io.decode_jpeg(path.read_bytes(), dct_method="INTEGER_ACCURATE"),
            (12, 12),
            method="bicubic",
            antialias=True,
        )
        image = np.clip(np.rint(image), 0, 255).astype("uint8")
        np.testing.assert_array_equal(classes.examples(1)[1], image)
        monkeypatch.delattr(image_files, "decode_all", raising=False)


def test_images_of_other_kinds_are_said(folder, tmp_path, log):
    (next(folder.glob("n*")) / "a.WEBP").write_bytes(b"RIFF")
    assert len(load(folder, tmp_path / "cache").x) == 6
    assert "1 images of other kinds" in messages(log)
    assert "a.WEBP" in messages(log)


def test_images_become_grey_as_pils(folder, tmp_path):
    colours = load(folder, tmp_path / "cache")
    grey = load(folder, tmp_path / "cache", channels=1)
    assert grey.x.shape == (6, 12, 12, 1)
    for image, expected in zip(grey.x, colours.x):
        expected = Image.fromarray(expected).convert("L")
        np.testing.assert_array_equal(image[..., 0], expected)


def test_images_of_one_colour_are_said(folder, tmp_path, log):
    load(folder, tmp_path / "cache")
    assert "of one colour" not in messages(log)
    path = one(folder.parent, number=4)
    path.write_bytes(
        tf.io.encode_jpeg(np.full((20, 30, 3), 7, "uint8")).numpy()
    )
    load(folder, tmp_path / "cache")
    assert "1 of 6 images are of one colour" in messages(log)
    assert path.name in messages(log)


def test_its_episodes_hold_values_up_to_1(folder, tmp_path):
    classes = load(str(folder), tmp_path / "cache", resize="nearest")
    spec = kr.EpisodeSpec(ways=2, shots=1)
    task = classes.episode(spec)
    assert task.support.x.shape == (2, 12, 12, 3)
    assert (
        0 <= task.support.x.numpy().min() <= task.support.x.numpy().max() <= 1
    )


def test_what_cannot_be_read_is_named(folder, tmp_path):
    one(folder.parent).write_bytes(b"")
    with pytest.raises(ValueError, match="(?s)1 that cannot.*JPEG: empty"):
        load(folder, tmp_path / "cache")


def test_a_class_without_images_is_named(folder, tmp_path):
    (folder / "rare part").mkdir()
    with pytest.raises(ValueError, match="no images of rare part"):
        load(folder, tmp_path / "cache")


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"folder": None}, "None, which is no folder"),
        ({"folder": ""}, "'', which is no folder"),
        ({"folder": "absent"}, "'absent', which is no folder"),
        ({"image_size": 0}, "`image_size`.*at least 1"),
        ({"channels": 4}, "3, for RGB, or 1, for grey. Received: 4"),
        ({"resize": "linear"}, "'bicubic', 'nearest'.*linear"),
    ],
)
def test_other_arguments_are_refused(folder, tmp_path, arguments, text):
    with pytest.raises(ValueError, match=text):
        load(**{"folder": folder, "cache": tmp_path, **arguments})


def test_a_folder_without_classes_is_said(tmp_path):
    with pytest.raises(ValueError, match="Received: .*, no folder in it"):
        load(tmp_path, tmp_path / "cache")
