"""MAML and its first-order form: the query loss after adaptation.

Source: Finn, Abbeel & Levine 2017, arXiv:1703.03400; Nichol, Achiam &
Schulman 2018, section 4, equations 5 to 8.
"""

import tensorflow as tf

from keras_reptile.episodes import Examples, Task
from keras_reptile.inner_step import State, dense
from keras_reptile.learner import Learner
from keras_reptile.second_order import check_in_algorithm


def maml(learner: Learner, state: State, task: Task) -> tuple[list, State]:
    """Returns the gradient of the query loss through the inner loop.

    Args:
        learner: The model, its loss and its inner optimizer, whose steps are
            differentiated too.
        state: Initial weights, buffers and optimizer slots.
        task: One episode with a query set.

    Returns:
        `(meta_gradient, adapted)`: the gradient, in the initial weights, of
        the mean loss per query example at the adapted ones; and the `State`
        after the inner loop.

    Raises:
        ValueError: If the episodes have no query examples, or a layer or the
            inner optimizer no second derivative.
    """
    check_in_algorithm(maml, learner, task.support.x)
    with tf.GradientTape() as tape:
        tape.watch(state.weights)
        adapted = learner.adapt(state, task)
        loss = learner.query_loss(adapted, task)
    return _gradient(tape, loss, state.weights), adapted


# Keeps a map over tasks away, inside of which it cannot be compiled.
maml.second_order = True


def fomaml(learner: Learner, state: State, task: Task) -> tuple[list, State]:
    """Returns the gradient of the query loss at the adapted weights.

    The textbook form, of a separate tail. The original's, which is in units
    of the last inner step, is `foml_tail`.

    Args:
        learner: The model, its loss and its inner optimizer.
        state: Initial weights, buffers and optimizer slots.
        task: One episode with a query set.

    Returns:
        `(meta_gradient, adapted)`: the gradient, in the adapted weights, of
        the mean loss per query example; and the `State` after the inner loop.

    Raises:
        ValueError: If the episodes have no query examples.
    """
    adapted = learner.adapt(state, task)
    gradient, _ = _of_queries(learner, adapted, task)
    return gradient, adapted


def fomaml_shared_tail(
    learner: Learner, state: State, task: Task
) -> tuple[list, State]:
    """Returns `fomaml`'s gradient with the last inner batch for the queries.

    The textbook form of `foml`: `k - 1` inner steps, and the gradient on the
    k-th batch of the support set, whose examples may have been seen before.

    Args:
        learner: The model, its loss and its inner optimizer.
        state: Initial weights, buffers and optimizer slots.
        task: One episode. Only `task.support` and `task.batches` are read.

    Returns:
        `(meta_gradient, adapted)`: the gradient, in the adapted weights, of
        the mean loss per example of the last batch; and the `State` before it.
    """
    steps = task.batches.shape[0]
    adapted = learner.part(0, steps - 1).adapt(state, task)
    tail = task._replace(query=Examples(*learner.batch(task, steps - 1)))
    gradient, loss = _of_queries(learner, adapted, tail)
    if steps > 1:  # A sum over all the steps, of which one was not taken.
        loss = adapted.loss * steps / (steps - 1)
    return gradient, adapted._replace(loss=tf.cast(loss, tf.float32))


def _of_queries(learner, adapted, task):
    with tf.GradientTape() as tape:
        tape.watch(adapted.weights)
        loss = learner.query_loss(adapted, task)
    return _gradient(tape, loss, adapted.weights), loss


def _gradient(tape, loss, weights):
    return dense(
        tape.gradient(
            loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
    )
