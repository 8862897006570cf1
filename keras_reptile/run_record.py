"""What a run has besides variables; its checkpoints hold it as `extra`."""

import time


class RunRecord:
    """The best accuracy so far, the time taken, and where `fit`s began.

    A run may be several calls of `fit`, each of which counts its epochs from
    where it begins. A process that resumes goes through the same calls, and
    those that were finished before have nothing left to do.
    """

    def __init__(self):
        self.begin_training()

    def begin_training(self) -> None:
        """Forgets what was of another model."""
        self.best_accuracy = None
        self.evaluation_due = False
        self.finished = False
        self.seconds = 0.0
        self._fits_began, self._fit = [], 0

    def begin_fit(self, extra: dict | None, meta_step: int) -> int | None:
        """Takes up what a checkpoint says, and finds a `fit`'s place in it.

        Args:
            extra: Of the checkpoint that was restored; `None` of none.
            meta_step: Where the model stands.

        Returns:
            How many meta-steps were done since this `fit` began, those of
            later ones included; `None` if it begins now.
        """
        self.finished = self.evaluation_due = False
        if extra is not None:
            self.best_accuracy = extra["best_accuracy"]
            self.seconds = extra["seconds"]
            # Checkpoints of before have neither.
            self.evaluation_due = extra.get("evaluation_due", False)
            self._fits_began = extra.get("fits_began", [0])
        self._started = time.perf_counter() - self.seconds
        if extra is None or self._fit >= len(self._fits_began):
            self._fits_began = [*self._fits_began[: self._fit], meta_step]
            return None
        return meta_step - self._fits_began[self._fit]

    def begin_epoch(self) -> None:
        """What is trained in is the last `fit` of the run by now."""
        del self._fits_began[self._fit + 1 :]

    def end_fit(self) -> None:
        """The next `fit` is another one, unless this one was cut off."""
        self._fit += self.finished
        self.finished = False

    def extra(self, best_accuracy: float | None) -> dict:
        """What a checkpoint that is written now is to say.

        Args:
            best_accuracy: Once it is written.
        """
        self.measure()
        return {
            "best_accuracy": best_accuracy,
            "evaluation_due": self.evaluation_due,
            "seconds": self.seconds,
            "fits_began": self._fits_began,
        }

    def measure(self) -> None:
        """Sets `seconds`, the wall time over all resumptions."""
        self.seconds = time.perf_counter() - self._started
