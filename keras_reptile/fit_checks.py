"""What is asked of a dataset and of a model when `fit` is called."""

import numpy as np
import tensorflow as tf

from keras_reptile import (
    callback_checks,
    checks,
    fit_warnings,
    loss_checks,
    shapes,
)
from keras_reptile.episodes import Task
from keras_reptile.integers import check_integer
from keras_reptile.own_words import said


def check_task_dataset(dataset, model, loss) -> np.ndarray:
    """Refuses a dataset that the model cannot be meta-trained on.

    Its first element is looked at: the rank and shape of the examples, NaN,
    the type and range of the labels, the rows that the batches name. Of the
    others there is `checked_throughout`.

    Args:
        dataset: A `tf.data.Dataset`.
        model: The built inner model.
        loss: A `PerExampleLoss`, which says whether targets are labels.

    Returns:
        The support examples that were looked at, an array.

    Raises:
        ValueError: That says what is wrong.
    """
    if not isinstance(dataset, tf.data.Dataset):
        remedy = "Arrays become one by `kr.data.from_arrays(x, y)"
        if hasattr(dataset, "episodes"):
            remedy = "Give `classes"
        raise ValueError(
            "A MetaModel takes a tf.data.Dataset of Tasks, such as "
            "`classes.episodes(spec)`. Received: "
            f"{type(dataset).__name__}. {remedy}.episodes(spec)`."
        )
    if not isinstance(dataset.element_spec, Task):
        raise ValueError(
            "The dataset's elements must be kr.Task(support, query, batches)."
            f" Received: {dataset.element_spec}."
        )
    _check_static(dataset.element_spec)
    if dataset.cardinality() == 0:
        raise ValueError(
            "A dataset must hold at least one meta-batch of tasks. Received: "
            "an empty one."
        )
    for tasks in dataset.take(1):
        tasks = tf.nest.map_structure(np.asarray, tasks)
        example = tasks.support.x.shape[2:]
        checks.check_shape(example, model, "support.x")
        if (spec := getattr(dataset, "spec", None)) is not None:
            if loss.takes_labels:
                checks.check_ways(spec.ways, model, example)
            elif spec.ways > 1:  # Of classes, and not of a regression.
                fit_warnings.warn_of_width(spec.ways, model, example)
        checks.check_tasks(tasks, model, loss.takes_labels)
        loss_checks.check_losses(tasks, model, loss)
    return tasks.support.x


def checked_throughout(dataset, model, loss):
    """A dataset of which every element is looked at as it is taken.

    A compiled program would take another row, or another class, for one that
    is not there. NaN in a support set needs no look: its task is left out, and
    counted. In queries it would be in the metrics of all; in their targets it
    is for the loss, which may leave it out.

    Args:
        dataset: Of tasks. A stream of `kr.data` is returned as it is.
        model: The built inner model.
        loss: A `PerExampleLoss`, which says whether targets are labels.
    """
    if hasattr(dataset, "starting_at") or hasattr(dataset, "looked_at"):
        return dataset
    example = dataset.element_spec.support.x.shape[2:]
    width = shapes.width(model, example) if loss.takes_labels else None

    @tf.autograph.experimental.do_not_convert
    def looked_at(task):
        rows = task.support.x.shape[1]
        within = [_within("`batches`", task.batches, rows)]
        if width is not None:
            for name in ("support", "query"):
                labels = getattr(task, name).y
                within.append(_within(f"`{name}.y`", labels, width))
        if task.query.x.dtype.is_floating:
            within.append(_finite("`query.x`", task.query.x))
        with tf.control_dependencies(within):
            return tf.nest.map_structure(tf.identity, task)

    dataset = dataset.map(looked_at, num_parallel_calls=1)
    dataset.looked_at = True  # Keras hands validation data on to `evaluate`.
    return dataset


def _within(name, numbers, end):
    numbers = tf.cast(numbers, tf.int64)
    ok = tf.reduce_all((numbers >= 0) & (numbers < end))
    lowest, highest = tf.reduce_min(numbers), tf.reduce_max(numbers)
    message = tf.strings.format(
        said(
            f"Every element's {name} must be from 0 to {end - 1}, as those of "
            "the first are. Received: {} to {} in a later one."
        ),
        (lowest, highest),
    )
    return tf.debugging.Assert(ok, [message])


