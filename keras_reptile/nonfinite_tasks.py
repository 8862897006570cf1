"""When a training ends because too many of its inner loops diverge."""

import numbers

# Of so many tasks the share that failed says something.
_JUDGED = 20


class NonfiniteTasks:
    """Counts the tasks whose inner loop ended in NaN or infinity.

    Epochs of fewer than 20 tasks are judged together.

    Args:
        max_share: The share of tasks that may.

    Raises:
        ValueError: If it is no share.
    """

    def __init__(self, max_share: float):
        number = isinstance(max_share, numbers.Real)
        if not number or not 0.0 <= max_share <= 1.0:
            raise ValueError(
                "`max_nonfinite` is a share of the tasks, from 0 to 1. "
                f"Received: max_nonfinite={max_share!r}."
            )
        self._max_share = max_share
        self.begin_training()

    def begin_training(self) -> None:
        """Forgets all tasks."""
        # How many failed, of how many.
        self._earlier = self._in_epoch = (0.0, 0)

    def begin_epoch(self) -> None:
        """Begins to count an epoch's tasks."""
        self._in_epoch = (0.0, 0)

    def check(self, failed: float, tasks: int, step: int) -> None:
        """Ends a training of which too many inner loops diverge.

        Args:
            failed: Tasks of the epoch so far that failed.
            tasks: How many there were.
            step: The meta-step, to be named.

        Raises:
            FloatingPointError: If there are more than the share that may.
        """
        self._in_epoch = (failed, tasks)
        failed, tasks = self._together()
        if tasks < _JUDGED or failed <= self._max_share * tasks:
            return
        raise FloatingPointError(
            f"The inner loops of {failed:.0f} of {tasks} tasks ended in NaN "
            f"or infinity by meta-step {step}, more than the share of "
            f"{self._max_share} that `max_nonfinite` allows. Lower the "
            "learning rate of the inner optimizer, or of the outer one, and "
            "go on from the last checkpoint, if there is one."
        )

    def end_epoch(self) -> None:
        """Keeps the tasks of an epoch that was too short to be judged by."""
        earlier = self._together()
        self._earlier = earlier if earlier[1] < _JUDGED else (0.0, 0)

    def _together(self):
        return tuple(map(sum, zip(self._earlier, self._in_epoch)))
