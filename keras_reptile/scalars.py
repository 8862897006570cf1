"""Scalars by meta-step, for TensorBoard."""

import tensorflow as tf

from keras_reptile import files, workers


class Scalars:
    """Writes scalars to a folder; of several workers, the chief does.

    Args:
        path: The folder; `None` writes nothing.

    Raises:
        ValueError: If the folder cannot be made or written to.
    """

    def __init__(self, path):
        self._path = files.writable_folder(path)
        self._writer = None

    def open(self, strategy) -> None:
        """Begins a file of its own."""
        if self._path is not None and workers.is_chief(strategy):
            self._writer = tf.summary.create_file_writer(str(self._path))

    def write(self, step: int, scalars: dict) -> None:
        """Writes numbers by name, at once to disk."""
        if self._writer is None:
            return
        with self._writer.as_default(step=step):
            for name, value in scalars.items():
                tf.summary.scalar(name, value)
        self._writer.flush()

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
