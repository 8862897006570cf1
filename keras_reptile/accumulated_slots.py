"""Slots of tasks that ran side by side, put together as if in a row.

All tasks of a meta-batch start from the slots `v`. One that takes `n` steps
leaves `a**n v + b`, where `a` is the slot's decay and `b` is of its gradients.
Had it started from what the tasks before it left, with the same gradients,
then so much would be left of everything after the last task:

    a**(n1 + ... + nT) v + a**(n2 + ... + nT) b1 + ... + bT.

Source: the original's `Reptile.train_step`, which never resets its slots: a
task starts from those that the one before it left.
"""

import tensorflow as tf

from keras_reptile import distribution


class AccumulatedSlots:
    """Of one meta-step.

    Made where a replica runs, outside of loops and conditions.

    Args:
        before: The slots before the meta-step.
        decays: Of each, from `slot_decay.of_slots`.
        slots: Those after each task of this replica.
        counted: Whether each task counts, booleans of shape `(tasks,)`;
            the others leave nothing.
        numbers: Of the tasks in the meta-batch, int64 of shape `(tasks,)`,
            which are their order.
    """

    def __init__(self, before, decays, slots, counted, numbers):
        self._before = before
        self._decays = decays
        self._slots = slots
        self._counted = counted
        # Of inner steps; the optimizers of `slot_decay` have no other integer.
        counter = [s.dtype.is_integer for s in before].index(True)
        steps = [of_task[counter] - before[counter] for of_task in slots]
        self._steps = tf.where(counted, tf.cast(steps, tf.float32), 0.0)
        numbers = tf.cast(numbers, tf.float32)
        # A small reduction of its own: how much of a task is left depends on
        # which of the others have failed.
        steps, others = distribution.gathered([self._steps, numbers])
        is_later = others > numbers[:, tf.newaxis]
        self._later = tf.reduce_sum(tf.where(is_later, steps, 0.0), 1)
        self._total = tf.reduce_sum(steps)

    def of_replica(self) -> list:
        """What this replica's tasks leave, to be summed over replicas.

        Returns:
            A tensor for each floating-point slot, in order.
        """
        return [
            tf.zeros_like(old) if decay is None else self._left(i)
            for i, (old, decay) in enumerate(zip(self._before, self._decays))
            if old.dtype.is_floating
        ]

    def of_all(self, left: list) -> list:
        """The slots after the meta-step.

        Args:
            left: The sums of what `of_replica` gives.

        Returns:
            A list like `before`.
        """
        left = iter(left)
        after = []
        for old, decay in zip(self._before, self._decays):
            if old.dtype.is_integer:
                after.append(old + tf.cast(self._total, old.dtype))
                continue
            kept = 1 if decay is None else _kept(decay, self._total, old.dtype)
            after.append(kept * old + next(left))
        return after

    def _left(self, i):
        old, decay = self._before[i], self._decays[i]
        own, of_later = (
            tf.reshape(
                _kept(decay, steps, old.dtype), (-1, *[1] * len(old.shape))
            )
            for steps in (self._steps, self._later)
        )
        added = tf.stack([of_task[i] for of_task in self._slots]) - own * old
        if decay.adds_only:  # Which rounding might take below 0.
            added = tf.maximum(added, 0)
        # Not a product, as what failed may be NaN.
        counted = tf.reshape(self._counted, of_later.shape)
        return tf.reduce_sum(tf.where(counted, of_later * added, 0), 0)


def _kept(decay, steps, dtype):
    factor = tf.constant(decay.factor, tf.float64)
    return tf.cast(tf.pow(factor, tf.cast(steps, tf.float64)), dtype)
