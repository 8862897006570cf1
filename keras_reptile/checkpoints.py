"""Checkpoints of a meta-training run: whole, checked, exactly resumable.

A checkpoint is one file (`checkpoint_file.py`): the weights, the buffers, the
outer optimizer, the slots of the inner one, and the step. A damaged one is
found, and the one before it used.
"""

import os
import pathlib
import re
from typing import IO

import keras
from absl import logging

from keras_reptile import checkpoint_file
from keras_reptile.checkpoint_file import DamagedCheckpoint, read
from keras_reptile.settings import check_same, check_same_layers

__all__ = [
    "DamagedCheckpoint",
    "latest",
    "list_steps",
    "read",
    "restore",
    "step_of",
    "step_path",
    "variables_of",
    "write",
]
Path = str | os.PathLike
_PATTERN = re.compile(r"step-(\d{9,})\.npz")


def variables_of(model: keras.Model) -> dict:
    """All that a `MetaModel`'s training changes, by name.

    Args:
        model: A compiled `MetaModel`.

    Returns:
        `keras.Variable`s by a name that says what they are.

    Raises:
        ValueError: If the model is no compiled `MetaModel`.
    """
    _check_compiled(model)
    groups = {
        "weights": model.inner_model.trainable_variables,
        "buffers": model.inner_model.non_trainable_variables,
        "outer": model.optimizer.variables,
        "inner": model.inner_optimizer.variables,
    }
    return {
        f"{group}/{i:03d}/{variable.path}": variable
        for group, variables in groups.items()
        for i, variable in enumerate(variables)
    }


def write(
    path: Path,
    model: keras.Model,
    extra: dict | None = None,
    settings: dict | None = None,
) -> None:
    """Writes a checkpoint, atomically.

    Args:
        path: Of the file; its folder must exist.
        model: A compiled `MetaModel`.
        extra: What else to keep, as JSON.
        settings: What the run is made with, see `keras_reptile.settings`;
            `None` takes the model's.

    Raises:
        ValueError: If the model is no compiled `MetaModel`.
        OSError: If it cannot be written.
    """
    _check_compiled(model)
    header = {
        "format": 1,
        "step": model.meta_step,
        "extra": extra or {},
        "settings": model.settings if settings is None else settings,
        "labels": model.labels,
    }
    arrays = {name: v.numpy() for name, v in variables_of(model).items()}
    checkpoint_file.write(path, header, arrays)


def restore(
    path: Path | IO[bytes], model: keras.Model, settings: dict | None = None
) -> dict:
    """Sets a model's variables, and its `labels`, to those of a checkpoint.

    Args:
        path: Of the file, or the file itself, as in `read`.
        model: A compiled `MetaModel` of the same architecture.
        settings: What the run that goes on is made with; `None` does not
            ask.

    Returns:
        What was given as `extra`.

    Raises:
        DamagedCheckpoint: If the file is truncated or changed.
        OSError: If it cannot be read.
        ValueError: If the model is no compiled `MetaModel`, or if the
            checkpoint is of another architecture, other optimizers or other
            settings.
    """
    _check_compiled(model)
    header, pairs = _read_for(path, model, settings)
    for variable, array in pairs:
        variable.assign(array)
    model.labels = header.get("labels")  # Which those of before have not.
    return header["extra"]


def _read_for(path, model, settings):
    """A checkpoint's header and its pairs of variable and array."""
    header, arrays = read(path)
    pairs = _matched(variables_of(model), arrays, path)
    if settings is not None:
        check_same(settings, header["settings"], path)
    check_same_layers(model.settings, header["settings"], path)
    return header, pairs


def _check_compiled(model):
    if not hasattr(model, "require_compiled"):
        raise ValueError(
            "A checkpoint is of a `kr.MetaModel`, both of its optimizers "
            f"included. Received: {type(model).__name__}. Restore it into a "
            "MetaModel, whose `inner_model` is the plain one."
        )
    model.require_compiled()


