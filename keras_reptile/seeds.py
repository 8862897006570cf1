"""The seeds of layers such as dropout: every task has its own."""

import tensorflow as tf


def is_seed(variable) -> bool:
    """Whether a variable is the seed of a layer such as dropout."""
    return variable.path.endswith("seed_generator_state")


def fold_seed(seed, number) -> tf.Tensor:
    """A seed for one task, of a layer's own and the task's number.

    Args:
        seed: The layer's, integers of shape `(2,)`.
        number: An integer that names the task.

    Returns:
        A seed of the same shape and dtype.
    """
    # Drawn, not only folded in: folding counts up the second word, and so
    # does Keras at every step, so that tasks would share their masks.
    key = tf.random.experimental.stateless_fold_in(
        tf.cast(seed, tf.int64), tf.cast(number, tf.int64), alg="philox"
    )
    drawn = tf.random.stateless_uniform(
        seed.shape,
        key,
        minval=0,
        maxval=2**31 - 1,
        dtype=tf.int32,
        alg="philox",
    )
    return tf.cast(drawn, seed.dtype)
