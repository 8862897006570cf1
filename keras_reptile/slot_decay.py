"""How much an inner optimizer's slot keeps of its old value in a step.

Adam's second moment is `v' = 0.999 v + 0.001 g**2`: linear in its old value,
by a factor that is the same in every step. Of such slots one can say what
several tasks, one after another, would leave, from what each of them does
alone: `0.999**n v` plus what the task adds.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_reptile.stateless import is_learning_rate


class Decay(NamedTuple):
    """Of one slot.

    `factor` is what is left of an old value after one inner step; `adds_only`
    says that whatever a step adds is not negative, as with second moments.
    """

    factor: float
    adds_only: bool


def of_slots(optimizer, weights: list) -> list[Decay | None]:
    """The decay of each slot, by trying a few steps.

    Args:
        optimizer: From `keras_reptile.stateless`.
        weights: The variables that it is built for.

    Returns:
        A list like `optimizer.variables`; `None` for integers and for the
        learning rate.

    Raises:
        ValueError: If a slot is not linear in its old value by a factor that
            stays the same, or depends on another slot.
    """
    # So that the larger of two is now the one and now the other, as in Adamax,
    # also where there are few numbers.
    few = sum(w.shape.num_elements() for w in weights) < 1_000
    trials = [_tried(optimizer, weights, k) for k in range(8 if few else 2)]
    decays = []
    for variable, found in zip(optimizer.variables, zip(*trials)):
        decays.append(_agreed(found) if _is_slot(variable) else None)
        if _is_slot(variable) and decays[-1] is None:
            raise ValueError(
                'inner_state="accumulate" puts slots together that are linear '
                "in their old values, by a factor that stays the same. "
                f"Received: {type(optimizer).__name__} with "
                f"{optimizer.get_config()}, whose slot '{variable.path}' is "
                "not. Use an optimizer such as Adam, RMSprop or SGD, or "
                'inner_state="average".'
            )
    return decays


def _tried(optimizer, weights, trial):
    """By slot, `(factor, added)` of one step; `None` if it is not linear."""
    random = np.random.default_rng(trial // 2)
    slots = [random.uniform(0.5, 1.5, v.shape) for v in optimizer.variables]
    positions, gradients = (
        [tf.constant(random.uniform(-1, 1, w.shape), w.dtype) for w in weights]
        for _ in range(2)
    )
    # Of both signs, to see what is added; at another step, since a factor
    # that changes with time is none.
    gradients = [(-1) ** trial * g for g in gradients]

    def after(scale):
        values = [
            tf.constant(_value(v, scale * slot, 7 * trial), v.dtype)
            for v, slot in zip(optimizer.variables, slots)
        ]
        _, values = optimizer.stateless_apply(values, gradients, positions)
        return [np.asarray(value, "float64") for value in values]

    return [_line(*of_slot) for of_slot in zip(slots, *map(after, (1, 2, 3)))]


def _value(variable, slot, step):
    if is_learning_rate(variable):
        return variable.numpy()
    return slot if _is_slot(variable) else np.full(variable.shape, step)


def _is_slot(variable):
    floating = tf.as_dtype(variable.dtype).is_floating
    return floating and not is_learning_rate(variable)


def _line(slot, once, twice, thrice):
    """The factor of a slot in what it becomes, and the rest."""
    factors = (twice - once) / slot
    factor = factors.mean()
    bends = np.abs((thrice - twice) / slot - factor).max()
    if not max(bends, np.abs(factors - factor).max()) < 1e-5:
        return None
    return factor, (once - factor * slot).min()


def _agreed(found):
    """The decay that all trials of a slot found; `None` if they differ."""
    if None in found:
        return None
    factors, added = zip(*found)
    # Settings have few digits: rounding takes off float32's error, which
    # thousands of steps would add up.
    factor = abs(round(float(np.mean(factors)), 6))
    if np.ptp(factors) > 1e-5 or min(factors) < -1e-5 or factor > 1.0:
        return None
    return Decay(factor, bool(min(added) > -1e-5))
