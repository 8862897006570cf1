"""Episodes: what one few-shot task is, and how it is drawn.

Everything is drawn as *indices*, and every episode is a pure function of
`(seed, episode number)`: a stream can start anywhere, on any device, and a
run that was killed goes on with exactly the episodes it would have seen.

Example:

```python
spec = EpisodeSpec(ways=5, shots=10, inner_steps=5, inner_batch_size=10)
indices = draw_indices(counts=[20] * 964, spec=spec, seed=0, episode=7)
```
"""

import dataclasses
from typing import NamedTuple

import tensorflow as tf

from keras_reptile.integers import check_integer
from keras_reptile.random_keys import distinct, key_of

# Streams of random numbers of one episode, kept apart.
_CLASSES, _EXAMPLES, _BATCHES, _GROUP = range(4)


class Examples(NamedTuple):
    """Inputs and targets, `x (n, ...)` and `y (n,)` (or `(n, ...)`)."""

    x: tf.Tensor
    y: tf.Tensor


class Task(NamedTuple):
    """One episode, or a batch of them with a leading axis on every tensor.

    `support` holds what may be learned from, `query` what is asked
    afterwards. `batches`, int32 of shape `(inner_steps, inner_batch_size)`,
    says which rows of `support` each inner step takes.
    """

    support: Examples
    query: Examples
    batches: tf.Tensor


def unstack(tasks: Task) -> list[Task]:
    """The tasks of a batch, one by one; their number must be static."""
    return [
        tf.nest.pack_sequence_as(tasks, parts)
        for parts in zip(*(tf.unstack(part) for part in tf.nest.flatten(tasks)))
    ]


# What an algorithm with a last step of its own, on other shots, asks for.
_OF_TAILS = {
    "shots": " For an algorithm with a tail, the tail's shots are `queries`, "
    "and the steps before it need one besides.",
    "inner_steps": " For an algorithm with a tail, its step comes on top of "
    "these, and after one at least.",
}


@dataclasses.dataclass(frozen=True)
class EpisodeSpec:
    """The shape of an episode.

    Args:
        ways: Classes per episode. They are labelled `0 .. ways - 1` in the
            order drawn, so a label means nothing from episode to episode
            (unless `kr.data.from_groups` is told to fix it).
        shots: Support examples per class.
        queries: Query examples per class, distinct from the support ones.
            With 0, nothing but the inner loss is reported in training.
        inner_steps: Gradient steps on the support set.
        inner_batch_size: Support examples per inner step. `None` takes the
            whole support set at every step.
        replacement: How inner batches are drawn, in the original's two ways.
            `False`: epochs of the support set, each shuffled anew, are laid
            end to end and cut into batches, so that a batch may straddle two
            epochs. `True`: every batch is an independent draw. Inside one
            draw no example comes twice.
        repeat_within_batch: Allows an inner batch larger than the support
            set, which without replacement holds examples more than once. The
            original does so silently.

    Raises:
        ValueError: If a number is out of range, or an inner batch is larger
            than the support set.
    """

    ways: int
    shots: int
    queries: int = 1
    inner_steps: int = 5
    inner_batch_size: int | None = None
    replacement: bool = False
    repeat_within_batch: bool = False

    def __post_init__(self):
        at_least = {"ways": 1, "shots": 1, "queries": 0, "inner_steps": 1}
        if self.inner_batch_size is not None:
            at_least["inner_batch_size"] = 1
        for name, least in at_least.items():
            remark = _OF_TAILS.get(name, "")
            check_integer(name, getattr(self, name), least, remark)
            # NumPy's would wrap around where they are multiplied.
            object.__setattr__(self, name, int(getattr(self, name)))
        repeats = self.repeat_within_batch and not self.replacement
        if self.batch_size > self.support_size and not repeats:
            raise ValueError(_too_large_a_batch(self))

    @property
    def support_size(self) -> int:
        """Examples in the support set, `ways * shots`."""
        return self.ways * self.shots

    @property
    def batch_size(self) -> int:
        """Examples in one inner batch."""
        return self.inner_batch_size or self.support_size

    def batches(self, number: int | tf.Tensor, seed: int = 0) -> tf.Tensor:
        """Which rows of the support set each inner step takes.

        For tasks of one's own; those of `kr.data` have theirs.

        Args:
            number: Of the task in its stream, from 0; an integer or, in
                `tf.data`, a scalar tensor of integers.
            seed: An integer of at least 0 that names the stream.

        Returns:
            int32 of shape `(inner_steps, inner_batch_size)`.

        Raises:
            ValueError: If one is no such integer.

        Example:

        ```python
        task = kr.Task(
            support=kr.Examples(x, y),  # `spec.support_size` of them.
            query=kr.Examples(x_query, y_query),
            batches=spec.batches(number),
        )
        ```
        """
        check_integer("seed", seed, 0)
        if not tf.is_tensor(number):
            check_integer("number", number, 0)
        elif not number.dtype.is_integer or number.shape.rank not in (0, None):
            raise ValueError(
                "`number` must be an integer, or a scalar tensor of integers. "
                f"Received: {number.dtype.name} of shape {number.shape}."
            )
        return draw_batches(self, key_of(seed, number))


