"""What a meta-step makes of its tasks' results: meta-gradient and slots.

Source: Nichol, Achiam & Schulman 2018, Algorithm 2; for the slots, the
original's `Reptile.train_step`, which never resets them in training.
"""

import tensorflow as tf

from keras_reptile import distribution
from keras_reptile.accumulated_slots import AccumulatedSlots

INNER_STATES = ("average", "accumulate", "carry", "reset")


def _summed(lists, real) -> tuple:
    """Sums over the tasks of this replica whose values are finite.

    Args:
        lists: A list of tensors for each task.
        real: Whether each task counts, booleans of shape `(tasks,)`; others
            only fill up a replica.

    Returns:
        `(sums, counted)`; `counted` says which tasks are in the sums.
    """
    # Not add_n: with it 3 of 29 models built anew in one process differed in
    # the last bit after the same episodes, with this form none of 29.
    stacked = [tf.stack(parts) for parts in zip(*lists)]
    sums = [tf.reduce_sum(parts, 0) for parts in stacked]
    # A sum that is finite has finite parts: so the parts are looked at only
    # if it is not.
    return tf.cond(
        tf.reduce_all(real) & all_finite(sums),
        lambda: (sums, real),
        lambda: _without_failed(stacked, real),
    )


def _without_failed(stacked, real):
    """Sums over the tasks that are real and finite, and which they are."""
    rows = [tf.reshape(parts, (real.shape[0], -1)) for parts in stacked]
    finite = [tf.math.is_finite(tf.reduce_sum(row, 1)) for row in rows]
    counted = real & tf.reduce_all(finite, 0)
    column = counted[:, tf.newaxis]
    sums = [tf.reduce_sum(tf.where(column, row, 0), 0) for row in rows]
    sums = [tf.reshape(s, p.shape[1:]) for s, p in zip(sums, stacked)]
    return sums, counted


def all_finite(tensors) -> tf.Tensor:
    """Whether all values are finite, by their sums."""
    return tf.reduce_all(
        [tf.math.is_finite(tf.reduce_sum(tensor)) for tensor in tensors]
    )


def update(gradients, slots, real, numbers, mode: str, before, fresh, decays):
    """The meta-gradient of a meta-step, and the slots after it.

    Called where a replica runs, outside of loops and conditions.

    Args:
        gradients: The meta-gradient of each task of this replica.
        slots: The inner optimizer's slots after each.
        real: Whether each task counts, booleans of shape `(tasks,)`.
        numbers: Of the tasks in the meta-batch, int64 of shape `(tasks,)`.
        mode: One of `INNER_STATES`, which `MetaModel` explains.
        before: The slots before the meta-step.
        fresh: The slots of an optimizer not yet used.
        decays: Of the slots, from `slot_decay.of_slots`, to accumulate them.

    Returns:
        `(meta_gradient, slots, counted)`; the gradient is the mean over the
        tasks of all replicas whose values are finite, and `counted` says which
        of this replica's are. Where none is, the gradient is 0 and the slots
        are those before.
    """
    floating = [i for i, s in enumerate(before) if s.dtype.is_floating]
    if mode in ("carry", "reset"):
        floating = []  # No slots of several tasks are put together.
    of_tasks = [[of_task[i] for i in floating] for of_task in slots]
    lists = [[*g, *of_task] for g, of_task in zip(gradients, of_tasks)]
    number = len(gradients[0])
    sums, counted = _summed(lists, real)
    if mode == "accumulate":
        together = AccumulatedSlots(before, decays, slots, counted, numbers)
        sums = [*sums[:number], *together.of_replica()]
    count = tf.reduce_sum(tf.cast(counted, tf.float32))
    *sums, count = distribution.sum_over_replicas([*sums, count])
    means = [tf.math.divide_no_nan(s, tf.cast(count, s.dtype)) for s in sums]
    if mode == "reset":
        return means[:number], fresh, counted
    if mode == "carry":
        # These have left out what failed, see `task_loops.run_tasks`.
        return means[:number], slots[-1], counted
    if mode == "accumulate":
        return means[:number], together.of_all(sums[number:]), counted
    # Integers are step counters, the same in every task.
    after = dict(zip(floating, means[number:]))
    kept = [
        tf.where(count > 0, after.get(i, slots[0][i]), old)
        for i, old in enumerate(before)
    ]
    return means[:number], kept, counted
