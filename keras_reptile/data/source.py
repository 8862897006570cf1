"""What all data has in common that gives episodes."""

import abc

import tensorflow as tf

from keras_reptile.data.streams import check_stream
from keras_reptile.episodes import EpisodeSpec, Task


class EpisodeSource(abc.ABC):
    """Gives tasks, each a function of its number and of a seed alone.

    What a kind of data has of its own is which episodes it can give
    (`check`), and how they come in a `stream` and one by one (`_draw`).
    """

    def episodes(
        self,
        spec: EpisodeSpec,
        meta_batch_size: int = 1,
        seed: int = 0,
        start: int = 0,
    ) -> tf.data.Dataset:
        """An endless stream of task batches, to be given to `fit`.

        Episode `n` of a seed is always the same one, whatever the meta-batch
        size, and a stream starts anywhere at no cost.

        Args:
            spec: The shape of an episode.
            meta_batch_size: Tasks per element, so per meta-step.
            seed: An integer of at least 0 that names the stream.
            start: Meta-steps to leave out at the beginning.

        Returns:
            A `tf.data.Dataset` of `Task`s with a leading task axis. It
            carries `spec`, and `starting_at(meta_step)`, counted from
            `start`, by which `fit` goes on where the model stands.

        Raises:
            ValueError: If `check` refuses the spec, or a number is out of
                range.
        """
        check_stream(spec, meta_batch_size, seed, start)
        self.check(spec)
        return self.stream(spec, meta_batch_size, seed, start)

    def episode(
        self, spec: EpisodeSpec, number: int = 0, seed: int = 0
    ) -> Task:
        """One episode of a stream.

        Args:
            spec: The shape of an episode.
            number: Of the episode in the stream, from 0.
            seed: Of the stream.

        Returns:
            A `Task`, without an axis of tasks.

        Raises:
            ValueError: As `episodes`.
        """
        check_stream(spec, 1, seed, number)
        self.check(spec)
        return self._draw(spec, seed, number)

    @abc.abstractmethod
    def check(self, spec: EpisodeSpec) -> None:
        """Refuses episodes that this data cannot give.

        Args:
            spec: The shape of an episode.

        Raises:
            ValueError: That says what there is.
        """

    @abc.abstractmethod
    def stream(
        self, spec: EpisodeSpec, meta_batch_size: int, seed: int, start: int = 0
    ) -> tf.data.Dataset:
        """`episodes` without the checks; evaluation has seeds of its own.

        Args:
            spec: As `episodes` has it.
            meta_batch_size: Likewise.
            seed: Likewise; those below 0 are of evaluations.
            start: Likewise.

        Returns:
            As `episodes`.
        """

    @abc.abstractmethod
    def _draw(self, spec, seed, number):
        """One `Task`; `number` may be a tensor."""
