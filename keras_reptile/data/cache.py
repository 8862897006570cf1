"""Arrays that are costly to make, kept on disk between runs."""

import contextlib
import os
import pathlib
import re

import numpy as np
from absl import logging

from keras_reptile import files


def load(name: str, directory: str | None, shapes: dict) -> dict | None:
    """Returns what `store` kept under a name, or `None`.

    Args:
        name: Of the file, without a suffix.
        directory: `None` is `~/.cache/keras_reptile`.
        shapes: Of the arrays, by name; a file of others is made anew.
    """
    path = _path(name, directory)
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
        found = {key: array.shape for key, array in arrays.items()}
        if found != shapes:
            raise ValueError(f"expected {shapes}, received {found}")
        return arrays
    except FileNotFoundError:
        return None
    except Exception as error:  # Parsers raise anything on damaged bytes.
        logging.warning("%s is not readable and is made anew: %s", path, error)
        return None


def store(
    name: str,
    arrays: dict,
    directory: str | None = None,
    stem: str | None = None,
) -> None:
    """Keeps arrays under a name; a folder that can't be written is no error.

    Args:
        name: Of the file, without a suffix.
        arrays: NumPy arrays by name.
        directory: `None` is `~/.cache/keras_reptile`.
        stem: What `name` has before a hash of 16 digits. Files of the same
            stem and another hash are removed, once this one is whole.
    """
    path = _path(name, directory)
    if path is None:
        logging.warning("Not cached, for want of a home; pass a `cache_dir`.")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(path) as file:
            np.savez(file, **arrays)
    except OSError as error:
        logging.warning("Not cached, so the next start is slow: %s", error)
        return
    if stem is not None:
        _remove_others(path, stem)


def _remove_others(path, stem):
    pattern = re.compile(re.escape(stem) + r"-[0-9a-f]{16}\.npz")
    for other in list(path.parent.iterdir()):
        if other.name != path.name and pattern.fullmatch(other.name):
            with contextlib.suppress(OSError):  # Another user's, or gone.
                other.unlink()
    with contextlib.suppress(OSError):
        files.remove_partial(path.parent)


def _path(name, directory):
    home = os.path.join("~", ".cache", "keras_reptile")
    try:
        return pathlib.Path(directory or home).expanduser() / f"{name}.npz"
    except RuntimeError:  # No HOME, and a user who is not listed.
        return None