def _finite(name, values):
    message = said(
        f"Of every element, {name} must be finite, as that of the first is. "
        "Received: NaN or infinity in a later one."
    )
    ok = tf.reduce_all(tf.math.is_finite(values))
    return tf.debugging.Assert(ok, [message])


def check_arguments(x, y, arguments: dict) -> None:
    """Refuses arguments of Keras' `fit` that mean nothing here, or mislead.

    Args:
        x: The episodes.
        y: Nothing.
        arguments: What else was given to `fit`, by name.

    Raises:
        ValueError: That names it.
    """
    if y is not None:
        raise ValueError(
            "A MetaModel takes a tf.data.Dataset of Tasks, which have their "
            "targets in them. Received: `y`. Arrays become one by "
            "`kr.data.from_arrays(x, y).episodes(spec)`."
        )
    _check_numbers(arguments)
    for name in ("sample_weight", "validation_split"):
        given = arguments.get(name)
        if given is not None and not (np.ndim(given) == 0 and given == 0):
            raise ValueError(
                "Tasks carry no weights, and are not split: their classes are "
                f"held out whole. Received: `{name}`. Leave it out, and "
                "validate by `kr.MetaTrainer(validation=classes.subset(...), "
                "...)` or `validation_data`."
            )
    if arguments.get("class_weight") is not None:
        raise ValueError(
            "The classes of an episode are drawn anew every time, and have no "
            "weights. Received: `class_weight`. Leave it out."
        )
    callback_checks.check_callbacks(x, arguments)


def _check_numbers(arguments):
    for name in ("batch_size", "validation_batch_size"):
        if arguments.get(name) is not None:
            raise ValueError(
                "The tasks of a meta-step are those of one element of the "
                f"dataset. Received: {name}={arguments[name]}. Use "
                "`classes.episodes(spec, meta_batch_size=...)`."
            )
    for name in ("epochs", "initial_epoch"):
        if name in arguments:
            check_integer(name, arguments[name], 0)
    if arguments.get("steps_per_epoch") is not None:
        check_integer("steps_per_epoch", arguments["steps_per_epoch"], 1)


def _check_static(spec):
    """Refuses tasks that do not say how many there are, and of what."""
    axes = {
        "batches": (spec.batches, "inner_steps, inner_batch_size"),
        "support.x": (spec.support.x, "examples, ..."),
        "support.y": (spec.support.y, "examples, ..."),
        "query.x": (spec.query.x, "examples, ..."),
        "query.y": (spec.query.y, "examples, ..."),
    }
    if spec.batches.shape.rank == 2:
        raise ValueError(
            "A MetaModel takes batches of tasks. Received: single tasks, whose "
            f"`batches` have the shape {spec.batches.shape}. Add an axis of "
            "tasks by `dataset.batch(meta_batch_size, drop_remainder=True)`."
        )
    for name, (part, others) in axes.items():
        if part.shape.rank is None or None in part.shape[:2]:
            raise ValueError(
                "The number of tasks per meta-step, of their examples and of "
                "inner steps must be known before training. Received: "
                f"`{name}` of shape {part.shape}, expected (tasks, {others}). "
                "Batch the dataset with drop_remainder=True."
            )


def check_same_variables(meta_model) -> None:
    """Refuses a model of which layers were frozen since `compile`.

    Raises:
        ValueError: If other variables are trainable than at `compile`.
    """
    model, at_compile = meta_model.inner_model, meta_model.learner.trained_paths
    now = [v.path for v in model.trainable_variables]
    # Of layers without weights, too: batch normalisation may be one.
    changed = [
        layer.name
        for layer, before in zip(
            model._flatten_layers(), meta_model.trained_layers
        )
        if layer.trainable != before
    ]
    if now != at_compile or changed:
        raise ValueError(
            "The trainable variables and layers must be those of `compile`, to "
            f"which both optimizers belong. Received: {len(at_compile)} "
            f"variables at `compile` and {len(now)} now, and `trainable` of "
            f"{', '.join(changed) or 'no layer'} set since. Call `compile` "
            "again after freezing or unfreezing layers."
        )
