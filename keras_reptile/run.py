"""A run of MetaTrainer: one training, over `fit`s and over processes."""

from absl import logging

from keras_reptile.run_folder import RunFolder
from keras_reptile.run_record import RunRecord


class Run:
    """Joins the folder of a run, what it remembers, and the model it trains.

    Args:
        checkpoint_dir: As `kr.MetaTrainer` has it.
        keep: Likewise.
        resume: Likewise.
        on_write_error: Likewise.

    Raises:
        ValueError: If the folder cannot be made or written to, or an
            argument is out of range.
    """

    def __init__(
        self,
        checkpoint_dir: str | None,
        keep: int,
        resume: bool,
        on_write_error: str,
    ):
        self._folder = RunFolder(checkpoint_dir, keep, resume, on_write_error)
        self.record = RunRecord()
        self._model = self._saved_at = None

    @property
    def writes(self) -> bool:
        """Whether it has a folder for checkpoints."""
        return self._folder.path is not None

    def takes_another(self, model) -> bool:
        """Takes the model of a `fit`, and forgets all of another training.

        Args:
            model: A compiled `MetaModel`.

        Returns:
            Whether it is another; after another `compile` it begins anew.
        """
        saved_at = self._saved_at or 0
        if model is self._model and model.meta_step >= saved_at:
            return False
        self._model, self._saved_at = model, None
        self.record.begin_training()
        return True

    def begin_fit(self, settings: dict) -> int | None:
        """Takes the folder, and restores its newest checkpoint if asked to.

        Args:
            settings: What the run is made with.

        Returns:
            As `RunRecord.begin_fit`.

        Raises:
            ValueError: As `RunFolder.begin`.
        """
        goes_on = self._saved_at is not None
        extra = self._folder.begin(self._model, settings, goes_on)
        step = self._model.meta_step
        done = self.record.begin_fit(extra, step)
        if extra is not None:
            self._saved_at = step
            logging.info("Resumed at meta-step %d.", step)
        elif self._folder.resume:  # A best one may be there by itself.
            self.record.best_accuracy = self._folder.best_accuracy
        return done

    def end_fit(self) -> None:
        """Leaves the folder to others."""
        self._folder.end()
        self.record.end_fit()

    def save(self) -> None:
        """Writes the checkpoint of the meta-step the model stands at.

        Raises:
            OSError: If it cannot be written, and that stops the run.
        """
        if self._write(self._folder.write_step, self.record.best_accuracy):
            self._saved_at = self._model.meta_step

    def save_unsaved(self) -> None:
        """As `save`, unless that meta-step has one."""
        if self._saved_at != self._model.meta_step:
            self.save()

    def save_best(self, accuracy: float) -> None:
        """Writes the best checkpoint, if none was better before.

        Of equals the later one is kept, whose outer step is mostly smaller.

        Args:
            accuracy: That of the model as it stands.

        Raises:
            OSError: As `save`.
        """
        best = self.record.best_accuracy
        if best is not None and accuracy < best:
            return
        if self._write(self._folder.write_best, accuracy):
            self.record.best_accuracy = accuracy

    def _write(self, write, best_accuracy):
        return write(self._model, self.record.extra(best_accuracy))
