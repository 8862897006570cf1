"""Classes out of a folder of one's own images."""

import os
import pathlib

from absl import logging

from keras_reptile.data import image_files, resizing
from keras_reptile.data.classes import ClassDataset
from keras_reptile.integers import check_integer

_SHOWN = 10
_OTHER_KINDS = {".bmp", ".gif", ".heic", ".tif", ".tiff", ".webp"}


def from_folder(
    folder: str,
    image_size: int,
    resize: str = "bicubic",
    cache_dir: str | None = None,
    channels: int = 3,
) -> ClassDataset:
    """Reads images of one's own, `<folder>/<class>/*.jpg` (.jpeg, .png).

    They are decoded once and kept on disk, as `mini_imagenet` does. Images of
    other kinds are left out, which the log says. JPEGs are turned upright as
    the camera noted, and what is transparent is laid on white. Hold classes
    out by `subset`.

    Args:
        folder: That holds a folder for each class.
        image_size: Height and width, in pixels, that images are resized to
            whatever their shape.
        resize: `"bicubic"`, with antialiasing, or `"nearest"`.
        cache_dir: Where decoded images are kept; `None` is
            `~/.cache/keras_reptile`.
        channels: 3 for RGB, which grey ones become, too; 1 for grey.

    Returns:
        A `ClassDataset` of uint8 of shape `(image_size, image_size,
        channels)`, its classes named by their folders, in sorted order.

    Raises:
        ValueError: If an argument is unknown, there is no folder of images,
            a class has none, or files cannot be read; the message names them.

    Example:

    ```python
    parts = kr.data.from_folder("photographs", image_size=84)
    train, validation = parts.subset(range(40)), parts.subset(range(40, 50))
    ```
    """
    resizing.check_resize(resize)
    check_integer("image_size", image_size, 1)
    if channels not in (1, 3):
        raise ValueError(
            "`channels` must be 3, for RGB, or 1, for grey. Received: "
            f"{channels!r}."
        )
    root = _root(folder)
    listed, problems = image_files.list_classes(root)
    if not problems:
        _check_listed(root, listed)
        _warn_of_left_out(root)
        files = [file for of_class in listed.values() for file in of_class]
        images, problems = image_files.decode_once(
            root, files, resize, int(image_size), "folder", cache_dir, turn=True
        )
    if problems:
        raise ValueError(image_files.unreadable(problems) + "or remove them.")
    _warn_of_blank(images, files)
    if channels == 1:
        images = resizing.grey(images)
    counts = [len(of_class) for of_class in listed.values()]
    return ClassDataset(images, counts, list(listed))


def _root(folder):
    is_path = isinstance(folder, (str, os.PathLike))
    # Which leaves the name of a user who is not there as it is.
    root = pathlib.Path(os.path.expanduser(folder)) if is_path else None
    if not folder or root is None or not os.path.isdir(root):
        raise ValueError(
            "`folder` must be one that holds a folder of images for each "
            f"class. Received: {folder!r}, which is no folder."
        )
    return root


def _warn_of_left_out(root):
    left_out = [
        path for path in root.glob("*/*") if path.suffix.lower() in _OTHER_KINDS
    ]
    if left_out:
        logging.warning(
            "%d images of other kinds than JPEG and PNG are left out, the "
            "first being %s.",
            len(left_out),
            min(left_out),
        )


def _warn_of_blank(images, files):
    """As white lines are on a transparent ground."""
    pixels = images.reshape(len(images), -1, images.shape[-1])
    blank = (pixels.min(1) == pixels.max(1)).all(1)
    if blank.any():
        logging.warning(
            "%d of %d images are of one colour throughout, the first being %s.",
            blank.sum(),
            len(images),
            files[blank.argmax()],
        )


def _check_listed(root, listed):
    empty = [name for name, files in listed.items() if not files]
    if listed and not empty:
        return
    found = f"no images of {', '.join(empty[:_SHOWN])}"
    if len(empty) > _SHOWN:
        found += f" and {len(empty) - _SHOWN} more"
    if not listed:
        found = "no folder in it"
    raise ValueError(
        "Expected a folder for each class, with images whose names end in "
        f"{', '.join(image_files.SUFFIXES)}. Received: {root}, {found}."
    )
