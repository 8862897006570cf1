"""An endless stream of tasks out of a function that draws one by number."""

import numpy as np
import tensorflow as tf

from keras_reptile.episodes import EpisodeSpec
from keras_reptile.integers import check_integer

_LAST = np.iinfo(np.int64).max


def task_stream(
    draw,
    spec,
    meta_batch_size: int,
    seed: int,
    start: int,
    num_classes: int,
    of_data: dict | None = None,
    classes=None,
) -> tf.data.Dataset:
    """Batches of tasks, each a function of its number alone.

    Args:
        draw: A function `(spec, seed, episode)` that returns a `Task`.
        spec: An `EpisodeSpec`.
        meta_batch_size: Tasks per element.
        seed: An integer that names the stream.
        start: Elements to leave out at the beginning.
        num_classes: How many classes there are to draw from.
        of_data: What else a resumed run must have in common, as JSON.
        classes: The `ClassDataset` that is drawn from, if it is one.

    Returns:
        A dataset with `starting_at(meta_step)`, by which `fit` goes on where
        a model stands, `of_positions(positions)`, by which a worker draws
        its own tasks of every element (`keras_reptile.distribution`), its
        `classes`, and what a checkpoint records of its episodes.
    """

    # NumPy's integers would wrap around where they are multiplied.
    meta_batch_size, start = int(meta_batch_size), int(start)

    # There is nothing in it for AutoGraph, which takes a quarter of a second.
    @tf.autograph.experimental.do_not_convert
    def drawn(episode):
        return draw(spec, seed, episode)

    def batches(episodes, size):
        tasks = episodes.map(
            drawn,
            num_parallel_calls=2,
            deterministic=True,
        )
        tasks = tasks.batch(size, drop_remainder=True).prefetch(4)
        return tasks.with_options(_without_autotuning())

    def starting_at(meta_step):
        def of_positions(positions):
            each = positions.shape[-1]
            steps = tf.data.Dataset.range(
                start + int(meta_step), _LAST // meta_batch_size
            )
            episodes = steps.map(
                lambda step: step * meta_batch_size + positions.reshape(-1)
            )
            return batches(episodes.unbatch(), each)

        first = (start + int(meta_step)) * meta_batch_size
        tasks = batches(tf.data.Dataset.range(first, _LAST), meta_batch_size)
        tasks.of_positions = of_positions
        tasks.spec = spec
        tasks.num_classes = num_classes
        tasks.classes = classes
        tasks.arguments = {
            "meta_batch_size": meta_batch_size,
            "seed": seed,
            "start": start,
            **(of_data or {}),
        }
        tasks.starting_at = starting_at
        return tasks

    return starting_at(0)


def _without_autotuning():
    """There is nothing to tune here, and the thread that would sleeps up to a
    minute at a time, for whose end an iterator waits when it is closed: `fit`
    for 11 s of meta-steps took 20."""
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def check_stream(spec, meta_batch_size, seed, start) -> None:
    """Refuses what names no stream.

    Raises:
        ValueError: If `spec` is no `EpisodeSpec`, or a number is not an
            integer or out of range.
    """
    check_spec(spec)
    check_integer("meta_batch_size", meta_batch_size, 1)
    check_integer("seed", seed, 0)
    check_integer("start", start, 0)
    if int(start) * int(meta_batch_size) > _LAST // 2:
        raise ValueError(
            "The episodes of a stream are numbered by 63 bits. Received: start="
            f"{start} and meta_batch_size={meta_batch_size}, the product of "
            "which is too large. Choose another `seed` in place of a start."
        )


def check_spec(spec) -> None:
    """Refuses what is no `EpisodeSpec`.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(spec, EpisodeSpec):
        raise ValueError(
            "`spec` must be a `kr.EpisodeSpec`, the shape of an episode. "
            f"Received: {spec!r}."
        )
