"""Scalars by meta-step, for TensorBoard."""

import contextlib

import numpy as np
import tensorflow as tf
from absl import logging

from keras_reptile import files, workers


class Scalars:
    """Writes scalars to a folder; of several workers, the chief does.

    Args:
        path: The folder; `None` writes nothing.
        on_write_error: `"stop"` or `"continue"`, when it cannot be written.

    Raises:
        ValueError: If the folder cannot be made or written to.
    """

    def __init__(self, path, on_write_error: str = "stop"):
        self._path = files.writable_folder(path)
        self._on_write_error = on_write_error
        self._writer = self._strategy = None

    @property
    def writes(self) -> bool:
        """Whether there is a folder for them."""
        return self._path is not None

    def open(self, strategy) -> None:
        """Begins a file of its own; all workers call it."""
        self._strategy = strategy
        if self._path is not None and workers.is_chief(strategy):
            self._writer = tf.summary.create_file_writer(str(self._path))

    def write(self, step: int, scalars: dict) -> None:
        """Writes numbers by name, at once to disk; all workers call it.

        Raises:
            OSError: If they could not be, and that stops the run; on all
                workers.
        """
        if self._path is None:
            return
        error = None
        try:
            if self._writer is not None:
                self._put(step, scalars)
        except tf.errors.OpError as failure:
            error = failure
        if not workers.any_worker(self._strategy, error is not None):
            return
        message = (
            f"The scalars of meta-step {step} could not be written to "
            f"{self._path}: {error.message if error else 'the chief says why'}."
            " Make room, or choose another folder."
        )
        if self._on_write_error == "stop":
            raise OSError(message) from error
        logging.error("%s Training goes on.", message)

    def _put(self, step, scalars):
        flush = self._writer.flush
        # At its end the block would flush first, and where that failed leave
        # the writer in place for whoever writes next, and the step.
        self._writer.flush = lambda: None
        try:
            with self._writer.as_default(step=step):
                for name, value in scalars.items():
                    tf.summary.scalar(name, value)
        finally:
            self._writer.flush = flush
        flush()

    def close(self) -> None:
        """Ends the file, of which `write` has said all that could be."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with contextlib.suppress(tf.errors.OpError):
                writer.close()


def of_training(logs: dict) -> dict:
    """The numbers that Keras has of an epoch's tasks, but not of other data.

    Args:
        logs: As callbacks of Keras' get them.
    """
    own = ("val_", "meta_steps_per_second")
    values = {
        k: np.asarray(v) for k, v in logs.items() if not k.startswith(own)
    }
    return {
        key: float(value)
        for key, value in values.items()
        if value.ndim == 0 and value.dtype.kind in "fiu"
    }
