"""What a meta-step makes of its tasks' results: meta-gradient and slots.

Source: Nichol, Achiam & Schulman 2018, Algorithm 2; for the slots, the
original's `Reptile.train_step`, which never resets them in training.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_reptile import distribution

INNER_STATES = ("average", "last", "carry", "reset")


class Mean(NamedTuple):
    """Means over the tasks of all replicas.

    `values` are the means; `counted`, of shape `(tasks,)`, says which tasks
    of this replica are in them; `count` is their number over all replicas.
    """

    values: list
    counted: tf.Tensor
    count: tf.Tensor


def mean_over_tasks(lists, real) -> Mean:
    """The mean over all tasks whose values are finite, of all replicas.

    Called where a replica runs, outside of loops and conditions.

    Args:
        lists: A list of tensors for each task of this replica.
        real: Whether each task counts, booleans of shape `(tasks,)`; others
            only fill up a replica.

    Returns:
        A `Mean`; its values are 0 where no task counts.
    """
    # Not add_n: with it 3 of 29 models built anew in one process differed in
    # the last bit after the same episodes, with this form none of 29.
    stacked = [tf.stack(parts) for parts in zip(*lists)]
    sums = [tf.reduce_sum(parts, 0) for parts in stacked]
    # A sum that is finite has finite parts: so the parts are looked at only
    # if it is not.
    sums, counted = tf.cond(
        tf.reduce_all(real) & all_finite(sums),
        lambda: (sums, real),
        lambda: _without_failed(stacked, real),
    )
    count = tf.reduce_sum(tf.cast(counted, tf.float32))
    *sums, count = distribution.sum_over_replicas([*sums, count])
    means = [tf.math.divide_no_nan(s, tf.cast(count, s.dtype)) for s in sums]
    return Mean(means, counted, count)


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


def _of_last(slots, counted, numbers) -> list:
    """The slots of the last task of all replicas that counts.

    Args:
        slots: A list of tensors for each task of this replica.
        counted: Whether each counts, booleans of shape `(tasks,)`.
        numbers: Of the tasks in the meta-batch, int64 of shape `(tasks,)`.
    """
    numbers = tf.where(counted, numbers, -1)
    last = tf.reduce_max(numbers)[tf.newaxis]
    (last_of_all,) = distribution.gathered([tf.cast(last, tf.float32)])
    is_last = counted & (
        tf.cast(numbers, tf.float32) == tf.reduce_max(last_of_all)
    )
    sums = []
    for parts in zip(*slots):
        column = tf.reshape(is_last, (-1, *[1] * len(parts[0].shape)))
        # A sum of one and zeros, as the task is another replica's.
        sums.append(tf.reduce_sum(tf.where(column, tf.stack(parts), 0), 0))
    return distribution.sum_over_replicas(sums)


def update(gradients, slots, real, numbers, mode: str, before, fresh):
    """The meta-gradient of a meta-step, and the slots after it.

    Args:
        gradients: The meta-gradient of each task of this replica.
        slots: The inner optimizer's slots after each.
        real: Whether each task counts, booleans of shape `(tasks,)`.
        numbers: Of the tasks in the meta-batch, int64 of shape `(tasks,)`.
        mode: One of `INNER_STATES`.
        before: The slots before the meta-step.
        fresh: The slots of an optimizer not yet used.

    Returns:
        `(meta_gradient, slots, counted)`; the last as `Mean` has it. Where no
        task counts, the gradient is 0 and the slots are those before.
    """
    # Integers are step counters, the same in every task.
    floating = [i for i, s in enumerate(before) if s.dtype.is_floating]
    if mode in ("carry", "reset"):
        mean = mean_over_tasks(gradients, real)
        # Slots that are carried have left out what failed, see `run_tasks`.
        after = fresh if mode == "reset" else slots[-1]
        return mean.values, after, mean.counted
    of_tasks = [[of_task[i] for i in floating] for of_task in slots]
    lists = [[*g, *of_task] for g, of_task in zip(gradients, of_tasks)]
    mean = mean_over_tasks(lists, real)
    number = len(gradients[0])
    after = mean.values[number:]
    if mode == "last":
        after = _of_last(of_tasks, mean.counted, numbers)
    after = dict(zip(floating, after))
    kept = [
        tf.where(mean.count > 0, after.get(i, slots[0][i]), old)
        for i, old in enumerate(before)
    ]
    return mean.values[:number], kept, mean.counted
