"""Joint training: one model for all tasks, without any adaptation in mind.

Source: Nichol, Achiam & Schulman 2018, section 3: with one inner step,
Reptile is gradient descent on the loss expected over the tasks.
"""

from keras_reptile.episodes import Task
from keras_reptile.inner_step import State
from keras_reptile.learner import Learner


def joint(learner: Learner, state: State, task: Task) -> tuple[list, State]:
    """Returns the first inner step as the meta-gradient.

    Args:
        learner: The model, its loss and its inner optimizer.
        state: Initial weights, buffers and optimizer slots.
        task: One episode. Only its first inner batch is read.

    Returns:
        `(meta_gradient, adapted)`: a list of tensors shaped like
        `state.weights`, and the `State` after that one step.
    """
    adapted = learner.part(0, 1).adapt(state, task)
    meta_gradient = [w - a for w, a in zip(state.weights, adapted.weights)]
    # `loss` is a sum over all the steps of the task, of which one was taken.
    steps = task.batches.shape[0]
    return meta_gradient, adapted._replace(loss=steps * adapted.loss)


joint.of_weight_changes = True
