"""What is asked of a dataset and of a model when `fit` is called."""

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_reptile import checks, shapes
from keras_reptile.episodes import Task
from keras_reptile.integers import check_integer


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
        if getattr(dataset, "spec", None) is not None:
            _check_width(dataset.spec, model, tasks, loss)
        checks.check_tasks(tasks, model, loss.takes_labels)
        checks.check_losses(tasks, model, loss)


def check_arguments(x, arguments: dict) -> None:
    """Refuses arguments of Keras' `fit` that mean nothing here, or mislead.

    Args:
        x: The episodes.
        arguments: What else was given to `fit`, by name.

    Raises:
        ValueError: That names it.
    """
    if arguments.get("class_weight") is not None:
        raise ValueError(
            "The classes of an episode are drawn anew every time, and have no "
            "weights. Received: `class_weight`. Leave it out."
        )
    callbacks = keras.tree.flatten(arguments.get("callbacks") or [])
    backup = keras.callbacks.BackupAndRestore
    if hasattr(x, "starting_at") and any(
        isinstance(callback, backup) for callback in callbacks
    ):
        raise ValueError(
            "BackupAndRestore restores the weights after the episodes were "
            "chosen, and trains on the first ones again. Received: one among "
            "the callbacks. Use kr.MetaTrainer(checkpoint_dir=..., "
            "resume=True)."
        )
    resume = any(
        callback.resume
        for callback in callbacks
        if hasattr(callback, "before_fit")
    )
    if resume and arguments.get("initial_epoch"):
        raise ValueError(
            "With MetaTrainer(resume=True) the epoch follows from the "
            "meta-step of the checkpoint. Received: initial_epoch="
            f"{arguments['initial_epoch']}. Leave it out."
        )


def warn_of_intervals(arguments: dict, meta_step: int) -> None:
    """Says where a MetaTrainer would come to no evaluation.

    Args:
        arguments: What was given to `fit` besides the episodes, by name.
        meta_step: Where the model stands.
    """
    steps = arguments.get("steps_per_epoch") or 0
    steps *= arguments.get("epochs", 1) - arguments.get("initial_epoch", 0)
    for callback in keras.tree.flatten(arguments.get("callbacks") or []):
        interval = getattr(callback, "measures", False) and (
            callback.eval_interval
        )
        if not interval or not 0 < steps < interval:
            continue
        if (meta_step + steps) // interval == meta_step // interval:
            logging.warning(
                "MetaTrainer(eval_interval=%d) is longer than this `fit` of "
                "%d meta-steps, in which nothing is evaluated.",
                interval,
                steps,
            )


def _check_static(spec):
    """Refuses tasks that do not say how many there are, and of what."""
    axes = {
        "batches": (spec.batches, "inner_steps, inner_batch_size"),
        "support.x": (spec.support.x, "examples, ..."),
        "support.y": (spec.support.y, "examples, ..."),
        "query.x": (spec.query.x, "examples, ..."),
        "query.y": (spec.query.y, "examples, ..."),
    }
    for name, (part, others) in axes.items():
        if part.shape.rank is None or None in part.shape[:2]:
            raise ValueError(
                "The number of tasks per meta-step, of their examples and of "
                "inner steps must be known before training. Received: "
                f"`{name}` of shape {part.shape}, expected (tasks, {others}). "
                "Batch the dataset with drop_remainder=True."
            )


def _check_width(spec, model, tasks, loss):
    example = tasks.support.x.shape[2:]
    if loss.takes_labels:
        checks.check_ways(spec.ways, model, example)
    elif shapes.output_shape(model, example)[-1:] != (spec.ways,):
        # A loss of one's own may mean it so; targets of classes seldom do.
        logging.warning(
            "The model's output is not as wide as the episodes have classes "
            "(%d); with labels for targets the loss would be wrong.",
            spec.ways,
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


def check_intervals(**numbers) -> None:
    """Refuses numbers of meta-steps, or of files, that are none.

    Args:
        **numbers: By the name of the argument; `None` is let through.

    Raises:
        ValueError: If one is no integer of at least 1.
    """
    for name, value in numbers.items():
        if value is not None:
            check_integer(name, value, 1)
