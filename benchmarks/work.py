"""What is timed: the paper's training, on scribbles, from fixed weights."""

import dataclasses
import functools

import numpy as np

LAYERS, FILTERS, EXTENT = 4, 64, 28
RATE, BETA_2, EPSILON = 1e-3, 0.999, 1e-8
BATCH_NORM_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class Work:
    """A meta-iteration: `tasks` of `steps` on `batch` of `ways * 10` images.

    Inner Adam(1e-3, beta_1=0), its second moments averaged over the tasks;
    the sum of the losses is differentiated; the outer step is the whole way.
    """

    ways: int
    tasks: int
    steps: int
    batch: int
    shots: int = 10
    queries: int = 0
    # How many meta-iterations' mean loss is compared. After a few of Adam,
    # which divides by the size of what may be rounding, no digit is left.
    compared: int = 1

    @property
    def gigaflop(self) -> float:
        """Multiplications and additions of the products, in 1e9.

        Of first-order steps; MAML's own have more.
        """
        extents = [14, 7, 4, 2]
        channels = [1, FILTERS, FILTERS, FILTERS]
        forward = [
            2 * extent**2 * 9 * c * FILTERS
            for extent, c in zip(extents, channels)
        ]
        # The first layer needs no gradient in its input.
        image = 3 * sum(forward) - forward[0]
        images = self.tasks * self.steps * self.batch
        return image * images / 1e9


WORK = {
    "w1": Work(ways=5, tasks=5, steps=5, batch=10),
    "w2": Work(ways=20, tasks=5, steps=10, batch=20),
    "maml": Work(
        ways=5, tasks=5, steps=5, batch=25, shots=5, queries=5, compared=2
    ),
}


def initial_weights(work: Work) -> list[np.ndarray]:
    """Kernel, bias, scale and offset of each layer, then the head's."""
    rng = np.random.default_rng(0)
    weights = []
    for layer in range(LAYERS):
        channels = FILTERS if layer else 1
        size = (2 / (9 * channels)) ** 0.5
        weights += [
            rng.normal(0, size, (3, 3, channels, FILTERS)),
            np.zeros(FILTERS),
            np.ones(FILTERS),
            np.zeros(FILTERS),
        ]
    weights += [rng.normal(0, 0.06, (256, work.ways)), np.zeros(work.ways)]
    return [w.astype("float32") for w in weights]


@functools.cache
def episodes(work: Work):
    """The stream that `fit` gets; the others get its first elements."""
    import keras_reptile as kr

    spec = kr.EpisodeSpec(
        ways=work.ways,
        shots=work.shots,
        queries=work.queries,
        inner_steps=work.steps,
        inner_batch_size=work.batch,
    )
    classes = kr.data.scribbles(100, seed=0)
    return classes.episodes(spec, meta_batch_size=work.tasks)


def arrays(work: Work, count: int = 8) -> list[tuple]:
    """`(x, y)` of every inner step: `(tasks, steps, batch, 28, 28, 1)`."""
    return [episode[:2] for episode in arrays_with_queries(work, count)]


def arrays_with_queries(work: Work, count: int = 8) -> list[tuple]:
    """`arrays`, with the queries: `(tasks, ways * queries, 28, 28, 1)`."""
    batches = []
    for tasks in episodes(work).take(count):
        rows = tasks.batches.numpy()
        first = np.arange(work.tasks)[:, None, None]
        x, y = (part.numpy()[first, rows] for part in tasks.support)
        queries = tasks.query.x.numpy(), tasks.query.y.numpy().astype("int64")
        batches.append((x, y.astype("int64"), *queries))
    return batches