def latest(
    directory: Path, model: keras.Model, settings: dict | None = None
) -> pathlib.Path | None:
    """Finds the newest whole checkpoint of a folder.

    A damaged one is said, left where it is, and the one before it taken.

    Args:
        directory: The folder.
        model: The compiled `MetaModel` that it is to be restored into.
        settings: As `restore` has them.

    Returns:
        Its path, or `None` where there is no checkpoint.

    Raises:
        OSError: If one cannot be read.
        ValueError: If the model is no compiled `MetaModel`, or there are
            checkpoints and none is whole, or of this architecture.
    """
    _check_compiled(model)
    paths = list_steps(directory)
    for path in reversed(paths):
        try:
            _read_for(path, model, settings)
            return path
        except DamagedCheckpoint as error:
            logging.warning("%s; the one before it is used.", error)
    if paths:
        raise ValueError(
            f"Expected a whole checkpoint in {directory}. Received: "
            f"{len(paths)}, all damaged. Move them away to start anew."
        )
    return None


def list_steps(directory: Path) -> list[pathlib.Path]:
    """The checkpoints of a folder.

    Args:
        directory: The folder; there need not be one.

    Returns:
        Their paths, oldest first. `best.npz` is not among them.
    """
    directory = pathlib.Path(directory)
    if not directory.is_dir():
        return []
    found = [p for p in directory.iterdir() if _PATTERN.fullmatch(p.name)]
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The meta-step by which a checkpoint is named.

    Args:
        path: Of the file, as `list_steps` has it.

    Returns:
        The meta-step.

    Raises:
        ValueError: If it is not named by one.
    """
    found = _PATTERN.fullmatch(pathlib.Path(path).name)
    if found is None:
        raise ValueError(
            "Expected a checkpoint named by its meta-step, as "
            f"{step_path('', 1_000)}. Received: {path}. `read(path)[0]` has "
            'the "step" of any.'
        )
    return int(found[1])


def step_path(directory: Path, step: int) -> pathlib.Path:
    """Where the checkpoint of a meta-step is.

    Args:
        directory: The folder.
        step: The meta-step.

    Returns:
        The path, whether there is a file or not.
    """
    return pathlib.Path(directory) / f"step-{step:09d}.npz"


def _matched(variables, arrays, path):
    """Pairs of variable and array; names past the group may differ."""
    theirs = {"/".join(k.split("/")[:2]): v for k, v in arrays.items()}
    ours = {"/".join(k.split("/")[:2]): v for k, v in variables.items()}
    pairs = [(v, theirs.get(k)) for k, v in ours.items()]
    wrong = {
        key: f"{variable.path}: {_kind(variable)} here, "
        f"{'nothing' if array is None else _kind(array)} there"
        for key, (variable, array) in zip(ours, pairs)
        if array is None or _kind(variable) != _kind(array)
    }
    wrong |= {k: f"{k}: nothing here" for k in theirs if k not in ours}
    if wrong:
        first = next(iter(wrong.values()))
        raise ValueError(
            "A checkpoint can only be restored into the model and the "
            f"optimizers it was made with. Received: {path}, which differs "
            f"in {len(wrong)} variables, the first being {first}. "
            f"{_remedy(wrong)}, or use another checkpoint folder."
        )
    return pairs


def _remedy(wrong):
    groups = {key.partition("/")[0] for key in wrong}
    if not groups <= {"outer", "inner"}:
        return "Build the same model"
    which = " and ".join(sorted(groups, reverse=True))
    return (
        f"Compile with the same {which} optimizer, its learning rate a number "
        "or a schedule as it was"
    )


def _kind(values):
    """Of a variable or an array, as it is stored."""
    dtype = str(values.dtype).replace("bfloat16", "float32")
    return f"{dtype} of shape {tuple(values.shape)}"
