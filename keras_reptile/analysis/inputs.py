"""What the instruments ask of what they are given, where it enters."""

import math
import weakref

import numpy as np
import tensorflow as tf
from absl import logging

from keras_reptile import checks, loss_checks, shapes
from keras_reptile.array_input import as_array
from keras_reptile.episodes import Task, unstack
from keras_reptile.integers import check_integer
from keras_reptile.learner import Learner
from keras_reptile.own_words import in_our_words

# By learner, the width of its outputs for each form of a batch.
_widths = weakref.WeakKeyDictionary()


def checked_tasks(learner: Learner, tasks, num_tasks: int) -> list[Task]:
    """Tasks that suit the learner, one by one.

    Args:
        learner: The model and its loss.
        tasks: A batch of tasks, or a dataset of them.
        num_tasks: How many to take of a dataset, from its beginning.

    Returns:
        A list, of all of a batch or of as many of a dataset as it has.

    Raises:
        ValueError: If either is something else, or they do not go together.
    """
    check_learner(learner)
    check_integer("num_tasks", num_tasks, 1)

    def check(element):
        _check_rank(element, 3, "a batch of tasks, as an element of a stream")
        _check_values(learner, element)

    if isinstance(tasks, tf.data.Dataset):
        if found := first_tasks(tasks, num_tasks, check):
            return found
        tasks = None
    check(tasks)
    return unstack(tasks)


@in_our_words()
def first_tasks(dataset, count: int, check=lambda element: None) -> list[Task]:
    """So many tasks of a dataset, or all that it has.

    Args:
        dataset: Of batches of tasks, which need not be alike.
        count: How many.
        check: Called on each element.
    """
    tasks = []
    for element in dataset:
        check(element)
        tasks += unstack(element)
        if len(tasks) >= count:
            break
    return tasks[:count]


def check_task(learner: Learner, task) -> None:
    """Refuses what is not one task that suits the learner.

    Raises:
        ValueError: That says what is wrong.
    """
    check_learner(learner)
    _check_rank(task, 2, "one task, as `kr.episodes.unstack(tasks)` has them")
    if not _is_symbolic(task):
        batch = tf.nest.map_structure(lambda x: np.asarray(x)[np.newaxis], task)
        _check_values(learner, batch)


def check_learner(learner) -> None:
    """Refuses what is no `Learner`.

    Raises:
        ValueError: That says where there is one.
    """
    if not isinstance(learner, Learner):
        raise ValueError(
            "`learner` must be a kr.Learner; a compiled MetaModel has one as "
            f"`model.learner`. Received: {type(learner).__name__}."
        )
    trainable = [v.path for v in learner.model.trainable_variables]
    if trainable != learner.trained_paths:
        raise ValueError(
            "The trainable variables must be those that the learner was made "
            f"with. Received: {len(learner.trained_paths)} then, "
            f"{len(trainable)} now. Call `compile` again after freezing or "
            "unfreezing layers."
        )


def checked_batch(learner: Learner, x, y) -> tuple:
    """One batch that suits the learner, as tensors.

    Raises:
        ValueError: That says what is wrong.
    """
    check_learner(learner)
    if _is_symbolic((x, y)):
        return x, y
    x, y = as_array("x", x), as_array("y", y)
    if not len(x) or len(x) != len(y):
        raise ValueError(
            "Expected a batch of one or more examples with a target each. "
            f"Received: x of shape {x.shape} and y of shape {y.shape}."
        )
    model, loss = learner.model, learner.loss_function
    checks.check_examples(x, model, "x")
    # What is of the model is asked once, as a subclassed one is called for it.
    widths = _widths.setdefault(learner, {})
    case = x.shape, y.shape, y.dtype
    known = case in widths
    if loss.takes_labels:
        if not known:
            width = shapes.width(model, x.shape[1:])
        checks.check_labels(y, widths[case] if known else width, "y")
    if not known:
        loss_checks.check_loss(y, x.shape[1:], model, loss)
        loss_checks.check_probabilities(x, model, loss)
        widths[case] = width if loss.takes_labels else None
    return tf.constant(x), tf.constant(y)


def checked_vector(vector, weights: list) -> list:
    """A list of tensors like the weights, and of their dtypes.

    Raises:
        ValueError: With both shapes.
    """
    expected = [tuple(weight.shape) for weight in weights]
    try:
        vector = [p if tf.is_tensor(p) else np.asarray(p) for p in vector]
        received = [tuple(part.shape) for part in vector]
    except (TypeError, ValueError):
        received = vector
    if received != expected:
        raise ValueError(
            "A vector has one part for each weight, of its shape: "
            f"{expected}. Received: {received}. `learner.gradient` returns "
            "such a list."
        )
    real = all(
        part.dtype.is_floating or part.dtype.is_integer
        if tf.is_tensor(part)
        else part.dtype.kind in "iuf" or part.dtype.name == "bfloat16"
        for part in vector
    )
    if not real:
        raise ValueError(
            "A vector is of real numbers. Received: parts of dtypes "
            f"{[part.dtype for part in vector]}."
        )
    return [tf.cast(part, w.dtype) for part, w in zip(vector, weights)]


def checked_rate(rate):
    """An inner rate as a number; a tensor of a graph as it is.

    Raises:
        ValueError: If it is not a finite number above 0.
    """
    if tf.is_tensor(rate) and not tf.executing_eagerly():
        return rate
    try:
        number = float(rate)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError(
            f"`rate` must be a number above 0. Received: rate={rate!r}. It "
            "is the inner rate, under which the meta-gradients are measured."
        )
    return number


def warn_of_shared_examples(tasks: list) -> None:
    """Says so where batches of a task are not distinct."""
    for task in tasks:
        if _is_symbolic(task):
            return
        batches = np.asarray(task.batches)
        examples = [set(batch.tolist()) for batch in batches]
        if sum(map(len, examples)) > len(set().union(*examples)):
            logging.warning(
                "AvgGradInner is of distinct batches, and the batches of a "
                "task share examples. Draw without replacement, with shots * "
                "ways at least `inner_steps` times the `inner_batch_size`."
            )
            return


def _check_rank(tasks, rank, expected):
    if not isinstance(tasks, Task):
        raise ValueError(
            f"Expected {expected}. Received: {type(tasks).__name__}."
        )
    if np.ndim(tasks.batches) != rank:
        raise ValueError(
            f"Expected {expected}, with `batches` of {rank} axes. Received: "
            f"`batches` of shape {tuple(np.shape(tasks.batches))}."
        )


def _check_values(learner, tasks):
    if _is_symbolic(tasks):
        return
    arrays = tf.nest.map_structure(np.asarray, tasks)
    loss = learner.loss_function
    checks.check_tasks(arrays, learner.model, loss.takes_labels)
    loss_checks.check_losses(arrays, learner.model, loss)


def _is_symbolic(task):
    return any(
        tf.is_tensor(part) and not hasattr(part, "numpy")
        for part in tf.nest.flatten(task)
    )
