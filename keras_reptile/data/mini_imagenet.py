"""Mini-ImageNet out of folders of images or of the usual pickles.

Source: Vinyals et al. 2016; Ravi & Larochelle 2017 for the classes; the
original's `miniimagenet.py` for the layout and the resizing.
"""

import os
import pathlib
from os.path import isdir, isfile

import numpy as np
from absl import logging

from keras_reptile.data import image_files, image_pickles, resizing
from keras_reptile.data.classes import ClassDataset
from keras_reptile.data.mini_imagenet_classes import WNIDS, check_classes
from keras_reptile.data.splits import Splits

EXTENT = 84
_FORMS = {
    "folders": {split: split for split in WNIDS},
    "pickles": {split: f"mini-imagenet-cache-{split}.pkl" for split in WNIDS},
    "category pickles": {
        "train": "miniImageNet_category_split_train_phase_train.pickle",
        "val": "miniImageNet_category_split_val.pickle",
        "test": "miniImageNet_category_split_test.pickle",
    },
}
_SHOWN = 10
_OTHERWISE = 'or remove them, and pass classes="any" if too few remain.'


def mini_imagenet(
    data_dir: str,
    resize: str = "nearest",
    classes: str = "paper",
    cache_dir: str | None = None,
) -> Splits:
    """Loads mini-ImageNet: 64, 16 and 20 classes of 600 images, 84 by 84.

    ImageNet's licence does not allow it to be downloaded here. `data_dir`
    must hold one of these, and the first whose names are all there is read:

    - image files, `train|val|test/<wnid>/*.JPEG` (also .jpg and .png, in
      upper or lower case). They are decoded once, by TensorFlow, to the
      pixels that PIL has, and kept on disk as 1.3 GB in `cache_dir`, under
      a name by which a changed file is noticed; a later start reads that.
      What was kept of the same folder before the change is removed.
    - `mini-imagenet-cache-train|val|test.pkl`, with `image_data` and
      `class_dict`, or
    - `miniImageNet_category_split_train_phase_train.pickle`,
      `miniImageNet_category_split_val.pickle` and `..._test.pickle`, with
      `data` and `labels`. Pickles are read in a way that runs no code.

    Every file is checked: empty, truncated and other unreadable ones are
    named, and so are those above 50 million pixels. Damage within a JPEG
    file that has its end is not noticed; nor would PIL notice it.

    Args:
        data_dir: The folder that holds it.
        resize: Of image files, to 84 by 84 whatever their shape. `"nearest"`,
            as the paper's code did, pixel for pixel; or `"bicubic"`, which
            differs from PIL's by at most 1 of 255.
        classes: `"paper"`: the classes must be those of the paper's splits,
            with 597 to 600 images each and as many in all as its lists
            have. `"any"`: another set of classes, and any number of images.
        cache_dir: Where decoded images are kept; `None` is
            `~/.cache/keras_reptile`.

    Returns:
        `Splits(train, validation, test)`.

    Raises:
        ValueError: If an argument is unknown, the data is absent, classes
            or images are missing, a class is in two splits, or files cannot
            be read; the message names them and says what to do.

    Example:

    ```python
    splits = kr.data.mini_imagenet("data/mini-imagenet")
    splits.train.num_classes  # 64
    ```
    """
    resizing.check_resize(resize)
    if not isinstance(classes, str) or classes not in ("paper", "any"):
        raise ValueError(
            '`classes` must be "paper", those of the paper\'s splits, or '
            f'"any". Received: {classes!r}.'
        )
    form, paths = _find(data_dir, classes)
    if form == "folders":
        return _from_folders(paths, resize, classes, cache_dir)
    if resize != "nearest":
        raise ValueError(
            "`resize` is of image files; pickles hold images that have been "
            f"resized. Received: resize={resize!r}, with the pickles of "
            f"{data_dir}. Leave it out, or put the image files there: "
            f"{_layout(data_dir, classes)}"
        )
    return _from_pickles(paths, classes)


