"""The file of a checkpoint: arrays and a header, whole or not there.

It is one `.npz`, written under another name first, and holds a checksum of its
arrays, by which a damaged one is found.
"""

import hashlib
import io
import json
import os
import pathlib
import zipfile
from typing import IO

import numpy as np

from keras_reptile import files


class DamagedCheckpoint(Exception):
    """A file that is not the checkpoint that was written."""


def write(path, header: dict, arrays: dict) -> None:
    """Writes a file, atomically.

    Args:
        path: Of the file; its folder must exist.
        header: What there is besides arrays, as JSON.
        arrays: NumPy arrays by name.

    Raises:
        OSError: If it cannot be written.
    """
    arrays = {name: _storable(array) for name, array in arrays.items()}
    header = {**header, "sha256": _checksum(arrays)}
    with files.atomic_write(path) as file:
        np.savez(file, __header__=json.dumps(header), **arrays)


def read(path: str | os.PathLike | IO[bytes]) -> tuple[dict, dict]:
    """Reads a checkpoint and verifies its checksum.

    Args:
        path: Of the file, or the file itself, open to be read as bytes.

    Returns:
        `(header, arrays)`.

    Raises:
        DamagedCheckpoint: If the file is truncated or changed.
        OSError: If it cannot be read.
        ValueError: If it is a folder, or a model as `.keras`.
    """
    # First of all: a disk that fails is no damage of the file.
    if hasattr(path, "read"):
        content = path.read()
    elif os.path.isdir(path):
        raise ValueError(
            f"Expected a checkpoint. Received: {path}, a folder. The newest in "
            "it is `kr.checkpoints.latest(folder, model)`."
        )
    elif str(path).endswith(".keras") and os.path.exists(path):
        raise ValueError(
            f"Expected a checkpoint, an `.npz`. Received: {path}, which holds "
            "a whole model: `keras.models.load_model` reads it."
        )
    else:
        content = pathlib.Path(path).read_bytes()
    try:
        with io.BytesIO(content) as file:
            if zipfile.ZipFile(file).testzip() is not None:
                raise ValueError("a checksum of the archive is wrong")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                arrays = {key: stored[key] for key in stored.files}
        if "__header__" not in arrays:
            raise ValueError("keras_reptile did not write it")
        header = json.loads(str(arrays.pop("__header__")))
        whole = header["sha256"] == _checksum(arrays)
    except Exception as error:  # Parsers raise anything on damaged bytes.
        raise DamagedCheckpoint(
            f"{path} is not a whole checkpoint: {error!r}"
        ) from error
    if not whole:
        raise DamagedCheckpoint(f"{path} does not match its checksum")
    return header, arrays


def _storable(array):
    """bfloat16, of which an archive has the bytes only, as float32: exact."""
    return array.astype("float32") if array.dtype.kind == "V" else array


def _checksum(arrays):
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype} {array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
