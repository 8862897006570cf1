"""Sine waves to regress, the paper's toy problem (section 4 and Fig. 1).

Example:

```python
waves = kr.data.SineWaves()
spec = kr.EpisodeSpec(ways=1, shots=50, inner_steps=5, inner_batch_size=10)
model.fit(waves.episodes(spec), steps_per_epoch=30_000)
```
"""

import math

import tensorflow as tf

from keras_reptile.data.source import EpisodeSource
from keras_reptile.data.streams import task_stream
from keras_reptile.episodes import EpisodeSpec, Examples, Task, draw_batches
from keras_reptile.integers import check_integer
from keras_reptile.random_keys import fold_in, key_of

# Streams of random numbers of one wave; 2 is that of its inner batches.
_WAVE, _SUPPORT, _QUERY = 3, 4, 5


class SineWaves(EpisodeSource):
    """Tasks `y = a sin(x + b)`, `a ~ U[0.1, 5]`, `b ~ U[0, 2 pi]`.

    `x` are points of a grid over [-5, 5]. The `shots` of an `EpisodeSpec` are
    the support points and its `queries` the query points; `ways` is 1, and
    `x` and `y` are float32 of shape `(tasks, n, 1)`.

    Args:
        points: Points of the grid.
        distinct: Whether support points are distinct. The original draws
            the ten of its figure independently, so that some are the same.

    Raises:
        ValueError: If there are fewer than two points.
    """

    def __init__(self, points: int = 50, distinct: bool = True):
        # A grid of one point has no step.
        check_integer("points", points, 2)
        self.points = int(points)
        self.distinct = distinct

    def check(self, spec: EpisodeSpec) -> None:
        """Refuses episodes of classes, or of more points than the grid has.

        Args:
            spec: The shape of an episode.

        Raises:
            ValueError: If `ways` is not 1, or there are not as many points.
        """
        most = max(spec.shots if self.distinct else 0, spec.queries)
        if spec.ways != 1 or most > self.points:
            raise ValueError(
                "An episode of sine waves has `ways=1`, and no more support "
                "or query points than the grid. Received: ways="
                f"{spec.ways}, shots={spec.shots}, queries={spec.queries} and "
                f"a grid of {self.points} points."
            )

    def stream(
        self, spec: EpisodeSpec, meta_batch_size: int, seed: int, start: int = 0
    ) -> tf.data.Dataset:
        """`episodes` without the checks.

        Args:
            spec: The shape of an episode.
            meta_batch_size: Tasks per element, so per meta-step.
            seed: An integer that names the stream.
            start: Meta-steps to leave out at the beginning.

        Returns:
            A `tf.data.Dataset` of `Task`s, whose `x` and `y` are float32 of
            shape `(tasks, n, 1)`.
        """
        of_data = {"points": self.points, "distinct": bool(self.distinct)}
        return task_stream(
            self._draw, spec, meta_batch_size, seed, start, 1, of_data
        )

    def _draw(self, spec, seed, episode):
        key = key_of(seed, episode)
        a, b = tf.unstack(_uniform(fold_in(key, _WAVE), 2))
        a, b = 0.1 + 4.9 * a, 2 * math.pi * b
        support = self._chosen(key, _SUPPORT, spec.shots, self.distinct)
        query = self._chosen(key, _QUERY, spec.queries, distinct=True)
        parts = [Examples(x, a * tf.sin(x + b)) for x in (support, query)]
        return Task(*parts, draw_batches(spec, key))

    def _chosen(self, key, stream, count, distinct):
        """Points of the grid, shape `(count, 1)`."""
        key = fold_in(key, stream)
        if distinct:
            order = _uniform(key, self.points)
            indices = tf.math.top_k(order, count).indices
        else:
            positions = _uniform(key, count) * self.points
            indices = tf.cast(positions, tf.int32)
        grid = tf.linspace(-5.0, 5.0, self.points)
        return tf.gather(grid, indices)[:, tf.newaxis]


def _uniform(key, count):
    return tf.random.stateless_uniform((count,), key, alg="philox")