def _too_large_a_batch(spec):
    if spec.replacement:
        meaning = (
            "with replacement=True each batch is an independent draw of "
            "distinct examples, so it cannot be larger"
        )
        remedy = ""
    else:
        meaning = (
            "with replacement=False batches are cut from shuffled epochs of "
            "the support set, so a larger one would hold examples twice"
        )
        remedy = (
            ", or allow the repetition, as the original does, with "
            "repeat_within_batch=True"
        )
    return (
        "An inner batch must not be larger than the support set of "
        f"ways * shots = {spec.support_size} examples: {meaning}. Received: "
        f"inner_batch_size={spec.inner_batch_size}, ways={spec.ways}, "
        f"shots={spec.shots}, replacement={spec.replacement}. Lower "
        f"`inner_batch_size`{remedy}."
    )


class EpisodeIndices(NamedTuple):
    """What an episode consists of, as indices."""

    classes: tf.Tensor  # int32 (ways,), distinct
    examples: tf.Tensor  # int32 (ways, shots + queries), distinct per row
    batches: tf.Tensor  # int32 (inner_steps, inner_batch_size)


def draw_indices(
    counts, spec: EpisodeSpec, seed, episode, groups=None, in_order=False
) -> EpisodeIndices:
    """Draws one episode; a pure function of its arguments.

    Args:
        counts: int32 of shape `(num_classes,)`, examples of each class.
        spec: The episode's shape.
        seed: An integer that names the stream.
        episode: The number of the episode in the stream.
        groups: int32 of shape `(num_classes,)`, the group of each class, from
            0 without gaps; the classes are then of one group. `None` draws
            from all.
        in_order: Whether the classes come in the order of their indices.

    Returns:
        `EpisodeIndices`. The first `shots` columns of `examples` are the
        support, the others the query.
    """
    counts = tf.convert_to_tensor(counts, tf.int32)
    key = key_of(seed, episode)
    allowed = None if groups is None else _of_one_group(key, groups)
    shape = (1, counts.shape[0])
    classes = distinct(key, _CLASSES, shape, spec.ways, allowed)[0]
    if in_order:
        classes = tf.sort(classes)
    counts = tf.gather(counts, classes)
    width = tf.reduce_max(counts)
    examples = distinct(
        key,
        _EXAMPLES,
        (spec.ways, width),
        spec.shots + spec.queries,
        tf.sequence_mask(counts, width),
    )
    return EpisodeIndices(classes, examples, draw_batches(spec, key))


def _of_one_group(key, groups):
    """Which classes are of the group that is drawn, shape `(1, classes)`."""
    number = int(groups.max()) + 1
    group = distinct(key, _GROUP, (1, number), 1)[0]
    return tf.equal(groups, group)[tf.newaxis]


def draw_batches(spec: EpisodeSpec, key) -> tf.Tensor:
    """Draws the rows of the support set that each inner step takes.

    Args:
        spec: The episode's shape.
        key: int64 of shape `(2,)`.

    Returns:
        int32 of shape `(inner_steps, inner_batch_size)`.
    """
    steps, size, rows = spec.inner_steps, spec.batch_size, spec.support_size
    if spec.replacement:
        return distinct(key, _BATCHES, (steps, rows), size)
    epochs = -(-steps * size // rows)
    stream = distinct(key, _BATCHES, (epochs, rows), rows)
    stream = tf.reshape(stream, [-1])[: steps * size]
    return tf.reshape(stream, (steps, size))
