"""Tasks of a regression, out of a function of one's own that draws one."""

import threading
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_reptile.array_input import check_unmasked
from keras_reptile.data.source import EpisodeSource
from keras_reptile.data.streams import task_stream
from keras_reptile.descriptions import code_of, described
from keras_reptile.episodes import EpisodeSpec, Examples, Task, draw_batches
from keras_reptile.own_words import said
from keras_reptile.random_keys import key_of
from keras_reptile.settings import CODE, DRAWN_BY

_WORD = 2**32 - 1


def from_function(draw: Callable) -> "DrawnTasks":
    """Few-shot regression tasks, each drawn by a function of one's own.

    Args:
        draw: A function `(rng, count) -> (x, y)`: the examples of a new task,
            arrays whose first axis has `count` entries, drawn by `rng`, a
            `numpy.random.Generator` that is the task's own and the only
            source of chance. It is called in threads, one task at a time and
            ahead of training. They become float32 as they are, the first
            `shots` of them the support set and the others the queries.

    Returns:
        `DrawnTasks`, whose `episodes` are streams that `fit` resumes exactly.

    Raises:
        ValueError: If `draw` cannot be called.

    Example:

    ```python
    def curve(rng, count):
        x = rng.uniform(-1, 1, (count, 1))
        return x, np.sin(rng.uniform(1, 4) * x)

    curves = kr.data.from_function(curve)
    spec = kr.EpisodeSpec(ways=1, shots=5, queries=5, inner_steps=8)
    model.fit(curves.episodes(spec, meta_batch_size=4), steps_per_epoch=1_000)
    ```
    """
    return DrawnTasks(draw)


class DrawnTasks(EpisodeSource):
    """What `from_function` returns.

    Such tasks have no classes: in a spec `ways` must be 1, and `shots` and
    `queries` are examples. `episodes` calls the function for the first task,
    twice, and raises a ValueError if what it returns is no examples, or others
    when it is asked again. Tasks of another seed are others.

    Args:
        draw: As it has it.

    Raises:
        ValueError: If it cannot be called.
    """

    def __init__(self, draw: Callable):
        if not callable(draw):
            raise ValueError(
                "`draw` must be a function (rng, count) -> (x, y) that draws "
                f"the examples of a new task. Received: {draw!r}."
            )
        self._function = draw
        self._one_at_a_time = threading.Lock()

    def check(self, spec: EpisodeSpec) -> None:
        """Refuses episodes of classes.

        Args:
            spec: The shape of an episode; `shots` and `queries` are points.

        Raises:
            ValueError: If `ways` is not 1.
        """
        if spec.ways != 1:
            raise ValueError(
                "A task that a function draws has no classes, and `ways=1`. "
                f"Received: ways={spec.ways}. For classes there is "
                "`kr.data.from_arrays`."
            )

    def stream(
        self, spec: EpisodeSpec, meta_batch_size: int, seed: int, start: int = 0
    ) -> tf.data.Dataset:
        """What `episodes` returns; the first task is drawn here, twice.

        Args:
            spec: The shape of an episode.
            meta_batch_size: Tasks per element, so per meta-step.
            seed: An integer that names the stream. Tasks of another seed are
                others.
            start: Meta-steps to leave out at the beginning.

        Returns:
            A `tf.data.Dataset` of `Task`s with a leading task axis.

        Raises:
            ValueError: If what the function returns for the first task is no
                examples, or others when it is asked again.
        """
        of_data = {
            DRAWN_BY: described(self._function),
            CODE: code_of(self._function),
        }
        like = self._examples(spec, seed, 0)
        again = self._examples(spec, seed, 0)
        if not all(map(np.array_equal, like, again)):
            raise ValueError(
                "`draw` must give the same task for the same `rng`, so that a "
                "run can be resumed. Received: two tasks for one. Draw all "
                "that is random by `rng`."
            )

        def draw(spec, seed, episode):
            return self._task(spec, seed, episode, like)

        return task_stream(draw, spec, meta_batch_size, seed, start, 1, of_data)

    def _draw(self, spec, seed, number):
        like = self._examples(spec, seed, number)
        return self._task(spec, seed, number, like)

    def _task(self, spec, seed, episode, like):
        x, y = tf.numpy_function(
            lambda number: self._drawn(spec, seed, int(number), like),
            [tf.cast(episode, tf.int64)],
            (tf.float32, tf.float32),
        )
        x, y = (tf.ensure_shape(v, w.shape) for v, w in zip((x, y), like))
        shots = spec.shots
        key = key_of(seed, episode)
        return Task(
            Examples(x[:shots], y[:shots]),
            Examples(x[shots:], y[shots:]),
            draw_batches(spec, key),
        )

    def _drawn(self, spec, seed, number, like):
        """`_examples` within a dataset, which hands on what went wrong."""
        try:
            examples = self._examples(spec, seed, number)
            shapes = [[v.shape for v in part] for part in (examples, like)]
            if shapes[0] != shapes[1]:
                raise ValueError(
                    "The examples of all tasks must have one shape. Received: "
                    f"x and y of shapes {shapes[0]}, and {shapes[1]} before."
                )
        except Exception as error:
            raise ValueError(
                said(
                    f"Task {number} of seed {seed} could not be drawn (where, "
                    f"`episode(spec, {number}, {seed})` shows): "
                    f"{type(error).__name__}: {error}"
                )
            ) from error
        return examples

    def _examples(self, spec, seed, number):
        count = spec.shots + spec.queries
        # Words of one width, so that no two tasks have the same.
        words = [
            n >> shift & _WORD
            for n in map(int, (seed, number))
            for shift in (0, 32)
        ]
        # What is returned may be written over by the next call.
        with self._one_at_a_time:
            examples = self._function(np.random.default_rng(words), count)
            if not isinstance(examples, tuple) or len(examples) != 2:
                raise ValueError(
                    "`draw` must return a tuple (x, y). Received: "
                    f"{type(examples).__name__}."
                )
            return tuple(map(_checked, ("x", "y"), examples, (count, count)))


def _checked(name, values, count):
    check_unmasked(name, values)
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.shape[:1] != (count,):
        raise ValueError(
            f"`draw` must return numbers with an entry for each of {count} "
            f"examples. Received: `{name}` of shape {array.shape} and dtype "
            f"{array.dtype}."
        )
    with np.errstate(over="ignore"):  # What is too large becomes infinite.
        array = array.astype(np.float32)  # A copy, at any rate.
    if not np.isfinite(array).all():
        raise ValueError(
            "`draw` must return what is finite as float32. Received: "
            f"NaN or infinity in `{name}`."
        )
    return array
