"""How much of a task's last inner batch was used before.

Source: Nichol, Achiam & Schulman 2018, section 6.3: first-order MAML learns
less the more its last batch overlaps with those before.
"""

import numpy as np
from numpy.typing import ArrayLike

from keras_reptile.episodes import Task


def batch_overlap(batches: ArrayLike | Task) -> float:
    """The fraction of the last batches' examples that earlier ones held.

    Args:
        batches: Integers of shape `(inner_steps, inner_batch_size)`, or with
            a leading axis of tasks: `Task.batches`. A Task is taken, too.

    Returns:
        A number from 0 to 1, the mean over the tasks; 0 where there is one
        batch only.

    Raises:
        ValueError: If the shape is another one.

    Example:

    ```python
    tasks = next(iter(classes.episodes(spec, meta_batch_size=100)))
    kr.analysis.batch_overlap(tasks.batches)
    ```
    """
    batches = np.asarray(getattr(batches, "batches", batches))
    if batches.ndim not in (2, 3) or not batches.size:
        raise ValueError(
            "Expected `batches` of shape (inner_steps, inner_batch_size), or "
            "of (tasks, inner_steps, inner_batch_size), as `Task.batches`. "
            f"Received: shape {batches.shape}."
        )
    tasks = batches.reshape((-1, *batches.shape[-2:]))
    return float(np.mean([np.isin(task[-1], task[:-1]) for task in tasks]))
