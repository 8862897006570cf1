"""What is asked of data from outside, once, where it enters."""

import numpy as np
import tensorflow as tf

from keras_reptile import shapes
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


def check_losses(tasks: Task, model, loss) -> None:
    """`check_loss` of the first task's support and query examples."""
    for examples in (tasks.support, tasks.query):
        if examples.x.shape[1]:
            example = examples.x.shape[2:]
            check_loss(examples.y[0], example, model, loss)


def check_loss(targets, example: tuple, model, loss) -> None:
    """Refuses targets that the loss cannot compare with the outputs.

    Args:
        targets: Of one task, an array of shape `(n, ...)`.
        example: The shape of an example.
        model: A built model.
        loss: A `PerExampleLoss`.

    Raises:
        ValueError: With the shapes of both.
    """
    width = shapes.output_shape(model, example)
    if None in width:
        return
    of = getattr(model, "outputs", None)
    precision = of[0].dtype if of else model.compute_dtype
    if precision != "float64":  # Half is cast before it comes to the loss.
        precision = "float32"
    outputs = np.full((len(targets), *width), 0.5, precision)
    try:
        values = loss(tf.constant(targets), tf.constant(outputs))
        problem = f"values of shape {tuple(values.shape)}"
    except Exception as error:  # A user's loss raises anything.
        values, problem = None, f"{type(error).__name__}: {error}"
    one_each = values is not None and values.shape == (len(targets),)
    if not one_each or _broadcasts(targets, outputs, loss):
        raise ValueError(
            "`loss` must compare targets with outputs and give one value per "
            f"example. Received: targets of shape {targets.shape} and dtype "
            f"{targets.dtype}, outputs of shape {outputs.shape}, and from the "
            f"loss {problem}. Shape the targets as the outputs, or, for "
            "integer labels, choose sparse_categorical_crossentropy."
        )


def _broadcasts(targets, outputs, loss):
    """Whether shapes differ where Keras' losses would broadcast silently."""
    allowed = [outputs.shape]
    if outputs.shape[1:] == (1,):
        allowed.append(outputs.shape[:1])
    if outputs.ndim == 1:
        allowed.append((*outputs.shape, 1))
    return loss.is_elementwise and targets.shape not in allowed


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
        raise ValueError(
            "The model's output must be as wide as the episodes have classes."
            f" Received: an output of width {width}, and ways={ways}. Give "
            f"the last layer {ways} units, or draw {width}-way episodes."
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
        raise ValueError(
            f"`{name}` must be floats, in the units that the model was "
            f"trained on. Received: {x.dtype}. Images of 0 to 255 become so "
            "by `x.astype('float32') / 255`."
        )
    if not np.isfinite(x).all():
        raise ValueError(
            f"`{name}` must be finite. Received: NaN or infinity in "
            f"{(~np.isfinite(x)).sum()} of {x.size} values."
        )
    if x.dtype.kind == "f" and shapes.takes_integers(model):
        _check_whole(x, model, name)
    check_tokens(x, model, name)


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
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim < 1 or not len(x) or y.shape[:1] != x.shape[:1]:
        raise ValueError(
            "Expected one label per support example (or one target), and at "
            f"least one example. Received: x of shape {x.shape} and y of shape "
            f"{y.shape}."
        )
    check_examples(x, model, "x")
    if y.dtype.kind not in "iufb":
        raise ValueError(
            f"`y` must be numbers. Received: dtype {y.dtype}. Number the "
            "classes from 0."
        )
    if loss.takes_labels:
        if y.ndim != 1:
            raise ValueError(
                "Expected one label per support example, y of shape (n,). "
                f"Received: y of shape {y.shape}."
            )
        check_labels(y, shapes.width(model, x.shape[1:]), "y")
    elif y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError("`y` must be finite. Received: NaN or infinity.")
    x = x.astype(np.float32)
    y = y.astype(np.float32 if y.dtype.kind == "f" else np.int32)
    check_loss(y, x.shape[1:], model, loss)
    return x, y