def _find(data_dir, classes):
    """The form of the data, and the path of each split."""
    if not isinstance(data_dir, (str, os.PathLike)):
        raise ValueError(
            "Mini-ImageNet is read from a folder of yours. Received: "
            f"data_dir={data_dir!r}. {_layout('DATA_DIR', classes)}"
        )
    # Which leaves the name of a user who is not there as it is.
    root = pathlib.Path(os.path.expanduser(data_dir))
    missing = {}
    for form, names in _FORMS.items():
        paths = {split: root / name for split, name in names.items()}
        missing[form] = [
            path.name
            for path in paths.values()
            # Of `os.path`, as pathlib's raise where a folder is closed.
            if not (isdir(path) if form == "folders" else isfile(path))
        ]
        if not missing[form]:
            return form, paths
    missing = min(missing.values(), key=len)
    raise ValueError(_absent(root, missing, classes))


def _absent(root, missing, classes):
    if not isdir(root):
        found = "which is no folder"
    elif len(missing) < len(WNIDS):
        found = f"which lacks {' and '.join(missing)}"
    else:
        try:
            names = sorted(path.name for path in root.iterdir())
            found = f"which holds {names[:_SHOWN] or 'nothing'}"
        except OSError as error:
            found = f"which cannot be listed ({error.strerror})"
    return (
        f"Mini-ImageNet was not found. Received: data_dir={str(root)!r}, "
        f"{found}. {_layout(root, classes)}"
    )


def _layout(root, classes):
    """What to put where."""
    if classes == "any":
        return (
            "Put there the folders train, val and test, each with a folder of "
            "images for each of its classes. A folder that is not split is "
            "read by kr.data.from_folder."
        )
    lines = [
        "ImageNet's licence does not allow it to be downloaded here. Put "
        "there either the image files (up to 600 of ImageNet's training "
        "images of each class; keras_reptile/data/mini_imagenet_classes.py "
        "has the classes, metadata/miniimagenet of openai/supervised-reptile "
        "the images):"
    ]
    for split, wnids in WNIDS.items():
        example = pathlib.Path(root, split, wnids[0], "*.JPEG")
        lines.append(f"    {example} and {len(wnids) - 1} more folders")
    for form in ("pickles", "category pickles"):
        lines.append("or the pickles" if form == "pickles" else "or")
        lines += [f"    {pathlib.Path(root, p)}" for p in _FORMS[form].values()]
    return "\n".join(lines)


def _from_folders(paths, resize, classes, cache_dir):
    found, problems = {}, {}
    for split, path in paths.items():
        found[split], bad = image_files.list_classes(path)
        problems |= bad
    if problems:  # Before classes are missed that may be there.
        raise ValueError(image_files.unreadable(problems) + _OTHERWISE)
    counts = {
        split: {name: len(files) for name, files in listed.items()}
        for split, listed in found.items()
    }
    check_classes(counts, paths, classes)
    images = {}
    for split, listed in found.items():
        files = [file for files in listed.values() for file in files]
        logging.info("Reading %d images of %s.", len(files), paths[split])
        images[split], bad = image_files.decode_once(
            paths[split],
            files,
            resize,
            EXTENT,
            f"mini-imagenet-{split}",
            cache_dir,
        )
        problems |= bad
    if problems:
        raise ValueError(image_files.unreadable(problems) + _OTHERWISE)
    return Splits(
        *(
            ClassDataset(images[s], list(counts[s].values()), list(counts[s]))
            for s in WNIDS
        )
    )


def _from_pickles(paths, classes):
    parts = {s: image_pickles.read(path, EXTENT) for s, path in paths.items()}
    counts = {}
    for split, part in parts.items():
        # Numbers mean nothing outside of their file.
        before = "" if part.named else f"{split}/"
        counts[split] = {before + n: len(i) for n, i in part.indices.items()}
    named = all(part.named for part in parts.values())
    check_classes(counts, paths, classes, named)
    datasets = []
    for split, part in parts.items():
        order = np.concatenate(list(part.indices.values()))
        images = part.images
        if (order != np.arange(len(order))).any():  # Spares a copy.
            images = images[order]
        sizes = list(counts[split].values())
        datasets.append(ClassDataset(images, sizes, list(counts[split])))
    return Splits(*datasets)
