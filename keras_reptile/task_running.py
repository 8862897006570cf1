"""In which way the tasks of a meta-step are run, and the running of them.

- `"side_by_side"`: one program per task, as many at once as there are cores;
  an odd task is cut in two (`keras_reptile.lanes`). The fastest on a CPU.
- `"one_after_another"`: the same programs in order, so that only one task's
  activations are in memory.
- `"vectorized"`: one program for a chunk of tasks, whose products are batched
  over them. For accelerators, where one task is too little work.

All give the same weights, rounding aside.
"""

from absl import logging

from keras_reptile import lanes, lowering, meta_step
from keras_reptile.learner import is_seed

WAYS = ("side_by_side", "one_after_another", "vectorized")


def choose(
    task_execution: str, model, inner_state: str, run_eagerly: bool
) -> str:
    """One of `WAYS`; the log says why, where it was not named.

    Args:
        task_execution: One of `WAYS`, or `"auto"`.
        model: The inner model.
        inner_state: As given to `MetaModel`.
        run_eagerly: As given to `compile`.

    Raises:
        ValueError: If the way is unknown, or would give other weights: the
            slots are carried from task to task and it is not
            `"one_after_another"`, or it is `"vectorized"` and layers draw
            random numbers, which a map over tasks draws otherwise.
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
            f'{task_execution!r}. Use "auto", or inner_state="average".'
        )
    draws = any(is_seed(v) for v in model.non_trainable_variables)
    if task_execution == "vectorized" and draws:
        raise ValueError(
            "Layers that draw random numbers, such as dropout, would draw "
            "others if tasks were vectorized. Received: model "
            f"'{model.name}' with such layers. Use "
            'task_execution="side_by_side".'
        )
    if task_execution != "auto":
        return task_execution
    way, why = _chosen(inner_state, run_eagerly, draws)
    logging.info("Tasks run %s, because %s.", way.replace("_", " "), why)
    return way


def check_chunk(tasks_per_chunk, way: str) -> None:
    """Refuses a chunk that is no number of tasks, or that nothing would use.

    Raises:
        ValueError: That says which.
    """
    if tasks_per_chunk is None:
        return
    is_whole = isinstance(tasks_per_chunk, int)
    if not is_whole or tasks_per_chunk < 1 or way != "vectorized":
        raise ValueError(
            "`tasks_per_chunk` is how many tasks one program holds, at least "
            '1, and is for task_execution="vectorized". Received: '
            f"tasks_per_chunk={tasks_per_chunk!r}, and the tasks run {way}."
        )


def run(model, tasks, number) -> list:
    """Runs a `MetaModel`'s algorithm on each task of a batch.

    Args:
        model: A compiled `MetaModel`.
        tasks: A batch of tasks, their number static.
        number: The meta-step's number, from which dropout's seeds follow.

    Returns:
        `(meta_gradient, adapted state)` by task.
    """
    algorithm, learner = model.algorithm, model.learner
    state = model.initial_state()

    def one(state, task):
        return algorithm(learner, state, task)

    def part(state, task, first, last):
        return algorithm(learner.part(first, last), state, task)

    if model.task_execution == "vectorized":
        chunk = model.tasks_per_chunk or tasks.batches.shape[0]
        mapped = model.compiled_function("tasks", meta_step.vectorized(one))
        return meta_step.run_vectorized(mapped, state, tasks, chunk)
    given = learner, state, tasks, number
    planned = _plan(model, *tasks.batches.shape[:2])
    if planned:
        compiled = model.compiled_function("part", part)
        return meta_step.run_parts(compiled, *given, planned)
    return meta_step.run_tasks(
        model.compiled_function("task", one),
        *given,
        in_order=model.task_execution == "one_after_another",
        carry=model.inner_state == "carry",
    )


def _chosen(inner_state, run_eagerly, draws):
    if inner_state == "carry":
        return "one_after_another", "each starts from the slots of the last"
    if run_eagerly:
        return "one_after_another", "nothing is compiled"
    if lowering.has_accelerator() and not draws:
        return "vectorized", "an accelerator is there"
    return "side_by_side", f"there are {lanes.cores()} cores"


def _plan(model, tasks, steps):
    """How tasks are cut among cores, or `None` where they are not."""
    may_be_cut = (
        model.task_execution == "side_by_side"
        and model.inner_loop_is_compiled
        and getattr(model.algorithm, "additive", False)
        and model.distribute_strategy.num_replicas_in_sync == 1
        and not lowering.has_accelerator()
    )
    cores = lanes.cores()
    if may_be_cut and lanes.worth_it(tasks, steps, cores):
        return lanes.plan(tasks, steps, cores)
    return None
