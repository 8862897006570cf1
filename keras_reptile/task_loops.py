"""Runs an algorithm on each task of a meta-batch, in one of several ways.

`keras_reptile.task_running` chooses among them.
"""

import tensorflow as tf

from keras_reptile import meta_update
from keras_reptile.episodes import Task, unstack
from keras_reptile.inner_step import State
from keras_reptile.learner import Learner


def run_tasks(
    run,
    learner: Learner,
    state: State,
    tasks: Task,
    numbers,
    in_order: bool,
    carry: bool,
) -> list:
    """Runs an algorithm on each task.

    Args:
        run: A function `(state, task) -> (meta_gradient, adapted state)`.
        learner: The learner.
        state: The state at the beginning of the meta-step.
        tasks: A batch of tasks, their number static.
        numbers: The tasks' numbers in the run, from which dropout's seeds
            follow.
        in_order: Whether a task waits for the one before it. Otherwise the
            tasks run side by side.
        carry: Whether a task starts with the slots that the one before it
            ended with.

    Returns:
        What `run` returned, by task.
    """
    results, before = [], []
    for t, task in enumerate(unstack(tasks)):
        seeded = learner.with_seed(state, numbers[t])
        with tf.control_dependencies(before):
            results.append(run(seeded, task))
        if in_order:
            before = [results[-1][1].loss]
        if carry:
            after = results[-1][1].slots
            state = state._replace(slots=_if_finite(after, state.slots))
            results[-1] = (
                results[-1][0],
                results[-1][1]._replace(slots=state.slots),
            )
    return results


def _if_finite(after, before):
    """The slots after a task, or those before it, if it failed."""
    finite = meta_update.all_finite(
        [slot for slot in after if slot.dtype.is_floating]
    )
    return [tf.where(finite, a, b) for a, b in zip(after, before)]


def run_parts(
    run, learner: Learner, state: State, tasks: Task, numbers, planned
) -> list:
    """Runs an additive algorithm on tasks that are cut into parts.

    Args:
        run: A function `(state, task, first, last) -> (meta_gradient, state
            after those steps)`.
        learner: The learner.
        state: The state at the beginning of the meta-step.
        tasks: A batch of tasks, their number static.
        numbers: The tasks' numbers in the run, from which dropout's seeds
            follow.
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
            before, begun = results.get(
                t, (None, learner.with_seed(state, numbers[t]))
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
