"""Whether gradients of different batches of one task point the same way.

The theory's prediction (section 5.1): Reptile, FOMAML and MAML raise the inner
product of the gradients of a task's batches, so that a step on one of them
lowers the loss on the others; joint training has no such term.
"""

import math
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_reptile.analysis import inputs, vectors
from keras_reptile.episodes import Task
from keras_reptile.learner import Learner
from keras_reptile.scores import confidence_interval

_PROBED = 20


class Agreement(NamedTuple):
    """Means over tasks, of the first two batches of each.

    `inner_product` is of their gradients; `cosine` that divided by their
    norms; `transfer` by how much a step on the first, as the inner optimizer
    takes it, lowers the mean loss on the second. Of each there is the
    half-width of the 95 % confidence interval; NaN for one task.
    """

    inner_product: float
    cosine: float
    transfer: float
    inner_product_ci95: float
    cosine_ci95: float
    transfer_ci95: float


def gradient_agreement(
    learner: Learner, tasks: Task, num_tasks: int = 100
) -> Agreement:
    """Measures how much the batches of one task agree.

    Args:
        learner: The model, its loss and its inner optimizer, as they stand.
        tasks: A batch of tasks with at least two inner batches each, or a
            stream of them.
        num_tasks: How many to take of a stream.

    Returns:
        `Agreement`.

    Raises:
        ValueError: If the tasks do not suit the learner, a task has one
            batch only, or its first two share an example, which would agree
            for that reason.

    Example:

    ```python
    stream = omniglot.validation.episodes(spec, seed=1)
    kr.analysis.gradient_agreement(model.learner, stream).cosine
    ```
    """
    tasks = inputs.checked_tasks(learner, tasks, num_tasks)
    return Probe(learner, tasks).measure()


class Probe:
    """`gradient_agreement` on the same tasks, again and again.

    Args:
        learner: As `gradient_agreement`.
        tasks: A list of tasks.

    Raises:
        ValueError: As `gradient_agreement`.
    """

    def __init__(self, learner: Learner, tasks: list):
        check_apart(tasks)
        self._learner, self._tasks = learner, tasks
        self._of_task = _measuring_function(learner.unrounded())

    @classmethod
    def from_stream(cls, learner: Learner, x: tf.data.Dataset) -> "Probe":
        """On the first tasks of a stream, 20 or what it has."""
        return cls(learner, inputs.first_tasks(x, _PROBED))

    def measure(self) -> Agreement:
        """The agreement at the model's weights and slots as they stand."""
        state = self._learner.state()
        values = [self._of_task(state, task) for task in self._tasks]
        parts = [np.asarray(tf.stack(part)) for part in zip(*values)]
        one = len(self._tasks) == 1
        return Agreement(
            *(float(part.mean()) for part in parts),
            *(math.nan if one else confidence_interval(p) for p in parts),
        )


def _measuring_function(learner):
    def measure(state, task):
        (x, y), (other_x, other_y) = (learner.batch(task, i) for i in (0, 1))
        first, _, _ = learner.gradient(state, x, y)
        second, before, _ = learner.gradient(state, other_x, other_y)
        # With the buffers of before, so that dropout leaves out the same.
        stepped = learner.step(state, x, y)._replace(buffers=state.buffers)
        _, after, _ = learner.gradient(stepped, other_x, other_y)
        product = vectors.dot(first, second)
        sizes = vectors.norm(first) * vectors.norm(second)
        cosine = tf.math.divide_no_nan(product, sizes)
        return product, cosine, before - after

    return tf.function(measure, autograph=False)


def check_apart(tasks: list) -> None:
    """Refuses tasks whose first two batches are not two.

    Raises:
        ValueError: As `gradient_agreement` says.
    """
    for task in tasks:
        if task.batches.shape[0] < 2:
            raise ValueError(
                "The agreement is of two batches of a task. Received: tasks "
                f"of {task.batches.shape[0]} batches. Set `inner_steps` of "
                "EpisodeSpec to 2 or more."
            )
        first, second = task.batches[0], task.batches[1]
        if tf.reduce_any(first[:, tf.newaxis] == second):
            raise ValueError(
                "The first two batches of a task must not share an example, "
                f"by which they would agree. Received: {first.numpy()} and "
                f"{second.numpy()}. Draw without replacement, with shots * "
                "ways at least twice the `inner_batch_size`."
            )
