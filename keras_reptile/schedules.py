"""Schedules of the outer step size, as plain Keras schedules."""

import keras


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

    Raises:
        ValueError: If `steps` is below 1.

    Example:

    ```python
    keras.optimizers.SGD(kr.schedules.linear(1.0, 0.0, steps=100_000))
    ```
    """
    if steps < 1:
        raise ValueError(
            f"A schedule needs at least one meta-step. Received: steps={steps}."
        )
    return keras.optimizers.schedules.PolynomialDecay(
        initial, steps, end_learning_rate=final, power=1.0
    )
