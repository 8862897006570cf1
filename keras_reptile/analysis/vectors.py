"""Sums and products of lists of tensors, one for each weight."""

import tensorflow as tf


def scaled(factor, a) -> list:
    """`factor * a`."""
    return [_as(factor, x.dtype) * x for x in a]


def plus(a, b, factor=1.0) -> list:
    """`a + factor * b`."""
    return [x + _as(factor, x.dtype) * y for x, y in zip(a, b, strict=True)]


def zeros(a) -> list:
    """Zeros like `a`."""
    return [tf.zeros_like(x) for x in a]


def dot(a, b) -> tf.Tensor:
    """The inner product over all weights, a scalar."""
    return tf.add_n([tf.reduce_sum(x * y) for x, y in zip(a, b, strict=True)])


def norm(a) -> tf.Tensor:
    """The Euclidean norm over all weights, a scalar."""
    return tf.sqrt(dot(a, a))


def _as(factor, dtype):
    # tf.cast would make a float32 of a Python number before all else.
    if tf.is_tensor(factor):
        return tf.cast(factor, dtype)
    return tf.constant(factor, dtype)
