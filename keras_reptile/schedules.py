"""Schedules of the outer step size, as plain Keras schedules."""

import math
import numbers

import keras

from keras_reptile.integers import check_integer


def linear(
    initial: float, final: float, steps: int
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Anneals the outer step size linearly, as the paper does.

    Step `i`, counted from 0, takes
    `(1 - i / steps) * initial + i / steps * final`: `final` itself comes one
    step after the last (the original's `train.py`).

    Args:
        initial: The outer step size of the first meta-step.
        final: What it is annealed to.
        steps: Meta-steps in the run.

    Returns:
        A schedule, to be the `learning_rate` of an outer optimizer.

    Raises:
        ValueError: If `steps` is no integer of at least 1, or a step size no
            number of at least 0.

    Example:

    ```python
    keras.optimizers.SGD(kr.schedules.linear(1.0, 0.0, steps=100_000))
    ```
    """
    check_integer("steps", steps, 1, " A schedule needs one meta-step.")
    for name, size in (("initial", initial), ("final", final)):
        number = isinstance(size, numbers.Real)
        if not number or not 0 <= size < math.inf:
            raise ValueError(
                f"`{name}` must be an outer step size, a number of at least "
                f"0. Received: {name}={size!r}."
            )
    return keras.optimizers.schedules.PolynomialDecay(
        initial, steps, end_learning_rate=final, power=1.0
    )
