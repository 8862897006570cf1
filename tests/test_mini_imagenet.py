"""Mini-ImageNet on small trees and pickles of the same layout."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from mini_imagenet_tree import EXTENT, one, picture
from PIL import Image

import keras_reptile as kr
from keras_reptile.data.mini_imagenet_classes import WNIDS, check_classes, some


def test_the_papers_classes():
    assert [len(wnids) for wnids in WNIDS.values()] == [64, 16, 20]
    every = [wnid for wnids in WNIDS.values() for wnid in wnids]
    assert len(set(every)) == 100
    assert all(len(wnid) == 9 and wnid[0] == "n" for wnid in every)


def test_a_tree_gives_classes_in_the_order_of_their_names(tree, load):
    splits = load(tree)
    for classes, split in zip(splits, WNIDS):
        assert classes.names == WNIDS[split][:2]
        assert classes.x.shape == (6, EXTENT, EXTENT, 3)
        assert classes.x.dtype == np.uint8
    assert isinstance(splits, kr.data.Splits)
    with Image.open(one(tree, "val", 4)) as image:
        small = image.resize((EXTENT, EXTENT), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(splits.validation.x[4], small)
    task = splits.test.episode(kr.EpisodeSpec(ways=2, shots=2))
    assert task.support.x.shape == (4, EXTENT, EXTENT, 3)
    assert 0 <= task.support.x.numpy().min() < task.support.x.numpy().max() <= 1


def test_bicubic_by_name(tree, load):
    nearest, bicubic = load(tree), load(tree, resize="bicubic")
    assert (nearest.train.x != bicubic.train.x).any()
    # 84 by 84 is left as it is by both.
    np.testing.assert_array_equal(nearest.train.x[1], bicubic.train.x[1])


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"resize": "bilinear"}, "bicubic.*nearest.*'bilinear'"),
        ({"classes": "mine"}, "\"any\".*'mine'"),
        ({"resize": ["nearest"]}, "`resize` must be one of"),
        ({"classes": np.array(["any", "paper"])}, "`classes` must be"),
    ],
)
def test_unknown_arguments_are_refused(tree, load, arguments, text):
    with pytest.raises(ValueError, match=text):
        load(tree, **arguments)


def test_folders_that_may_not_be_listed_are_named(tree, load, monkeypatch):
    # Root may list every folder, and tests may be root's.
    closed = [tree / "val" / WNIDS["val"][0], tree / "test"]
    iterdir = pathlib.Path.iterdir

    def refusing(path):
        if path in closed:
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(pathlib.Path, "iterdir", refusing)
    for classes in ("any", "paper"):
        with pytest.raises(ValueError, match="2 that cannot be read") as error:
            load(tree, classes=classes)
        for path in closed:
            assert f"{path}: Permission denied" in str(error.value)
    closed.append(tree.parent)
    with pytest.raises(ValueError, match="cannot be listed .Permission denied"):
        load(tree.parent)


def test_odd_trees(tree, load):
    folder = tree / "train" / WNIDS["train"][0]
    other = one(tree, "train", 3).read_bytes()
    (folder / ".hidden.JPEG").write_bytes(b"")
    (folder / "._n0_1.JPEG").write_bytes(b"what macOS leaves")
    (folder / "notes.txt").write_text("notes")
    (folder / "nested.JPEG").mkdir()
    (tree / "train.csv").write_text("filename,label")
    (tree / "train" / "labels.csv").write_text("")
    (tree / "train" / ".cache").mkdir()
    (folder / "upper.JPG").write_bytes(other)
    (folder / "lower.jpeg").write_bytes(other)
    image = picture(np.random.default_rng(2), 50, 50)
    (folder / "another.PNG").write_bytes(tf.io.encode_png(image).numpy())
    assert load(tree).train.counts.tolist() == [6, 3]


def test_other_classes_than_the_papers_are_named(tree, load):
    with pytest.raises(ValueError, match="missing are n0.*52 more") as error:
        load(tree, classes="paper")
    assert "64 classes of train" in str(error.value)
    assert 'classes="any"' in str(error.value)
    folder = tree / "val" / WNIDS["val"][0]
    folder.rename(tree / "val" / "n99999999")
    counts = {s: dict.fromkeys(WNIDS[s], 600) for s in WNIDS}
    check_classes(counts, WNIDS, "paper")
    counts["val"]["n99999999"] = counts["val"].pop(WNIDS["val"][0])
    with pytest.raises(ValueError, match="not of the paper are n99999999"):
        check_classes(counts, WNIDS, "paper")
    assert load(tree).validation.names[-1] == "n99999999"


@pytest.mark.parametrize("count", [596, 597, 600, 601])
def test_images_of_each_class_are_counted(count):
    counts = {s: dict.fromkeys(WNIDS[s], 600) for s in WNIDS}
    name = WNIDS["test"][3]
    counts["test"][name] = count
    if 597 <= count <= 600:
        check_classes(counts, WNIDS, "paper")
    else:
        text = rf"597 to 600.*{name} \({count}\)"
        with pytest.raises(ValueError, match=text):
            check_classes(counts, WNIDS, "paper")
    check_classes(counts, WNIDS, "any")


def test_images_of_a_split_are_counted():
    counts = {s: dict.fromkeys(WNIDS[s], 600) for s in WNIDS}
    first, second, third = WNIDS["val"][:3]
    counts["val"] |= {first: 597, second: 597, third: 599}
    check_classes(counts, WNIDS, "paper")  # As many as the lists have.
    counts["val"][third] = 598
    text = rf"9,593 images of val.*9,592; .*{third} \(598\)"
    with pytest.raises(ValueError, match=text):
        check_classes(counts, WNIDS, "paper")
    check_classes(counts, WNIDS, "any")


def test_names_are_shown_short_and_without_escapes():
    shown = some(["plain", "n" * 1000, "red \x1b[31m"])
    assert shown.startswith("plain, ") and "\x1b" not in shown
    assert len(shown) < 200


def test_a_class_in_two_splits_is_refused(tree, load):
    shared = WNIDS["train"][1]
    (tree / "test" / shared).symlink_to(tree / "train" / shared)
    text = f"{shared} in both .*train and .*test"
    with pytest.raises(ValueError, match=text):
        load(tree)


def test_a_class_without_images_is_named(tree, load):
    # One level too deep, as some archives unpack.
    folder = tree / "test" / WNIDS["test"][0]
    (folder / "images").mkdir()
    for path in folder.glob("*.JPEG"):
        path.rename(folder / "images" / path.name)
    with pytest.raises(ValueError, match=f"no images in {folder.name}"):
        load(tree)
    for split in ("train", "val"):
        (tree / "empty" / split).mkdir(parents=True)
    (tree / "empty" / "test").symlink_to(tree / "test")
    with pytest.raises(ValueError, match="with no folder"):
        load(tree / "empty")


def test_absent_data_says_what_to_put_where(tmp_path, load):
    absent = tmp_path / "absent"
    with pytest.raises(ValueError) as error:
        load(absent, classes="paper")
    for text in (
        f"data_dir='{absent}', which is no folder",
        f"{absent}/train/n01532829/*.JPEG and 63 more folders",
        f"{absent}/val/n01855672/*.JPEG and 15 more folders",
        f"{absent}/test/n01930112/*.JPEG and 19 more folders",
        f"{absent}/mini-imagenet-cache-train.pkl",
        f"{absent}/miniImageNet_category_split_val.pickle",
        "mini_imagenet_classes.py",
    ):
        assert text in str(error.value)
    with pytest.raises(ValueError, match="holds nothing"):
        load(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(ValueError, match="which lacks val and test"):
        load(tmp_path)
    with pytest.raises(ValueError, match="data_dir=None"):
        load(None)


def test_of_other_classes_no_wnids_are_asked_for(load, tmp_path):
    with pytest.raises(ValueError) as error:
        load(tmp_path, classes="any")
    assert "folders train, val and test" in str(error.value)
    assert "from_folder" in str(error.value)
    assert "n01532829" not in str(error.value)


@pytest.mark.parametrize("folder", [None, 3, "~nobody-of-this-name/mini"])
def test_what_is_no_folder_is_refused(load, folder):
    with pytest.raises(ValueError, match="Put there either the image files"):
        load(folder, classes="paper")
