"""How the tasks of a meta-step are shared out among the cores of a machine.

Tasks run side by side, one per core. Five tasks on two cores would take the
time of three, with a core idle in the third; cut in two, the odd task takes
its first steps on one core at the beginning and the others on the other core
at the end, and five take the time of two and a half. This is the wrap-around
rule, which is optimal (McNaughton 1959, "Scheduling with deadlines and loss
functions").
"""

import os
from typing import NamedTuple


class Part(NamedTuple):
    """Inner steps `first .. last - 1` of one task."""

    task: int
    first: int
    last: int


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def plan(tasks: int, steps: int, lanes: int) -> list[list[Part]]:
    """Parts of tasks by lane, in the order in which a lane runs them.

    Args:
        tasks: Number of tasks.
        steps: Inner steps of each.
        lanes: Number of cores.

    Returns:
        A list of parts for each lane. No lane has more than
        `ceil(tasks * steps / lanes)` steps, or `steps` if that is more, and
        a task's later part never begins before its earlier one has ended.
    """
    length = max(-(-tasks * steps // lanes), steps)
    planned = [[]]
    room = length
    for task in range(tasks):
        # What still fits is run last in its lane, so it is the task's end.
        later = min(room, steps)
        if later < steps:
            if later:
                planned[-1].append(Part(task, steps - later, steps))
            planned.append([Part(task, 0, steps - later)])
            room = length - (steps - later)
        else:
            planned[-1].append(Part(task, 0, steps))
            room -= steps
    return planned


def worth_it(tasks: int, steps: int, lanes: int) -> bool:
    """Whether cutting tasks saves a twentieth of the time or more."""
    whole = -(-tasks // lanes) * steps
    cut = max(-(-tasks * steps // lanes), steps)
    return lanes > 1 and whole > 1.05 * cut
