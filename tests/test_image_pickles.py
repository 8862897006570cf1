"""Mini-ImageNet out of pickles: both kinds, and those that are broken."""

import os
import pickle
import tracemalloc

import numpy as np
import pytest
from mini_imagenet_tree import EXTENT

from keras_reptile.data.mini_imagenet_classes import WNIDS


def images_of(split, count=4):
    rng = np.random.default_rng(list(WNIDS).index(split))
    return rng.integers(0, 256, (count, EXTENT, EXTENT, 3), "uint8")


def cached(split):
    """As `mini-imagenet-cache-*.pkl`; classes and images out of order."""
    last, first = WNIDS[split][1::-1]
    return {
        "image_data": images_of(split),
        "class_dict": {last: [3, 0], first: np.array([1, 2])},
    }


def category(split, named=True):
    """As `miniImageNet_category_split_*.pickle`."""
    names = {"catname2label": dict(zip(WNIDS[split], (7, 12)))}
    labels = [12, 7, np.int64(7), 12]
    stored = {"data": list(images_of(split)), "labels": labels}
    return {**stored, **names} if named else stored


CATEGORY = {
    "train": "miniImageNet_category_split_train_phase_train.pickle",
    "val": "miniImageNet_category_split_val.pickle",
    "test": "miniImageNet_category_split_test.pickle",
}
CACHED = {split: f"mini-imagenet-cache-{split}.pkl" for split in WNIDS}


def write_pickles(folder, names, make, protocol=4):
    for split, name in names.items():
        content = pickle.dumps(make(split), protocol)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "names, make, order",
    [(CACHED, cached, [1, 2, 3, 0]), (CATEGORY, category, [1, 2, 0, 3])],
)
def test_pickles(tmp_path, load, names, make, order, protocol):
    write_pickles(tmp_path, names, make, protocol)
    splits = load(tmp_path)
    for split, classes in zip(WNIDS, splits):
        assert classes.names == WNIDS[split][:2]
        assert classes.counts.tolist() == [2, 2]
        np.testing.assert_array_equal(classes.x, images_of(split)[order])
    with pytest.raises(ValueError, match="have been resized"):
        load(tmp_path, resize="bicubic")


def test_labels_without_names(tmp_path, load):
    write_pickles(tmp_path, CATEGORY, lambda split: category(split, False))
    splits = load(tmp_path)
    assert splits.train.names == ["train/0007", "train/0012"]
    assert splits.test.names == ["test/0007", "test/0012"]
    with pytest.raises(ValueError, match="64 classes of train.*with 2 classes"):
        load(tmp_path, classes="paper")


@pytest.mark.parametrize(
    "change, text",
    [
        ({"image_data": images_of("val")[:, :80]}, r"\(4, 80, 84, 3\)"),
        ({"image_data": images_of("val") / 255}, "float64"),
        ({"image_data": [np.zeros((2, 2))]}, r"shape \(2, 2\)"),
        ({"image_data": [*images_of("val", 3), 1]}, "a int for an array"),
        ({"image_data": [[[0, 1]]]}, "a list for an array"),
        ({"image_data": []}, "with none"),
        ({"class_dict": {"a": [0, 1, 2]}}, "4 images in one class"),
        ({"class_dict": {"a": [0, 1], "b": [1, 2, 3]}}, "have 5 indices"),
        ({"class_dict": {"a": [0, 1], "b": [2, 4]}}, "from 0 to 4"),
        ({"class_dict": {"a": [0, 1], "b": [2, -1]}}, "from -1 to 2"),
        ({"class_dict": {"a": [0, 1, 2, 3], "b": []}}, "at least one.*'b'"),
        ({"class_dict": {"a": 5}}, "whose class_dict.'a'. is neither"),
        ({"class_dict": {}}, "0 classes"),
        ({"class_dict": None}, "with the keys"),
        ({"class_dict": None, "labels": [1, 2]}, "a label for each.*2 lab"),
        ({"class_dict": None, "labels": [[1], [2]]}, "labels is neither"),
        ({"class_dict": None, "labels": [1.5] * 4}, "a label for each.*float"),
    ],
)
def test_pickles_whose_parts_do_not_fit_are_refused(
    tmp_path, load, change, text
):
    write_pickles(tmp_path, CACHED, cached)
    content = pickle.dumps({**cached("val"), **change})
    path = tmp_path / CACHED["val"]
    path.write_bytes(content)
    with pytest.raises(ValueError, match=text) as error:
        load(tmp_path)
    assert str(path) in str(error.value)


def test_indices_of_several_dtypes(tmp_path, load):
    def mixed(split):
        last, first = cached(split)["class_dict"]
        indices = {last: np.array([3, 0], "uint64"), first: [1, 2]}
        return {**cached(split), "class_dict": indices}

    write_pickles(tmp_path, CACHED, mixed)
    np.testing.assert_array_equal(
        load(tmp_path).train.x, images_of("train")[[1, 2, 3, 0]]
    )


IMAGE, NUMBERS = np.zeros((EXTENT, EXTENT, 3), "uint8"), [0, 1, 2, 3]
LISTS = [NUMBERS] * 4


@pytest.mark.parametrize(
    "change, text",
    [
        ({"image_data": [IMAGE] * 4}, "with the same one several times"),
        ({"image_data": [[LISTS] * 84] * 84}, "a list for an array"),
        ({"class_dict": {"a": LISTS}}, "'a'.* is neither, of type list"),
        ({"class_dict": {i: NUMBERS for i in range(99)}}, "2 classes have 8"),
        ({"class_dict": 0, "labels": LISTS}, "labels is neither"),
        ({"class_dict": 0, "labels": ["a" * 1001] * 4}, "at most 1000 letters"),
        ({"class_dict": 0, "labels": ["a"] * 999}, "4 images and 999 labels"),
        ({"class_dict": {"a" * 9999: 0}}, "is neither"),
        ({"class_dict": {"a" * 9999: []}}, "at least one"),
        ({"class_dict": 0, "a" * 9999: 0}, "with the keys"),
    ],
)
def test_what_pickles_share_is_not_multiplied(tmp_path, load, change, text):
    write_pickles(tmp_path, CACHED, lambda s: {**cached(s), **change})
    with pytest.raises(ValueError, match=text) as error:
        load(tmp_path)
    assert len(str(error.value)) < 800


def test_labels_are_counted_before_they_are_copied(tmp_path, load):
    labels = {"class_dict": 0, "labels": ["a" * 1000] * 3000}
    write_pickles(tmp_path, CACHED, lambda s: {**cached(s), **labels})
    tracemalloc.start()
    with pytest.raises(ValueError, match="4 images and 3000 labels"):
        load(tmp_path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4e6  # For 12 MB.


def test_names_of_labels_that_are_no_numbers(tmp_path, load):
    names = {WNIDS["train"][0]: LISTS, WNIDS["train"][1]: "b"}
    write_pickles(
        tmp_path, CATEGORY, lambda s: {**category(s), "catname2label": names}
    )
    assert load(tmp_path).train.names == ["train/0007", "train/0012"]


def test_pickles_that_share_a_class_are_refused(tmp_path, load):
    write_pickles(tmp_path, CACHED, lambda split: cached("train"))
    with pytest.raises(ValueError, match="one split"):
        load(tmp_path)


def test_a_folder_is_chosen_where_it_is_whole(tree, load):
    write_pickles(tree, CACHED, cached)
    assert load(tree).train.counts.tolist() == [3, 3]
    os.rename(tree / "val", tree / "validation")
    assert load(tree).train.counts.tolist() == [2, 2]
