"""What a meta-step does with the tasks of a meta-batch.

Source: Nichol, Achiam & Schulman 2018, Algorithm 2; for the slots, the
original's `Reptile.train_step`, which never resets them in training.
"""

import tensorflow as tf

from keras_reptile.episodes import Task, unstack
from keras_reptile.learner import Learner, State


def run_tasks(
    run,
    learner: Learner,
    state: State,
    tasks: Task,
    number,
    in_order: bool,
    carry: bool,
) -> list:
    """Runs an algorithm on each task.

    Args:
        run: A function `(state, task) -> (meta_gradient, adapted state)`.
        learner: The learner.
        state: The state at the beginning of the meta-step.
        tasks: A batch of tasks, their number static.
        number: The meta-step's number, from which dropout's seeds follow.
        in_order: Whether a task waits for the one before it. Otherwise the
            tasks run side by side.
        carry: Whether a task starts with the slots that the one before it
            ended with.

    Returns:
        What `run` returned, by task.
    """
    results, before = [], []
    for t, task in enumerate(unstack(tasks)):
        seeded = learner.with_seed(state, _task_number(tasks, number, t))
        with tf.control_dependencies(before):
            results.append(run(seeded, task))
        if in_order:
            before = [results[-1][1].loss]
        if carry:
            state = state._replace(slots=results[-1][1].slots)
    return results


def run_parts(
    run, learner: Learner, state: State, tasks: Task, number, planned
) -> list:
    """Runs an additive algorithm on tasks that are cut into parts.

    Args:
        run: A function `(state, task, first, last) -> (meta_gradient, state
            after those steps)`.
        learner: The learner.
        state: The state at the beginning of the meta-step.
        tasks: A batch of tasks, their number static.
        number: The meta-step's number, from which dropout's seeds follow.
        planned: Parts by lane, see `keras_reptile.lanes`.

    Returns:
        `(meta_gradient, adapted state)` by task.
    """
    results = {}
    ends = [[]] * len(planned)
    unstacked = unstack(tasks)
    # By position in the lanes, as a task's later part is last in its lane.
    for position in range(max(map(len, planned))):
        for lane, parts in enumerate(planned):
            if position >= len(parts):
                continue
            t, first, last = parts[position]
            task_number = _task_number(tasks, number, t)
            before, begun = results.get(
                t, (None, learner.with_seed(state, task_number))
            )
            with tf.control_dependencies(ends[lane]):
                part = run(
                    begun, unstacked[t], tf.constant(first), tf.constant(last)
                )
            gradient, adapted = part
            ends[lane] = [adapted.loss]
            if before is not None:
                gradient = [a + b for a, b in zip(before, gradient)]
            results[t] = gradient, adapted
    return [results[t] for t in range(len(unstacked))]


def vectorized(run):
    """An algorithm as one program for several tasks.

    Args:
        run: A function `(state, task) -> (meta_gradient, adapted state)`.

    Returns:
        A function of a state and a batch of tasks, whose results have a
        leading task axis.
    """
    return lambda state, tasks: tf.vectorized_map(
        lambda task: run(state, task), tasks
    )


def run_vectorized(run, state: State, tasks: Task, chunk: int) -> list:
    """Runs an algorithm on chunks of tasks, each of them one program.

    Args:
        run: What `vectorized` returns.
        state: The state at the beginning of the meta-step, without seeds.
        tasks: A batch of tasks, their number static.
        chunk: Tasks per program.

    Returns:
        `(meta_gradient, adapted state)` by task.
    """
    results = []
    for first in range(0, tasks.batches.shape[0], chunk):
        some = _at(slice(first, first + chunk), tasks)
        stacked = run(state, some)
        results += [_at(t, stacked) for t in range(some.batches.shape[0])]
    return results


def _at(index, tree):
    return tf.nest.map_structure(lambda x: x[index], tree)


def _task_number(tasks, number, t):
    """A task's number in the whole run, over all replicas."""
    replicas = tf.distribute.get_replica_context()
    count = tasks.batches.shape[0]
    replica = tf.cast(replicas.replica_id_in_sync_group, tf.int64)
    return (number * replicas.num_replicas_in_sync + replica) * count + t


def share_of_mean(lists) -> list:
    """This replica's part of the mean over the tasks of all replicas.

    Args:
        lists: A list of tensors for each task of this replica.

    Returns:
        A list of tensors whose sums over the replicas are the means.
    """
    replicas = tf.distribute.get_replica_context()
    count = tf.constant(float(len(lists)))
    if replicas.num_replicas_in_sync > 1:
        count = replicas.all_reduce(tf.distribute.ReduceOp.SUM, count)
    # Not add_n: with it 3 of 29 models built anew in one process differed in
    # the last bit after the same episodes, with this form none of 29.
    sums = [tf.reduce_sum(tf.stack(parts), 0) for parts in zip(*lists)]
    return [total / tf.cast(count, total.dtype) for total in sums]


def mean_slots(lists) -> list:
    """The mean of the tasks' slots, over all replicas.

    Integers are step counters, the same in every task, and stay what they
    are.
    """
    first = lists[0]
    floating = [i for i, slot in enumerate(first) if slot.dtype.is_floating]
    means = share_of_mean([[slots[i] for i in floating] for slots in lists])
    replicas = tf.distribute.get_replica_context()
    if replicas.num_replicas_in_sync > 1:
        means = replicas.all_reduce(tf.distribute.ReduceOp.SUM, means)
    by_index = dict(zip(floating, means))
    return [by_index.get(i, slot) for i, slot in enumerate(first)]


# The slots after a meta-step, of the tasks' slots and of fresh ones.
SLOTS = {
    "average": lambda slots, fresh: mean_slots(slots),
    "carry": lambda slots, fresh: slots[-1],
    "reset": lambda slots, fresh: fresh,
}
