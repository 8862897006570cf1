"""After which meta-steps a run evaluates, and writes a checkpoint."""


class Intervals:
    """What is due, whichever number of meta-steps a call of Keras makes.

    A checkpoint comes after the evaluation of the same meta-step, so that
    none is missing in what goes on from it.

    Args:
        evaluation: Meta-steps between evaluations; `None` has one at the end
            of every epoch.
        checkpoint: Meta-steps between checkpoints, likewise.
        step: The meta-step at which a `fit` begins.
    """

    def __init__(
        self, evaluation: int | None, checkpoint: int | None, step: int
    ):
        self._evaluation, self._checkpoint = evaluation, checkpoint
        self._last = step

    def begin_epoch(self, step: int, length: int | None) -> None:
        """Begins one.

        Args:
            step: The meta-step at which it does.
            length: Its meta-steps; `None` where Keras does not know.
        """
        self.epoch_began, self.epoch_ends = step, step + (length or 0)
        self._save_after_evaluation = False

    def passed(self, step: int) -> tuple[bool, bool]:
        """Whether to evaluate, and then to save, after a call of meta-steps.

        Args:
            step: The meta-step it ends at; each is to be asked of once.
        """
        before, self._last = self._last, step
        evaluate = _crossed(before, step, self._evaluation)
        save = _crossed(before, step, self._checkpoint)
        if save and self._evaluation is None and step == self.epoch_ends:
            self._save_after_evaluation, save = True, False
        return evaluate, save

    def at_end_of_epoch(self) -> tuple[bool, bool]:
        """Whether to evaluate, and then to save, when an epoch ends."""
        save = self._checkpoint is None or self._save_after_evaluation
        return self._evaluation is None, save


def _crossed(before, after, interval):
    return bool(interval) and before // interval < after // interval
