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
    with tf.GradientTape() as tape:
        tape.watch(adapted.weights)
        loss = learner.query_loss(adapted, task)
    return _gradient(tape, loss, adapted.weights), adapted


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
    last = task.batches.shape[0] - 1
    tail = task._replace(query=Examples(*learner.batch(task, last)))
    return fomaml(learner.part(0, last), state, tail)


def _gradient(tape, loss, weights):
    return dense(
        tape.gradient(
            loss, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
    )
