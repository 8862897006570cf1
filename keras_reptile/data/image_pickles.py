"""Images and their classes out of the pickles of few-shot data sets.

Two forms are usual. In one, `image_data` holds the images and `class_dict`
a list of their indices for each class; in the other, `data` or `image_data`
holds the images and `labels` a label for each, with `catname2label` for the
names of the classes or without.
"""

from typing import NamedTuple

import numpy as np

from keras_reptile.data import safe_pickle
from keras_reptile.data.pickle_machine import shown

_FORMS = (
    "Expected a dict with `image_data` and `class_dict`, or with `data` or "
    "`image_data` and `labels`."
)
# Of a label, at most.
_LETTERS = 1000


class ClassImages(NamedTuple):
    """Images, and which of them belong to which class."""

    images: np.ndarray  # (n, extent, extent, 3), uint8
    indices: dict[str, np.ndarray]  # By name, sorted.
    named: bool  # Or the classes have numbers, with a meaning in the file only.


def read(path, extent: int) -> ClassImages:
    """Reads a pickle of either form, and runs nothing in it.

    Args:
        path: Of the file.
        extent: The images' height and width.

    Raises:
        ValueError: If it is no such pickle, or what it holds does not fit
            together.
    """
    stored = safe_pickle.load(path)
    if not isinstance(stored, dict):
        raise ValueError(
            f"{_FORMS} Received: {path}, which holds a {type(stored).__name__}."
        )
    images = stored.get("image_data", stored.get("data"))
    of_class = stored.get("class_dict")
    labels, names = stored.get("labels"), stored.get("catname2label")
    if images is None or not isinstance(of_class, dict) and labels is None:
        keys = sorted(shown(key) for key in stored)[:10]
        raise ValueError(
            f"{_FORMS} Received: {path}, with the keys [{', '.join(keys)}]."
        )
    count = _checked_count(path, images, extent)
    if isinstance(of_class, dict):
        indices, named = _of_class_dict(path, of_class, count), True
    else:
        indices, named = _of_labels(path, labels, names, count)
    _check_indices(path, indices, count)
    if not isinstance(images, np.ndarray):
        images = np.stack(images)
    return ClassImages(images, dict(sorted(indices.items())), named)


def _checked_count(path, images, extent):
    """How many there are, in one array or a list of an array for each."""
    listed = isinstance(images, (list, tuple))
    expected = (extent, extent, 3)
    arrays = images if listed else [images]
    wrong = None if len(arrays) else "none"
    # Side by side they would take more memory than the file has bytes.
    if len({id(array) for array in arrays}) < len(arrays):
        wrong = "the same one several times"
    for array in arrays:
        if not isinstance(array, np.ndarray):
            wrong = f"a {type(array).__name__} for an array"
        elif (array.shape if listed else array.shape[1:]) != expected:
            wrong = f"shape {array.shape}"
        elif array.dtype != np.uint8:
            wrong = f"dtype {array.dtype}"
    if wrong:
        raise ValueError(
            f"Expected images of shape (n, {extent}, {extent}, 3) and dtype "
            "uint8, in an array or a list of an array for each. Received: "
            f"{path}, with {wrong}. Make the file anew from the images, or "
            "pass the image files."
        )
    return len(images)


def _size(path, key, values):
    """How many there are in an array, or a list of numbers or strings.

    A list of lists is refused, as a file may have one stand in many places,
    so that a few make an array larger than any memory.
    """
    if isinstance(values, np.ndarray) and values.itemsize <= 4 * _LETTERS:
        return values.size
    if not isinstance(values, (list, tuple)) or not all(map(_is_small, values)):
        raise ValueError(
            "Expected an array, or a list of numbers or of strings of at "
            f"most {_LETTERS} letters. Received: {path}, whose {key} is "
            f"neither, of type {type(values).__name__}."
        )
    return len(values)


def _is_small(value):
    if isinstance(value, (str, bytes)):
        return len(value) <= _LETTERS
    return isinstance(value, (int, float, np.generic))


def _of_class_dict(path, class_dict, count):
    indices, total = {}, 0
    for name, values in class_dict.items():
        # Before there is an array for each: it may be one list for all.
        total += _size(path, f"class_dict[{shown(name)}]", values)
        if total > count:
            raise ValueError(_misfit(path, count, len(indices) + 1, total))
        values = np.asarray(values)
        if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
            raise ValueError(
                "Expected a list of indices for each class, at least one. "
                f"Received: {path}, with {values.dtype} of shape "
                f"{values.shape} for class {shown(name)}."
            )
        # Of one dtype: out of uint64 and int64, NumPy makes floats.
        indices[str(name)] = values.astype(np.int64)
    return indices


def _of_labels(path, labels, names, count):
    size = _size(path, "labels", labels)
    if not isinstance(labels, np.ndarray):
        labels = np.asarray(labels if size == count else labels[:1])
    kind = labels.dtype.kind
    if size != count or labels.ndim != 1 or kind not in "iuUS":
        raise ValueError(
            "Expected a label for each image, integers or strings. Received: "
            f"{path}, with {count} images and {size} labels of dtype "
            f"{labels.dtype} in {labels.ndim} dimensions."
        )
    distinct, group, sizes = np.unique(
        labels, return_inverse=True, return_counts=True
    )
    members = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    groups = dict(zip(distinct.tolist(), members))
    by_label = {}
    if isinstance(names, dict) and kind in "iu":
        by_label = {
            int(number): str(name)
            for name, number in names.items()
            if isinstance(number, (int, np.integer)) and abs(number) < 2**63
        }
    named = kind in "US" or set(groups) <= set(by_label)
    if not named:  # Of one width, so that they sort as the numbers do.
        by_label = {label: f"{label:04d}" for label in groups}
    return {
        by_label.get(label, str(label)): indices
        for label, indices in groups.items()
    }, named


def _check_indices(path, indices, count):
    """Every image belongs to one class."""
    every = np.concatenate([np.empty(0, np.int64), *indices.values()])
    if len(every) != count or (np.sort(every) != np.arange(count)).any():
        different = f", {len(np.unique(every))} different ones" + (
            f", from {every.min()} to {every.max()}" if len(every) else ""
        )
        raise ValueError(
            _misfit(path, count, len(indices), len(every), different)
        )


def _misfit(path, count, classes, total, different=""):
    return (
        f"Expected each of {count} images in one class. Received: {path}, "
        f"whose {classes} classes have {total} indices{different}. The file "
        "is damaged or was not written as a whole: get it again."
    )
