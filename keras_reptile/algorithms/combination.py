"""Any weighted sum of the inner steps as the meta-gradient.

Source: Nichol, Achiam & Schulman 2018, section 6.1 and Fig. 3, which compares
sums of the first, second, ... inner gradients.
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_reptile.episodes import Task
from keras_reptile.inner_step import State
from keras_reptile.learner import Learner


@keras.saving.register_keras_serializable(package="keras_reptile")
class Combination:
    """An algorithm; made by `kr.algorithms.combination`."""

    of_weight_changes = True

    def __init__(self, coefficients):
        self.coefficients = _checked(coefficients)

    def __call__(
        self, learner: Learner, state: State, task: Task
    ) -> tuple[list, State]:
        steps = task.batches.shape[0]
        if len(self.coefficients) != steps:
            raise ValueError(
                "A combination has one coefficient for each inner step. "
                f"Received: {len(self.coefficients)} coefficients and "
                f"{steps} inner steps. Give as many of one as of the other."
            )

        def body(i, before, total):
            after = learner.step(before, *learner.batch(task, i))
            moved = [b - a for b, a in zip(before.weights, after.weights)]
            total = [
                t + tf.constant(self.coefficients, m.dtype)[i] * m
                for t, m in zip(total, moved)
            ]
            return i + 1, after, total

        nothing = [tf.zeros_like(w) for w in state.weights]
        _, adapted, meta_gradient = tf.while_loop(
            lambda i, *_: i < steps,
            body,
            (tf.constant(0), state, nothing),
            maximum_iterations=steps,
        )
        return meta_gradient, adapted

    def get_config(self):
        return {"coefficients": self.coefficients}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        return f"combination({self.coefficients})"


def combination(coefficients: Sequence[float]) -> Combination:
    """An algorithm whose meta-gradient is a weighted sum of inner steps.

    With `w_i` the weights before inner step `i`, the meta-gradient is
    `sum_i c_i * (w_i - w_{i+1})`. Ones are Reptile, a one at the end is FOML,
    a one at the beginning is joint training, but for what the steps after it
    leave in the inner optimizer's slots. Under plain gradient descent a step is
    the gradient of its batch times the inner rate.

    Args:
        coefficients: One finite number for each inner step.

    Returns:
        A function `(learner, state, task) -> (meta_gradient, adapted)` for
        `MetaModel(algorithm=...)`.

    Raises:
        ValueError: If they are no finite numbers, or all of them are 0; when
            it is used, if there are not as many as inner steps.

    Example:

    ```python
    second_and_third = kr.algorithms.combination([0, 1, 1, 0])
    model = kr.MetaModel(network, algorithm=second_and_third)
    ```
    """
    return Combination(coefficients)


def _checked(coefficients):
    try:
        numbers = np.asarray(coefficients, "float64")
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if numbers.ndim != 1 or not np.isfinite(numbers).all() or not any(numbers):
        raise ValueError(
            "`coefficients` must be a list of finite numbers, one for each "
            f"inner step and not all of them 0. Received: {coefficients!r}."
        )
    return numbers.tolist()
