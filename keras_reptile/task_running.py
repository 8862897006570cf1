"""In which way the tasks of a meta-step are run, and the running of them.

- `"side_by_side"`: one program per task, as many at once as there are cores;
  an odd task is cut in two (`keras_reptile.lanes`). The fastest on a CPU.
- `"one_after_another"`: the same programs in order, so that only one task's
  activations are in memory.
- `"vectorized"`: one program for a chunk of tasks, whose products are batched
  over them. For accelerators, where one task is too little work.

All give the same weights, rounding aside.
"""

import tensorflow as tf
from absl import logging

from keras_reptile import algorithm_results, lanes, lowering, task_loops
from keras_reptile.inner_step import State
from keras_reptile.integers import check_integer
from keras_reptile.second_order import is_second_order
from keras_reptile.seeds import is_seed

WAYS = ("side_by_side", "one_after_another", "vectorized")


def choose(
    task_execution: str,
    model,
    algorithm,
    inner_state: str,
    run_eagerly: bool,
    convolution_dtype: str | None = None,
) -> str:
    """One of `WAYS`; the log says why, where it was not named.

    Args:
        task_execution: One of `WAYS`, or `"auto"`.
        model: The inner model.
        algorithm: The algorithm's function.
        inner_state: As given to `MetaModel`.
        run_eagerly: As given to `compile`.
        convolution_dtype: The same.

    Raises:
        ValueError: If the way is unknown, or would give other weights: the
            slots are carried from task to task and it is not
            `"one_after_another"`, or it is `"vectorized"` and layers draw
            random numbers, which a map over tasks draws otherwise; or it is
            `"vectorized"` and the algorithm is of second order, or
            convolutions have a type of their own.
    """
    if task_execution not in ("auto", *WAYS):
        raise ValueError(
            f'`task_execution` must be "auto" or one of {WAYS}. Received: '
            f"{task_execution!r}."
        )
    in_order = task_execution in ("auto", "one_after_another")
    if inner_state == "carry" and not in_order:
        raise ValueError(
            'inner_state="carry" passes the slots from task to task, so that '
            "tasks run one after another. Received: task_execution="
            f'{task_execution!r}. Use "auto", or inner_state="average" or '
            '"accumulate".'
        )
    unmappable = _why_not_vectorized(model, algorithm)
    if convolution_dtype is not None:
        unmappable = "products of bfloat16 have no vectorized form"
    if task_execution == "vectorized" and unmappable:
        raise ValueError(
            f"The tasks cannot be vectorized: {unmappable}. Received: "
            'task_execution="vectorized". Use "side_by_side".'
        )
    if task_execution != "auto":
        return task_execution
    way, why = _chosen(inner_state, run_eagerly, unmappable)
    logging.info("Tasks run %s, because %s.", way.replace("_", " "), why)
    return way


def check_chunk(tasks_per_chunk, way: str) -> None:
    """Refuses a chunk that is no number of tasks, or that nothing would use.

    Raises:
        ValueError: That says which.
    """
    if tasks_per_chunk is None:
        return
    check_integer("tasks_per_chunk", tasks_per_chunk, 1)
    if way != "vectorized":
        raise ValueError(
            "`tasks_per_chunk` is how many tasks one program holds, and is "
            'for task_execution="vectorized". Received: '
            f"tasks_per_chunk={tasks_per_chunk!r}, and the tasks run {way}."
        )


def adapt_only(learner, state, task) -> tuple[list, State]:
    """In an algorithm's place: no meta-gradient, and the adapted state."""
    return [], learner.adapt(state, task)


adapt_only.additive = True


def run(model, algorithm, tasks, numbers) -> list:
    """Runs an algorithm on each task of a batch.

    Args:
        model: A compiled `MetaModel`.
        algorithm: The algorithm's function.
        tasks: A batch of tasks, their number static.
        numbers: The tasks' numbers in the run, int64 of shape `(tasks,)`,
            from which dropout's seeds follow.

    Returns:
        `(meta_gradient, adapted state)` by task.
    """
    learner, state = model.learner, model.initial_state()
    if model.inner_state == "accumulate":
        learner = learner.keeping_slots()

    # Kept by identity, as an algorithm need not be hashable.
    def one(state, task):
        return _outcome(algorithm, learner, state, task)

    def part(state, task, first, last):
        return _outcome(algorithm, learner.part(first, last), state, task)

    if model.task_execution == "vectorized":
        chunk = model.tasks_per_chunk or tasks.batches.shape[0]
        mapped = model.compiled_function(
            ("tasks", id(algorithm)), task_loops.vectorized(one)
        )
        return task_loops.run_vectorized(mapped, state, tasks, chunk)
    given = learner, state, tasks, tf.unstack(numbers)
    planned = _plan(model, algorithm, *tasks.batches.shape[:2])
    if planned:
        compiled = model.compiled_function(("part", id(algorithm)), part)
        return task_loops.run_parts(compiled, *given, planned)
    return task_loops.run_tasks(
        model.compiled_function(("task", id(algorithm)), one),
        *given,
        in_order=model.task_execution == "one_after_another",
        carry=model.inner_state == "carry",
    )


def _outcome(algorithm, learner, state, task):
    with algorithm_results.of_graphs(algorithm):
        result = algorithm(learner, state, task)
    if algorithm is adapt_only:
        return result
    return algorithm_results.checked(result, state, algorithm)


def _why_not_vectorized(model, algorithm):
    if any(is_seed(v) for v in model.non_trainable_variables):
        return (
            f"model '{model.name}' has layers that draw random numbers, such "
            "as dropout, and a map over tasks draws others"
        )
    # XLA has no form for the mapped stack of what the loop's gradient needs.
    if is_second_order(algorithm):
        return "XLA cannot compile the gradient of an inner loop over tasks"
    return None


def _chosen(inner_state, run_eagerly, unmappable):
    if inner_state == "carry":
        return (
            "one_after_another",
            "each starts from the slots of the one before",
        )
    if run_eagerly:
        return "one_after_another", "nothing is compiled"
    if lowering.has_accelerator() and not unmappable:
        return "vectorized", "an accelerator is there"
    return "side_by_side", f"of as many cores as {lanes.cores()}"


def _plan(model, algorithm, tasks, steps):
    """How tasks are cut among cores, or `None` where they are not."""
    may_be_cut = (
        model.task_execution == "side_by_side"
        and model.inner_loop_is_compiled
        and getattr(algorithm, "additive", False)
        and model.distribute_strategy.num_replicas_in_sync == 1
        and not lowering.has_accelerator()
    )
    cores = lanes.cores()
    if may_be_cut and lanes.worth_it(tasks, steps, cores):
        return lanes.plan(tasks, steps, cores)
    return None
