"""Images and their classes out of the pickles of few-shot data sets.

Two forms are usual. In one, `image_data` holds the images and `class_dict`
a list of their indices for each class; in the other, `data` or `image_data`
holds the images and `labels` a label for each, with `catname2label` for the
names of the classes or without.
"""

from typing import NamedTuple

import numpy as np

from keras_reptile.data import safe_pickle

_FORMS = (
    "Expected a dict with `image_data` and `class_dict`, or with `data` or "
    "`image_data` and `labels`."
)


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
    if images is not None and isinstance(stored.get("class_dict"), dict):
        images = _checked_images(path, images, extent)
        indices, named = _of_class_dict(path, stored["class_dict"]), True
    elif images is not None and stored.get("labels") is not None:
        images = _checked_images(path, images, extent)
        names = stored.get("catname2label")
        indices, named = _of_labels(path, stored["labels"], names, len(images))
    else:
        raise ValueError(
            f"{_FORMS} Received: {path}, with the keys "
            f"{sorted(map(str, stored))[:10]}."
        )
    _check_indices(path, indices, len(images))
    return ClassImages(images, dict(sorted(indices.items())), named)


def _checked_images(path, images, extent):
    images = _array(path, "images", images)
    expected = (extent, extent, 3)
    if images.shape[1:] != expected or images.dtype != np.uint8:
        raise ValueError(
            f"Expected images of shape (n, {extent}, {extent}, 3) and dtype "
            f"uint8. Received: {path}, with shape {images.shape} and dtype "
            f"{images.dtype}. Make the file anew from the images, or pass "
            "the image files."
        )
    return images


def _array(path, key, values):
    try:
        return np.asarray(values)
    except ValueError as error:  # Lists of several lengths.
        raise ValueError(
            f"Expected an array, or a list of one shape. Received: {path}, "
            f"with {key} of several ({error})."
        ) from None


def _of_class_dict(path, class_dict):
    indices = {}
    for name, values in class_dict.items():
        values = _array(path, f"class_dict[{name!r}]", values)
        if values.ndim != 1 or values.dtype.kind not in "iu" or not len(values):
            raise ValueError(
                "Expected a list of indices for each class, at least one. "
                f"Received: {path}, with {values.dtype} of shape "
                f"{values.shape} for class {name!r}."
            )
        indices[str(name)] = values
    return indices


def _of_labels(path, labels, names, count):
    labels = _array(path, "labels", labels)
    if labels.shape != (count,) or labels.dtype.kind not in "iuUS":
        raise ValueError(
            "Expected a label for each image, integers or strings. Received: "
            f"{path}, with {count} images and labels of shape {labels.shape} "
            f"and dtype {labels.dtype}."
        )
    distinct = np.unique(labels).tolist()
    groups = {label: np.flatnonzero(labels == label) for label in distinct}
    by_label = {}
    if isinstance(names, dict) and labels.dtype.kind in "iu":
        numbers = _array(path, "catname2label", list(names.values())).tolist()
        by_label = dict(zip(numbers, map(str, names)))
    named = labels.dtype.kind in "US" or set(groups) <= set(by_label)
    if not named:  # Of one width, so that they sort as the numbers do.
        by_label = {label: f"{label:04d}" for label in groups}
    return {
        by_label.get(label, str(label)): indices
        for label, indices in groups.items()
    }, named


def _check_indices(path, indices, count):
    """Every image belongs to one class."""
    every = np.concatenate([np.empty(0, int), *indices.values()])
    if len(every) != count or (np.sort(every) != np.arange(count)).any():
        raise ValueError(
            f"Expected each of {count} images in one class. Received: {path}, "
            f"whose {len(indices)} classes have {len(every)} indices, "
            f"{len(np.unique(every))} different ones"
            + (f", from {every.min()} to {every.max()}" if len(every) else "")
            + ". The file is damaged or was not written as a whole: get it "
            "again."
        )
