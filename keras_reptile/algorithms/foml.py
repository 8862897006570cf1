"""First-order MAML as the original has it: the last inner step counts.

Source: Nichol, Achiam & Schulman 2018, sections 3 and 6.2; the original's
`FOML`, whose update is the weights' change in the last step, in whatever
units the inner optimizer moves them.
"""

from keras_reptile.episodes import Task
from keras_reptile.inner_step import State
from keras_reptile.learner import Learner


def foml(learner: Learner, state: State, task: Task) -> tuple[list, State]:
    """Shared tail: the last inner step is a batch of the support set.

    Its examples may have been seen in the steps before it (the cycling form)
    or not, by chance (`EpisodeSpec(replacement=True)`).

    Args:
        learner: The model, its loss and its inner optimizer.
        state: Initial weights, buffers and optimizer slots.
        task: One episode. Only `task.support` and `task.batches` are read.

    Returns:
        `(meta_gradient, adapted)`: the last step's change of the weights, its
        sign reversed, and the `State` after it.
    """
    last = task.batches.shape[0] - 1
    before = learner.part(0, last).adapt(state, task)
    adapted = learner.part(last, last + 1).adapt(before, task)
    return _change(before, adapted), adapted


def foml_tail(learner: Learner, state: State, task: Task) -> tuple[list, State]:
    """Separate tail: the last step is on the query set, whole.

    The original's k steps with a tail of S shots are `EpisodeSpec(
    inner_steps=k - 1, queries=S)`, and S shots fewer.

    Args:
        learner: The model, its loss and its inner optimizer.
        state: Initial weights, buffers and optimizer slots.
        task: One episode with a query set.

    Returns:
        `(meta_gradient, adapted)`: the tail step's change of the weights, its
        sign reversed, and the `State` before it, but with its slots.

    Raises:
        ValueError: If the episodes have no query examples.
    """
    learner.require_queries(task)
    before = learner.adapt(state, task)
    after = learner.step(before, task.query.x, task.query.y)
    # The weights of before: nobody should be asked what was just shown.
    return _change(before, after), before._replace(slots=after.slots)


foml.of_weight_changes = foml_tail.of_weight_changes = True


def _change(before, after):
    return [b - a for b, a in zip(before.weights, after.weights)]
