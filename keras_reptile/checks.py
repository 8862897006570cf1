"""What is asked of data from outside, once, where it enters."""

import numpy as np
import tensorflow as tf
from absl import logging

from keras_reptile import shapes
from keras_reptile.episodes import Examples, Task


def check_task_dataset(dataset, model, loss) -> None:
    """Refuses a dataset that the model cannot be meta-trained on.

    Its first element is looked at: the rank and shape of the examples, NaN,
    the type and range of the labels, the rows that the batches name.

    Args:
        dataset: A `tf.data.Dataset`.
        model: The built inner model.
        loss: A `PerExampleLoss`, which says whether targets are labels.

    Raises:
        ValueError: That says what is wrong.
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise ValueError(
            "`fit` takes a tf.data.Dataset of Tasks, such as "
            "`classes.episodes(spec)`. Received: "
            f"{type(dataset).__name__}."
        )
    if not isinstance(dataset.element_spec, Task):
        raise ValueError(
            "The dataset's elements must be kr.Task(support, query, batches)."
            f" Received: {dataset.element_spec}."
        )
    batches = dataset.element_spec.batches.shape
    if batches.rank == 3 and None in batches[:2]:
        raise ValueError(
            "The number of tasks per meta-step and of inner steps must be "
            "known before training. Received: `batches` of shape "
            f"{batches}, expected (tasks, inner_steps, inner_batch_size). "
            "Batch the dataset with drop_remainder=True."
        )
    for tasks in dataset.take(1):
        tasks = tf.nest.map_structure(np.asarray, tasks)
        check_shape(tasks.support.x.shape[2:], model, "support.x")
        if getattr(dataset, "spec", None) is not None:
            _check_width(dataset.spec, model, tasks, loss)
        check_tasks(tasks, model, loss.takes_labels)
        check_loss(tasks, model, loss)


def _check_width(spec, model, tasks, loss):
    example = tasks.support.x.shape[2:]
    if loss.takes_labels:
        check_ways(spec.ways, model, example)
    elif shapes.output_shape(model, example)[-1:] != (spec.ways,):
        # A loss of one's own may mean it so; targets of classes seldom do.
        logging.warning(
            "The model's output is not as wide as the episodes have classes "
            "(%d); with labels for targets the loss would be wrong.",
            spec.ways,
        )


def check_tasks(tasks: Task, model, takes_labels: bool) -> None:
    """Refuses a batch of tasks of NumPy arrays; see `check_task_dataset`."""
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
            width = shapes.output_shape(model, x.shape[2:])[-1]
            check_labels(y, width, f"{part}.y")


def check_loss(tasks: Task, model, loss) -> None:
    """Refuses targets that the loss cannot compare with the outputs.

    Raises:
        ValueError: With the shapes of both.
    """
    targets = tasks.support.y[0]
    width = shapes.output_shape(model, tasks.support.x.shape[2:])
    if None in width:
        return
    outputs = np.full((len(targets), *width), 0.5, "float32")
    broadcasts = targets.ndim == outputs.ndim and targets.shape != outputs.shape
    try:
        values = loss(tf.constant(targets), tf.constant(outputs))
        problem = f"values of shape {tuple(values.shape)}"
    except Exception as error:  # A user's loss raises anything.
        values, problem = None, f"{type(error).__name__}: {error}"
    one_each = values is not None and values.shape == (len(targets),)
    if not one_each or (broadcasts and not loss.takes_labels):
        raise ValueError(
            "`loss` must compare targets with outputs and give one value per "
            f"example. Received: targets of shape {targets.shape} and dtype "
            f"{targets.dtype}, outputs of shape {outputs.shape}, and from the "
            f"loss {problem}. Shape the targets as the outputs (labels: one "
            "integer per example), or choose another loss."
        )


def check_ways(ways: int, model, example=None) -> None:
    """Refuses a classifier whose output is not `ways` wide.

    Args:
        ways: Classes per episode.
        model: A built model.
        example: Shape of an example, which a subclassed model needs.

    Raises:
        ValueError: If it is wider or narrower.
    """
    width = shapes.output_shape(model, example)[-1]
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
        raise ValueError(
            f"`{name}` must hold examples of the model's input shape "
            f"{expected}. Received: examples of shape {tuple(received)}. "
            "A channel axis is added by `x[..., np.newaxis]`."
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
    if loss.takes_labels:
        if y.ndim != 1:
            raise ValueError(
                "Expected one label per support example, y of shape (n,). "
                f"Received: y of shape {y.shape}."
            )
        check_labels(y, shapes.output_shape(model, x.shape[1:])[-1], "y")
    elif y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError("`y` must be finite. Received: NaN or infinity.")
    x = x.astype(np.float32)
    y = y.astype(np.float32 if y.dtype.kind == "f" else np.int32)
    one = Task(*[Examples(x[None], y[None])] * 2, np.zeros((1, 1, 1), "int32"))
    check_loss(one, model, loss)
    return x, y


def check_same_variables(at_compile: list, model) -> None:
    """Refuses a model of which layers were frozen since `compile`.

    Raises:
        ValueError: If other variables are trainable than at `compile`.
    """
    now = [variable.path for variable in model.trainable_variables]
    if now != at_compile:
        raise ValueError(
            "The trainable variables must be those of `compile`, to which "
            "both optimizers belong. Received: "
            f"{len(at_compile)} at `compile`, {len(now)} now. Call `compile` "
            "again after freezing or unfreezing layers."
        )


def check_epochs(
    dataset, steps_per_epoch, steps_per_execution, name="steps_per_epoch"
) -> None:
    """Refuses epochs that do not end, or end inside a call of several steps.

    Raises:
        ValueError: If a stream without an end is given no length of an
            epoch, or the length is not a multiple of `steps_per_execution`.
    """
    if steps_per_epoch is None:
        if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "A stream of episodes has no end, so Keras must be told the "
                f"length of an epoch. Received: {name}=None. Pass the number "
                "of meta-steps."
            )
    elif steps_per_epoch % steps_per_execution:
        raise ValueError(
            "An epoch must be a whole number of calls. Received: "
            f"{name}={steps_per_epoch}, which is not a multiple of "
            f"steps_per_execution={steps_per_execution}."
        )


def check_goes_on(dataset, meta_step: int) -> None:
    """Says so where a second `fit` sees the first's episodes again."""
    if meta_step and not hasattr(dataset, "starting_at"):
        logging.warning(
            "The model stands at meta-step %d, and the episodes start at the "
            "dataset's beginning. Only a stream as `classes.episodes(...)` "
            "gives it goes on where the model stands.",
            meta_step,
        )


def check_resumable(dataset) -> None:
    """Refuses to resume where the stream cannot start in the middle.

    Raises:
        ValueError: If the episodes are not a stream of `kr.data`.
    """
    if not hasattr(dataset, "starting_at"):
        raise ValueError(
            "To resume exactly, the episodes must start at the meta-step of "
            "the checkpoint. Received: a dataset without `starting_at`. Pass "
            "`classes.episodes(...)` itself, not a dataset made from it."
        )
