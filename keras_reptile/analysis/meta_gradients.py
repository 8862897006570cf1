"""The three meta-gradients of section 5.1, measured on given batches.

The inner loop here is plain gradient descent at a given rate, whatever the
learner's optimizer is, since that is what the theory is of. A task's batches
are the rows of `task.batches`; all of them count, so that MAML and FOMAML
take k - 1 inner steps and the k-th batch is their meta-batch.
"""

import keras
import tensorflow as tf
from absl import logging

from keras_reptile.analysis import vectors
from keras_reptile.episodes import Task, unstack
from keras_reptile.learner import Learner, State

ALGORITHMS = ("maml", "fomaml", "reptile")
_WITH_KINKS = {
    "elu",
    "hard_sigmoid",
    "hard_silu",
    "hard_tanh",
    "leaky_relu",
    "relu",
    "relu6",
    "selu",
    "threshold",
}


def hessian_vector_product(
    learner: Learner, state: State, x, y, vector
) -> list:
    """The Hessian of one batch's loss, times a vector.

    Args:
        learner: The model and its loss.
        state: Where the Hessian is taken.
        x: Examples of shape `(n, ...)`.
        y: Their targets.
        vector: A list of tensors like `state.weights`.

    Returns:
        A list of tensors like `state.weights`.
    """
    learner = learner.unrounded()
    with tf.GradientTape() as tape:
        tape.watch(state.weights)
        gradient, _, _ = learner.gradient(state, x, y)
    # The Hessian is its own transpose, so that reverse mode twice will do.
    return tape.gradient(
        gradient,
        state.weights,
        output_gradients=list(vector),
        unconnected_gradients=tf.UnconnectedGradients.ZERO,
    )


def meta_gradients(
    learner: Learner, state: State, task: Task, rate
) -> dict[str, list]:
    """The meta-gradients of one task, on the path through all its batches.

    Args:
        learner: The model and its loss.
        state: Initial weights and buffers.
        task: One episode with k inner batches.
        rate: The inner rate, above 0.

    Returns:
        By `"maml"`, `"fomaml"` and `"reptile"`, lists like `state.weights`,
        in units of gradients: Reptile's is `(w - w') / rate`, the sum of the
        gradients met on the way.
    """
    learner, path, gradients = learner.unrounded(), [state], []
    for i in range(task.batches.shape[0]):
        gradient, _, buffers = learner.gradient(
            path[-1], *learner.batch(task, i)
        )
        gradients.append(gradient)
        weights = vectors.plus(path[-1].weights, gradient, -rate)
        path.append(path[-1]._replace(weights=weights, buffers=buffers))
    maml = gradients[-1]
    for i in reversed(range(len(gradients) - 1)):
        product = hessian_vector_product(
            learner, path[i], *learner.batch(task, i), maml
        )
        maml = vectors.plus(maml, product, -rate)
    reptile = gradients[0]
    for gradient in gradients[1:]:
        reptile = vectors.plus(reptile, gradient)
    return {"maml": maml, "fomaml": gradients[-1], "reptile": reptile}


def measure_meta_gradients(
    learner: Learner, tasks: Task, rate: float
) -> dict[str, list]:
    """The mean of `meta_gradients` over tasks, from the model's weights.

    And over orders of each task's batches in which every batch comes last as
    often as any other, and every pair as often in one order as in the other:
    the theory's expectation, without the noise of one order.

    Args:
        learner: The model and its loss.
        tasks: A batch of tasks with k inner batches each.
        rate: The inner rate, above 0.

    Returns:
        As `meta_gradients`.

    Raises:
        ValueError: If the rate is not above 0.
    """
    if not rate > 0:
        raise ValueError(
            f"`rate` must be above 0. Received: rate={rate!r}. It is the "
            "inner rate, under which the meta-gradients are measured."
        )
    state = learner.state()
    of_task = tf.function(
        lambda task, rate: meta_gradients(learner, state, task, rate),
        autograph=False,
    )
    # Tensors, so that the function is traced once.
    rate = tf.constant(rate, tf.float64)
    return mean(
        [
            of_task(task._replace(batches=tf.gather(task.batches, order)), rate)
            for task in unstack(tasks)
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


def check_smooth(learner: Learner) -> None:
    """Says so where the expansion cannot be expected to hold.

    The paper's expansion is a Taylor series in the inner rate: kinks of the
    activations break it, and in float32 rounding hides what is left of it at
    small rates.
    """
    layers = learner.model._flatten_layers(include_self=False)
    kinked = [layer.name for layer in layers if _has_kinks(layer)]
    if kinked:
        logging.warning(
            "The expansion in the inner rate needs smooth activations, such "
            "as tanh, softplus or gelu. The layers %s have kinks, at which "
            "its error does not fall with the square of the rate.",
            ", ".join(kinked),
        )
    if learner.state().weights[0].dtype != tf.float64:
        logging.warning(
            "At small inner rates the error of the expansion is below the "
            "rounding of the weights' %s. Build the model in float64 "
            '(keras.config.set_dtype_policy("float64")) to see it.',
            learner.state().weights[0].dtype.name,
        )


def _has_kinks(layer):
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", "")
    pooled = "MaxPooling" in type(layer).__name__
    kinds = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.PReLU)
    return name in _WITH_KINKS or pooled or isinstance(layer, kinds)
