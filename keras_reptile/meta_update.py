"""What a meta-step makes of its tasks' results: meta-gradient and slots.

Source: Nichol, Achiam & Schulman 2018, Algorithm 2; for the slots, the
original's `Reptile.train_step`, which never resets them in training.
"""

import tensorflow as tf

from keras_reptile import distribution

INNER_STATES = ("average", "last", "carry", "reset")


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


def _of_last(slots, counted, numbers) -> list:
    """The slots of the last task of all replicas that counts.

    Args:
        slots: A list of tensors for each task of this replica.
        counted: Whether each counts, booleans of shape `(tasks,)`.
        numbers: Of the tasks in the meta-batch, int64 of shape `(tasks,)`.

    Returns:
        Tensors that are 0 on all replicas but the one that ran the task.
    """
    numbers = tf.where(counted, tf.cast(numbers, tf.float32), -1.0)
    last = tf.reduce_max(numbers, keepdims=True)
    (of_replicas,) = distribution.gathered([last])
    is_last = counted & (numbers == tf.reduce_max(of_replicas))
    rows = [
        tf.where(_as_column(is_last, parts[0]), tf.stack(parts), 0)
        for parts in zip(*slots)
    ]
    return [tf.reduce_sum(row, 0) for row in rows]


def _as_column(of_tasks, like):
    return tf.reshape(of_tasks, (-1, *[1] * len(like.shape)))


def update(gradients, slots, real, numbers, mode: str, before, fresh):
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

    Returns:
        `(meta_gradient, slots, counted)`; the gradient is the mean over the
        tasks of all replicas whose values are finite, and `counted` says which
        of this replica's are. Where none is, the gradient is 0 and the slots
        are those before.
    """
    # Integers are step counters, the same in every task.
    floating = [i for i, s in enumerate(before) if s.dtype.is_floating]
    if mode in ("carry", "reset"):
        floating = []  # No slots of several tasks are put together.
    of_tasks = [[of_task[i] for i in floating] for of_task in slots]
    lists = [[*g, *of_task] for g, of_task in zip(gradients, of_tasks)]
    number = len(gradients[0])
    sums, counted = _summed(lists, real)
    if mode == "last":
        sums = [*sums[:number], *_of_last(of_tasks, counted, numbers)]
    count = tf.reduce_sum(tf.cast(counted, tf.float32))
    *sums, count = distribution.sum_over_replicas([*sums, count])
    means = [tf.math.divide_no_nan(s, tf.cast(count, s.dtype)) for s in sums]
    if mode == "reset":
        return means[:number], fresh, counted
    if mode == "carry":
        # These have left out what failed, see `task_loops.run_tasks`.
        return means[:number], slots[-1], counted
    after = dict(zip(floating, (sums if mode == "last" else means)[number:]))
    kept = [
        tf.where(count > 0, after.get(i, slots[0][i]), old)
        for i, old in enumerate(before)
    ]
    return means[:number], kept, counted
