"""The folder of a run: whose it is, its newest checkpoints and its best."""

import io
import json

from absl import logging

from keras_reptile import checkpoints, files, workers
from keras_reptile.settings import check_same, difference

BEST = "best.npz"
ON_WRITE_ERROR = ("stop", "continue")


class RunFolder:
    """Checkpoints of one run, read and written by its chief.

    Args:
        path: The folder, which is made if it is not there; `None` for a run
            that writes nothing.
        keep: How many of the newest checkpoints stay.
        resume: Whether to go on with what is there.
        on_write_error: `"stop"` or `"continue"`, when one cannot be written.

    Raises:
        ValueError: If the folder cannot be made or written to, or an
            argument is out of range.
    """

    def __init__(self, path, keep: int, resume: bool, on_write_error: str):
        if resume and path is None:
            raise ValueError(
                "To resume, MetaTrainer must know where the checkpoints are. "
                "Received: resume=True and checkpoint_dir=None."
            )
        if on_write_error not in ON_WRITE_ERROR:
            raise ValueError(
                f"`on_write_error` must be one of {ON_WRITE_ERROR}. Received: "
                f"on_write_error={on_write_error!r}."
            )
        self.path = files.writable_folder(path)
        self.resume = resume
        self._keep = keep
        self._on_write_error = on_write_error
        self._settings = self._lock = self.best_accuracy = None

    def begin(self, model, settings: dict, goes_on: bool) -> dict | None:
        """Takes the folder, and restores its newest checkpoint if asked to.

        Args:
            model: A compiled `MetaModel`; on every worker it becomes what
                the chief's checkpoint says.
            settings: What the run is made with.
            goes_on: Whether the run is one that this object has begun.

        Returns:
            What was given as `extra` to the checkpoint, with the
            `best_accuracy` on disk; `None` if none was restored.

        Raises:
            ValueError: If another run uses the folder, if it holds
                checkpoints that are not asked for, or none that can be used,
                or if a run goes on with other settings.
        """
        if self.path is None:
            return None
        if goes_on:
            self._check_the_same_run(settings)
        strategy, self._settings = model.distribute_strategy, settings
        answer, content = {}, b""
        if workers.is_chief(strategy):
            try:
                content = self._begin(model, goes_on)
                answer["best_accuracy"] = self._best_on_disk()
            except Exception as error:  # The others wait for an answer.
                if workers.number_of_workers(strategy) == 1:
                    self.end()
                    raise
                answer["error"] = f"{type(error).__name__}: {error}"
                answer["refused"] = isinstance(error, ValueError)
        message = json.dumps(answer).encode() + b"\n" + content
        message = workers.from_chief(strategy, message)
        answer, _, content = message.partition(b"\n")
        answer = json.loads(answer)
        if "error" in answer:
            self.end()
            # What is not refused may go by, as an error of a disk does.
            kind = ValueError if answer["refused"] else OSError
            raise kind(answer["error"])
        self.best_accuracy = answer["best_accuracy"]
        if not content:
            return None
        extra = checkpoints.restore(io.BytesIO(content), model, settings)
        return {**extra, **answer}

    def _begin(self, model, goes_on):
        """The content of the checkpoint to restore, empty where none is."""
        self._lock = files.FolderLock(self.path)
        files.remove_partial(self.path, everything=self._lock.held)
        if not self.resume:
            if not goes_on:
                self._refuse_another_run()
            return b""
        path = checkpoints.latest(self.path, model, self._settings)
        return b"" if path is None else path.read_bytes()

    def end(self) -> None:
        """Leaves the folder to others."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def write_step(self, model, extra: dict) -> bool:
        """Writes the checkpoint of a meta-step; the oldest ones go.

        Returns:
            Whether it could be written.

        Raises:
            OSError: If it could not, and that stops the run.
        """
        name = checkpoints.step_path("", model.meta_step).name
        if not self._write(name, model, extra):
            return False
        if self._writes_for(model):
            try:
                self._remove_older_than(model.meta_step)
            except OSError as error:  # What was written is there.
                logging.warning("Old checkpoints could not go: %s.", error)
        return True

    def _remove_older_than(self, step):
        # Not those of later steps: they are damaged, or another run's.
        upto = [
            path
            for path in checkpoints.list_steps(self.path)
            if checkpoints.step_of(path) <= step
        ]
        for old in upto[: -self._keep]:
            old.unlink(missing_ok=True)

    def write_best(self, model, extra: dict) -> bool:
        """Writes the best checkpoint in place of the one before.

        Returns:
            As `write_step`.

        Raises:
            OSError: As `write_step`.
        """
        return self._write(BEST, model, extra)

    def _writes_for(self, model):
        return self.path is not None and workers.is_chief(
            model.distribute_strategy
        )

    def _write(self, name, model, extra):
        if self.path is None:
            return True
        error = None
        if self._writes_for(model):
            try:
                path = self.path / name
                checkpoints.write(path, model, extra, self._settings)
            except OSError as failure:
                error = failure
        # All workers stop, or none.
        strategy = model.distribute_strategy
        if not workers.any_worker(strategy, error is not None):
            return True
        message = (
            f"The checkpoint {name} could not be written to {self.path}: "
            f"{error or 'the chief says why'}. Those before it are whole and "
            "as they were. Make room, or choose another folder."
        )
        if self._on_write_error == "stop":
            raise OSError(getattr(error, "errno", None), message) from error
        logging.error("%s Training goes on.", message)
        return False

    def _check_the_same_run(self, settings):
        if differing := difference(settings, self._settings):
            key, ours, theirs = differing
            raise ValueError(
                "All `fit`s of a run have the same settings, or it could not "
                f"be resumed. Received: '{key}' is {ours} now, and {theirs} "
                f"when the run in {self.path} began. Give another one a "
                "MetaTrainer and a folder of its own."
            )

    def _refuse_another_run(self):
        found = checkpoints.list_steps(self.path)
        found += self.path.glob(BEST)
        if found:
            raise ValueError(
                "A new run must not write over another's checkpoints. "
                f"Received: checkpoint_dir={self.path}, which holds "
                f"{len(found)} of them. Go on from them with resume=True, or "
                "use another folder."
            )

    def _best_on_disk(self):
        path = self.path / BEST
        if not path.exists():
            return None
        try:
            header, _ = checkpoints.read(path)
        except checkpoints.DamagedCheckpoint as error:
            logging.warning("%s; the next evaluation replaces it.", error)
            return None
        # A protocol is known of it where the run went on without one.
        check_same(self._settings, header["settings"], path)
        return header["extra"]["best_accuracy"]
