"""Random numbers that are functions of a key, by which episodes are drawn."""

import tensorflow as tf

_PHILOX = tf.random.Algorithm.PHILOX.value


def key_of(seed, episode) -> tf.Tensor:
    """The key of all that is drawn for an episode, int64 of shape `(2,)`."""
    return fold_in(fold_in(tf.zeros(2, tf.int64), seed), episode)


def fold_in(key, number) -> tf.Tensor:
    """Derives a new key from a key and a number, both of int64.

    The keys of `tf.random.fold_in(key, number, alg="philox")`.
    """
    integer = random_integers(key, [], tf.int64)
    return tf.stack([integer, tf.cast(number, tf.int64)])


def random_integers(key, shape, dtype) -> tf.Tensor:
    """Integers of all values of `dtype`, a function of the key alone.

    Those of `tf.random.stateless_uniform(alg="philox")`, which makes fifty
    operations of each draw; a third of a second before each `fit`. For where
    episodes are drawn, on a processor: elsewhere an algorithm of the device's
    own takes the key apart.
    """
    key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=key)
    return tf.raw_ops.StatelessRandomUniformFullIntV2(
        shape=shape, key=key, counter=counter, alg=_PHILOX, dtype=dtype
    )


def distinct(key, stream, shape, number, allowed=None) -> tf.Tensor:
    """Distinct column indices for each row, in random order.

    The columns of the largest random integers: 32 bits, so two are equal in
    one of four billion pairs, and then the first comes first.

    Args:
        key: int64 of shape `(2,)`.
        stream: An integer that keeps apart what is drawn by one key.
        shape: `(rows, columns)`.
        number: Indices for each row.
        allowed: A boolean for each row and column; `None` allows all.

    Returns:
        int32 of shape `(rows, number)`.
    """
    integers = random_integers(fold_in(key, stream), shape, tf.int32)
    if allowed is not None:
        least = tf.int32.min
        # So that the least integer, too, is drawn before what is not allowed.
        integers = tf.where(allowed, tf.maximum(integers, least + 1), least)
    indices = tf.math.top_k(integers, number).indices
    return tf.ensure_shape(indices, (shape[0], number))
