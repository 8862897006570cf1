"""What is asked of data from outside, once, where it enters."""

import numpy as np

from keras_reptile import loss_checks, shapes
from keras_reptile.array_input import as_array, remedy_of_shape
from keras_reptile.episodes import Task
from keras_reptile.tokens import check_tokens


def check_tasks(tasks: Task, model, takes_labels: bool) -> None:
    """Refuses a batch of tasks of NumPy arrays; see `fit_checks`."""
    batches = tasks.batches
    if batches.ndim != 3 or batches.dtype.kind not in "iu":
        raise ValueError(
            "`batches` must be integers of shape (tasks, inner_steps, "
            f"inner_batch_size). Received: {batches.dtype} of shape "
            f"{batches.shape}."
        )
    if 0 in batches.shape:
        raise ValueError(
            "A meta-step needs at least one task, one inner step and one "
            f"example per step. Received: batches of shape {batches.shape}."
        )
    rows = tasks.support.x.shape[1]
    if batches.min() < 0 or batches.max() >= rows:
        raise ValueError(
            f"`batches` must name rows of the support set, 0 to {rows - 1}. "
            f"Received: {batches.min()} to {batches.max()}."
        )
    for part in ("support", "query"):
        x, y = getattr(tasks, part)
        if x.shape[:2] != y.shape[:2]:
            raise ValueError(
                f"`{part}.x` and `{part}.y` must agree in tasks and examples."
                f" Received: shapes {x.shape} and {y.shape}."
            )
        if part == "support" or x.shape[1]:
            check_examples(x.reshape(-1, *x.shape[2:]), model, f"{part}.x")
        if takes_labels:
            width = shapes.width(model, x.shape[2:])
            check_labels(y, width, f"{part}.y")


def check_ways(ways: int, model, example=None) -> None:
    """Refuses a classifier whose output is not `ways` wide.

    Args:
        ways: Classes per episode.
        model: A built model.
        example: Shape of an example, which a subclassed model needs.

    Raises:
        ValueError: If it is wider or narrower.
    """
    width = shapes.width(model, example)
    if width != ways:
        remedy = f"Give the last layer {ways} units"
        if width == 1:
            remedy += ", and compile with SparseCategoricalCrossentropy."
        else:
            remedy += f", or draw {width}-way episodes."
        raise ValueError(
            "The model's output must be as wide as the episodes have classes."
            f" Received: an output of width {width}, and ways={ways}. {remedy}"
        )


def check_shape(received, model, name="x") -> None:
    """Refuses a shape of one example that is not the model's.

    Raises:
        ValueError: With both shapes.
    """
    expected = shapes.example_shape(model)
    if not shapes.matches(expected, received):
        remedy = "Reshape them, or build the model for such examples."
        if shapes.matches(expected, (*received, 1)):
            remedy = "A channel axis is added by `x[..., np.newaxis]`."
        raise ValueError(
            f"`{name}` must hold examples of the model's input shape "
            f"{expected}. Received: examples of shape {tuple(received)}. "
            f"{remedy}"
        )


def check_examples(x, model, name="x") -> None:
    """Refuses examples that do not fit the model's input.

    Raises:
        ValueError: If they are not finite floats of the input's shape.
    """
    check_shape(x.shape[1:], model, name)
    whole = x.dtype.kind in "iu" and shapes.takes_integers(model)
    if x.dtype.kind != "f" and x.dtype.name != "bfloat16" and not whole:
        remedy = "Images of 0 to 255 become so by `x.astype('float32') / 255`."
        if x.dtype != np.uint8:
            remedy = "Whole numbers become so by `x.astype('float32')`."
        raise ValueError(
            f"`{name}` must be floats, in the units that the model was "
            f"trained on. Received: {x.dtype}. {remedy}"
        )
    _check_finite(name, x)
    if x.dtype.kind == "f" and shapes.takes_integers(model):
        _check_whole(x, model, name)
    check_tokens(x, model, name)


def _check_finite(name, x):
    if not np.isfinite(x).all():
        raise ValueError(
            f"`{name}` must be finite as {x.dtype}. Received: NaN or infinity "
            f"in {(~np.isfinite(x)).sum()} of {x.size} values."
        )


def _check_whole(x, model, name):
    if (x != np.floor(x)).any():
        raise ValueError(
            f"`{name}` must be whole numbers, as the model's input is of "
            f"{model.inputs[0].dtype}, which cuts others off. Received: "
            f"{x.min():.3g} to {x.max():.3g}. Episodes hold uint8 as 0 to 1: "
            "give the model an Input of float32, and leave a Rescaling out; "
            "or make classes of tokens by `x.astype('float32')`."
        )


def check_labels(y, width: int, name="y") -> None:
    """Refuses labels outside `0 .. width - 1`.

    Args:
        y: Labels.
        width: Of the model's output.
        name: Of the labels, for the message.

    Raises:
        ValueError: If they are of another type or out of range.
    """
    if y.dtype.kind not in "iu":
        raise ValueError(
            f"`{name}` must be integer labels. Received: dtype {y.dtype}. If "
            "they are whole numbers, pass `y.astype('int32')`."
        )
    if y.size and (y.min() < 0 or y.max() >= width):
        raise ValueError(
            f"`{name}` must be labels from 0 to {width - 1}, the model's "
            f"output being {width} wide. Received: labels from {y.min()} to "
            f"{y.max()}. Number the classes of a task from 0."
        )


def checked_support(x, y, model, loss):
    """The support set of `adapt` as arrays that suit the model.

    Args:
        x: Examples, shape `(n, ...)`.
        y: Targets, shape `(n, ...)`; labels where the loss takes them.
        model: A built model.
        loss: A `PerExampleLoss`.

    Returns:
        `(x, y)`: float32, and int32 for labels or else as Keras has floats.

    Raises:
        ValueError: If they do not.
    """
    x, y = as_array("x", x), as_array("y", y)
    if x.ndim < 1 or not len(x) or y.shape[:1] != x.shape[:1]:
        raise ValueError(
            "Expected one label per support example (or one target), and at "
            f"least one example. Received: x of shape {x.shape} and y of shape "
            f"{y.shape}."
        )
    check_examples(x, model, "x")
    with np.errstate(over="ignore"):  # What is too large becomes infinite.
        x = x.astype(np.float32)
    _check_finite("x", x)
    if y.dtype.kind not in "iufb":
        raise ValueError(
            f"`y` must be numbers. Received: dtype {y.dtype}. Number the "
            "classes from 0."
        )
    if loss.takes_labels:
        if y.ndim != 1:
            raise ValueError(
                "Expected one label per support example, y of shape (n,). "
                f"Received: y of shape {y.shape}.{remedy_of_shape(y)}"
            )
        y = y.astype(np.int32) if y.dtype.kind == "b" else y
        check_labels(y, shapes.width(model, x.shape[1:]), "y")
    elif y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError("`y` must be finite. Received: NaN or infinity.")
    if y.dtype.kind in "iu" and (np.abs(y.astype(float)) >= 2**31).any():
        raise ValueError(
            "`y` must hold what int32 can, or floats. Received: "
            f"{y.min()} to {y.max()}. Pass `y.astype('float32')`."
        )
    y = y.astype(np.float32 if y.dtype.kind == "f" else np.int32)
    loss_checks.check_loss(y, x.shape[1:], model, loss)
    loss_checks.check_probabilities(x, model, loss)
    return x, y
