"""What is asked of data from outside, once, where it enters."""

import numpy as np
import tensorflow as tf

from keras_reptile.episodes import Task


def check_task_dataset(dataset, model, takes_labels: bool) -> None:
    """Refuses a dataset that the model cannot be meta-trained on.

    Its first element is looked at: the rank and shape of the examples, NaN,
    the type and range of the labels, the rows that the batches name.

    Args:
        dataset: A `tf.data.Dataset`.
        model: The built inner model.
        takes_labels: Whether the targets are labels `0 .. ways - 1`.

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
    spec = getattr(dataset, "spec", None)
    if spec is not None and takes_labels:
        check_ways(spec.ways, model)
    for task in dataset.take(1):
        check_tasks(task, model, takes_labels)


def check_tasks(tasks: Task, model, takes_labels: bool) -> None:
    """Refuses a batch of tasks; see `check_task_dataset`."""
    tasks = tf.nest.map_structure(np.asarray, tasks)
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
            check_labels(y, model, f"{part}.y")


def check_ways(ways: int, model) -> None:
    """Refuses a classifier whose output is not `ways` wide.

    Raises:
        ValueError: If it is wider or narrower.
    """
    width = model.output_shape[-1]
    if width != ways:
        raise ValueError(
            "The model's output must be as wide as the episodes have classes."
            f" Received: an output of width {width}, and ways={ways}. Give "
            f"the last layer {ways} units, or draw {width}-way episodes."
        )


def check_examples(x, model, name="x") -> None:
    """Refuses examples that do not fit the model's input.

    Raises:
        ValueError: If they are not finite floats of the input's shape.
    """
    expected = tuple(model.input_shape[1:])
    if x.ndim != 1 + len(expected) or any(
        e is not None and e != r for e, r in zip(expected, x.shape[1:])
    ):
        raise ValueError(
            f"`{name}` must hold examples of the model's input shape "
            f"{expected}. Received: examples of shape {x.shape[1:]}. "
            "A channel axis is added by `x[..., np.newaxis]`."
        )
    if x.dtype.kind != "f":
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


def check_labels(y, model, name="y") -> None:
    """Refuses labels outside `0 .. width - 1` of the model's output.

    Raises:
        ValueError: If they are of another type or out of range.
    """
    width = model.output_shape[-1]
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


def checked_support(x, y, model):
    """The support set of `adapt` as arrays that suit the model.

    Returns:
        `(x, y)`, float32 and int32.

    Raises:
        ValueError: If they do not.
    """
    x, y = np.asarray(x), np.asarray(y)
    check_examples(x, model, "x")
    if y.shape != (len(x),) or not len(x):
        raise ValueError(
            "Expected one label per support example, y of shape (n,), and at "
            f"least one example. Received: x of shape {x.shape} and y of "
            f"shape {y.shape}."
        )
    check_labels(y, model, "y")
    return x.astype(np.float32), y.astype(np.int32)


def check_epochs(dataset, steps_per_epoch, steps_per_execution) -> None:
    """Refuses epochs that do not end, or end inside a call of several steps.

    Raises:
        ValueError: If a stream without an end is given no length of an
            epoch, or the length is not a multiple of `steps_per_execution`.
    """
    if steps_per_epoch is None:
        if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "A stream of episodes has no end, so `fit` must be told the "
                "length of an epoch. Received: steps_per_epoch=None. Pass the "
                "number of meta-steps."
            )
    elif steps_per_epoch % steps_per_execution:
        raise ValueError(
            "An epoch must be a whole number of calls. Received: "
            f"steps_per_epoch={steps_per_epoch}, which is not a multiple of "
            f"steps_per_execution={steps_per_execution}."
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
