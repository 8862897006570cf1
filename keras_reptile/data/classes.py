"""A set of classes with their examples, from which episodes are drawn.

Example:

```python
mine = kr.data.from_arrays(images, labels)
spec = kr.EpisodeSpec(ways=5, shots=3)
model.fit(mine.episodes(spec, meta_batch_size=5), steps_per_epoch=1_000)
```
"""

import functools
import hashlib
import zlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from numpy.typing import ArrayLike

from keras_reptile.data.class_checks import (
    checked_counts,
    checked_examples,
    checked_indices,
    checked_names,
)
from keras_reptile.data.source import EpisodeSource
from keras_reptile.data.streams import task_stream
from keras_reptile.episodes import EpisodeSpec, Examples, Task, draw_indices
from keras_reptile.settings import CHECKSUM, LABELS

# So many are kept of a dataset.
_STREAMS = 8


class ClassDataset(EpisodeSource):
    """Examples grouped by class, in memory.

    Args:
        x: Examples of shape `(total, ...)`, the classes one after another.
            Either uint8, which episodes hold as float32 in [0, 1], or
            floats, which they hold as float32 and otherwise as they are.
            An array of uint8 is not copied: leave it as it is.
        counts: Examples of each class, in order; they add up to `total`.
        names: A name for each class, or `None` to number them.

    Raises:
        ValueError: If the shapes disagree, `x` has another dtype or holds
            values that are not finite as float32.
    """

    def __init__(
        self,
        x: np.ndarray,
        counts: Sequence[int],
        names: Sequence[str] | None = None,
    ):
        self.x = checked_examples(x)
        self.counts = checked_counts(counts, len(self.x))
        self.names = checked_names(names, len(self.counts))
        self._tensor = None
        self._streams = {}

    def __getstate__(self):
        # A copy makes its own.
        state = {**self.__dict__, "_tensor": None, "_streams": {}}
        for name in ("checksum", "digests"):
            state.pop(name, None)
        return state

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.counts)

    @property
    def example_shape(self) -> tuple:
        """Shape of one example."""
        return self.x.shape[1:]

    @property
    def labels(self) -> list[str] | None:
        """Names of the classes, in order, where all episodes have the same.

        `None` here, as labels are in the order drawn.
        """

    @functools.cached_property
    def checksum(self) -> int:
        """Of examples and classes, by which a resumed run knows its data."""
        return self._checksum()

    def _checksum(self):
        return zlib.crc32(np.ascontiguousarray(self.x), zlib.crc32(self.counts))

    @functools.cached_property
    def digests(self) -> list[bytes]:
        """Of the examples of each class, by which it is known in others."""
        return [
            hashlib.blake2b(np.ascontiguousarray(x), digest_size=8).digest()
            for x in np.split(self.x, np.cumsum(self.counts)[:-1])
        ]

    def __repr__(self):
        return (
            f"ClassDataset({self.num_classes} classes, {len(self.x)} examples "
            f"of shape {self.example_shape})"
        )

    def examples(self, index: int) -> np.ndarray:
        """The examples of one class, as stored.

        Args:
            index: Of the class, from 0.

        Returns:
            An array of shape `(examples, ...)`.
        """
        start = self.counts[:index].sum()
        return self.x[start : start + self.counts[index]]

    def subset(self, indices: ArrayLike) -> "ClassDataset":
        """The classes of the given indices, in the given order.

        Args:
            indices: Integers, names, or a boolean for each class.

        Returns:
            A `ClassDataset` of its own, with a copy of the examples.

        Raises:
            ValueError: If there are none, one is not there or comes twice.
        """
        indices = checked_indices(indices, self.names)
        return ClassDataset(
            np.concatenate([self.examples(i) for i in indices]),
            self.counts[indices],
            [self.names[i] for i in indices],
        )

    def stream(
        self, spec: EpisodeSpec, meta_batch_size: int, seed: int, start: int = 0
    ) -> tf.data.Dataset:
        """`episodes` without the checks; evaluation has seeds of its own.

        The same one for the same arguments, as making it takes longer than
        evaluating on a hundred episodes.

        Args:
            spec: As `episodes` has it.
            meta_batch_size: Likewise.
            seed: Likewise; those below 0 are of evaluations.
            start: Likewise.

        Returns:
            As `episodes`.
        """
        arguments = spec, meta_batch_size, seed, start
        made = self._streams.get(arguments)
        # One made in a graph is of no use outside of it.
        if made is None or not tf.executing_eagerly():
            made = task_stream(
                self._draw,
                *arguments,
                self.num_classes,
                self._described(),
                self,
            )
            if tf.executing_eagerly():
                self._streams[arguments] = made
                if len(self._streams) > _STREAMS:
                    self._streams.pop(next(iter(self._streams)))
        return made

    def _described(self):
        labels = {} if self.labels is None else {LABELS: self.labels}
        return {CHECKSUM: self.checksum, **labels}

    def check(self, spec: EpisodeSpec) -> None:
        """Refuses episodes that these classes cannot give.

        Args:
            spec: The shape of an episode.

        Raises:
            ValueError: If there are fewer classes than ways, or a class has
                fewer examples than an episode takes.
        """
        if spec.ways > self.num_classes:
            raise ValueError(
                "An episode needs `ways` distinct classes. Received: "
                f"ways={spec.ways}, but the dataset has {self.num_classes} "
                "classes. Lower `ways`, or check that the right split was "
                "passed."
            )
        self._check_examples(spec, "with `subset`")

    def _check_examples(self, spec, how):
        fewest = int(self.counts.argmin())
        if spec.shots + spec.queries > self.counts[fewest]:
            raise ValueError(
                "An episode needs `shots + queries` examples of each class. "
                f"Received: shots={spec.shots}, queries={spec.queries}, but "
                f"class '{self.names[fewest]}' has {self.counts[fewest]} "
                "examples. Lower one of them, or leave out small classes "
                f"{how}."
            )

    def _draw(self, spec, seed, episode):
        if self._tensor is None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._tensor = tf.constant(self.x)
        drawn = self._draw_indices(spec, seed, episode)
        first = np.cumsum(self.counts) - self.counts
        rows = tf.gather(first.astype(np.int32), drawn.classes)
        rows = rows[:, tf.newaxis] + drawn.examples
        support, query = tf.split(rows, [spec.shots, spec.queries], 1)
        return Task(self._take(support), self._take(query), drawn.batches)

    def _draw_indices(self, spec, seed, episode):
        return draw_indices(self.counts, spec, seed, episode)

    def _take(self, rows):
        ways, each = rows.shape
        x = tf.gather(self._tensor, tf.reshape(rows, [-1]))
        if x.dtype == tf.uint8:
            x = tf.cast(x, tf.float32) / 255.0
        return Examples(x, tf.repeat(tf.range(ways), each))
