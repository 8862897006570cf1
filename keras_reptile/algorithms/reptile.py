"""Reptile: move the initialisation towards the weights each task adapts to.

Source: Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning
Algorithms", Algorithm 2 (batched version), arXiv:1803.02999.
"""

from keras_reptile.episodes import Task
from keras_reptile.inner_step import State
from keras_reptile.learner import Learner


def reptile(learner: Learner, state: State, task: Task) -> tuple[list, State]:
    """Returns the Reptile meta-gradient of one task, and the adapted state.

    With adapted weights `w'`, the meta-gradient is `w - w'`: descending it
    with plain SGD at learning rate `e` is the paper's `w + e * (w' - w)`.

    Args:
        learner: The model, its loss and its inner optimizer.
        state: Initial weights, buffers and optimizer slots.
        task: One episode. Only `task.support` and `task.batches` are read.

    Returns:
        `(meta_gradient, adapted)`: a list of tensors shaped like
        `state.weights`, and the `State` after the inner loop.
    """
    adapted = learner.adapt(state, task)
    meta_gradient = [w - a for w, a in zip(state.weights, adapted.weights)]
    return meta_gradient, adapted


# The meta-gradients of a task's parts, each begun where the one before it
# ended, add up to the task's: so a task may be cut in two (`lanes.py`).
reptile.additive = True
reptile.of_weight_changes = True
