"""The three meta-gradients of section 5.1, measured on given batches.

The inner loop here is plain gradient descent at a given rate, whatever the
learner's optimizer is, since that is what the theory is of. A task's batches
are the rows of `task.batches`; all of them count, so that MAML and FOMAML
take k - 1 inner steps and the k-th batch is their meta-batch.

The theory is of one loss for each batch. So the buffers stay as they are given,
and dropout has the same mask wherever the loss is asked for; and it is of the
variables that the learner adapts, as if the others were constants.
"""

import tensorflow as tf
from numpy.typing import ArrayLike

from keras_reptile.analysis import inputs, vectors
from keras_reptile.analysis.smoothness import (
    check_second_derivative,
    check_smooth,
)
from keras_reptile.episodes import Task
from keras_reptile.inner_step import State, dense
from keras_reptile.learner import Learner

ALGORITHMS = ("maml", "fomaml", "reptile")


def hessian_vector_product(
    learner: Learner,
    state: State,
    x: ArrayLike,
    y: ArrayLike,
    vector: list,
) -> list:
    """The Hessian of one batch's loss, times a vector.

    Args:
        learner: The model and its loss. Its inner optimizer and its weight
            decay do not count.
        state: Where the Hessian is taken.
        x: Examples of shape `(n, ...)`.
        y: Their targets.
        vector: A list of tensors like `state.weights`.

    Returns:
        A list of tensors like `state.weights`; zeros for those that the
        learner does not adapt, whose parts of the vector do not count.

    Raises:
        ValueError: If the vector is not like the weights, the batch does not
            suit the learner, or a layer has no second derivative.
    """
    x, y = inputs.checked_batch(learner, x, y)
    check_second_derivative(learner, x, "A Hessian")
    vector = inputs.checked_vector(vector, state.weights)
    return hessian_product(learner.unrounded(), state, x, y, vector)


def hessian_product(learner, state, x, y, vector) -> list:
    """`hessian_vector_product` without its checks."""
    with tf.GradientTape() as tape:
        tape.watch(state.weights)
        gradient, _, _ = learner.gradient(state, x, y)
    # The Hessian is its own transpose, so that reverse mode twice will do.
    product = tape.gradient(
        gradient,
        state.weights,
        output_gradients=vector,
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )
    return [
        part if adapts else tf.zeros_like(part)
        for part, adapts in zip(dense(product), learner.adapts)
    ]


def meta_gradients(
    learner: Learner, state: State, task: Task, rate: float
) -> dict[str, list]:
    """The meta-gradients of one task, on the path through all its batches.

    Args:
        learner: The model and its loss. Its inner optimizer and its weight
            decay do not count.
        state: Initial weights and buffers.
        task: One episode with k inner batches.
        rate: The inner rate, above 0.

    Returns:
        By `"maml"`, `"fomaml"` and `"reptile"`, lists like `state.weights`,
        in units of gradients: Reptile's is `(w - w') / rate`, the sum of the
        gradients met on the way. Zeros for what the learner does not adapt.

    Raises:
        ValueError: If the task does not suit the learner, or the rate is not
            above 0.
    """
    inputs.check_task(learner, task)
    check_smooth(learner, *task.support)
    return _on_path(learner, state, task, inputs.checked_rate(rate))


def _on_path(learner, state, task, rate):
    learner, path, gradients = learner.unrounded(), [state], []
    for i in range(task.batches.shape[0]):
        gradient, _, _ = learner.gradient(path[-1], *learner.batch(task, i))
        gradients.append(gradient)
        weights = vectors.plus(path[-1].weights, gradient, -rate)
        path.append(path[-1]._replace(weights=weights))
    maml = gradients[-1]
    for i in reversed(range(len(gradients) - 1)):
        product = hessian_product(
            learner, path[i], *learner.batch(task, i), maml
        )
        maml = vectors.plus(maml, product, -rate)
    reptile = gradients[0]
    for gradient in gradients[1:]:
        reptile = vectors.plus(reptile, gradient)
    return {"maml": maml, "fomaml": gradients[-1], "reptile": reptile}


def measure_meta_gradients(
    learner: Learner, tasks: Task, rate: float, num_tasks: int = 100
) -> dict[str, list]:
    """The mean of `meta_gradients` over tasks, from the model's weights.

    And over orders of each task's batches in which every batch comes last as
    often as any other, and every pair as often in one order as in the other:
    the theory's expectation, without the noise of one order. The log says so
    where batches of a task share examples.

    Args:
        learner: The model and its loss. Its inner optimizer and its weight
            decay do not count.
        tasks: A batch of tasks with k inner batches each, or a stream of
            them.
        rate: The inner rate, above 0.
        num_tasks: How many to take of a stream.

    Returns:
        As `meta_gradients`.

    Raises:
        ValueError: If the tasks do not suit the learner, or the rate is not
            above 0.
    """
    rate = inputs.checked_rate(rate)
    tasks = inputs.checked_tasks(learner, tasks, num_tasks)
    inputs.warn_of_shared_examples(tasks)
    check_smooth(learner, *tasks[0].support)
    state = learner.state()
    of_task = tf.function(
        lambda task, rate: _on_path(learner, state, task, rate),
        autograph=False,
    )
    if not tf.is_tensor(rate):  # With a tensor it is traced once.
        rate = tf.constant(rate, tf.float64)
    return mean(
        [
            of_task(task._replace(batches=tf.gather(task.batches, order)), rate)
            for task in tasks
            for order in _balanced_orders(task.batches.shape[0])
        ]
    )


def _balanced_orders(count):
    """Rotations and their reversals, those that are the same once."""
    rotations = [
        tuple((i + first) % count for i in range(count))
        for first in range(count)
    ]
    return sorted({*rotations, *(order[::-1] for order in rotations)})


def mean(structures):
    """The mean of equal structures of tensors."""
    return tf.nest.map_structure(
        lambda *parts: tf.add_n(parts) / len(parts), *structures
    )
