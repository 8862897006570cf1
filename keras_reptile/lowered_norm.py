"""Batch normalisation made of what a compiled loop is good at.

XLA on the CPU computes a sum over rows one scalar at a time where it fuses it
with what comes before. Sums are products here. All of these differentiate to
any order.
"""

import tensorflow as tf

# Below this many elements XLA fuses a sum over rows with its operand; above
# it calls a library that is fast.
_FUSED_SUM = 1 << 16


def batch_norm(x, gamma, beta, epsilon):
    """Batch normalisation over all axes but the last, in few passes.

    Args:
        x: Shape `(..., channels)`.
        gamma: Scale, shape `(channels,)`, or None.
        beta: Offset, shape `(channels,)`, or None.
        epsilon: Added to the (biased) variance.

    Returns:
        A tensor of the shape of `x`.
    """
    y = _centred(tf.reshape(x, (-1, x.shape[-1])))
    return tf.reshape(_scaled(y, gamma, beta, epsilon), tf.shape(x))


def narrow_batch_norm(taps, kernel, gamma, beta, epsilon):
    """Batch normalisation of a convolution whose kernel is narrow.

    The product of centred patches has the mean 0, so that its mean needs no
    pass over the large product, there or back. A bias before it changes
    nothing and has no gradient.

    Args:
        taps: As `taps_of` returns them.
        kernel: Shape `(size, filters)`.
        gamma: Scale, shape `(filters,)`, or None.
        beta: Offset, shape `(filters,)`, or None.
        epsilon: Added to the (biased) variance.

    Returns:
        Shape `(batch, height, width, filters)`.
    """
    patches = tf.reshape(tf.concat(taps, -1), (-1, kernel.shape[0]))
    # Not the variance too, from the patches' covariance: that cancels where
    # the weights of a filter sum to 0.
    y = _scaled(_centred(patches) @ kernel, gamma, beta, epsilon)
    return tf.reshape(y, (-1, *taps[0].shape[1:3], kernel.shape[-1]))


def sum_rows(x):
    """The sum over the first axis of a matrix; its gradient a broadcast.

    Args:
        x: Shape `(rows, columns)`.

    Returns:
        Shape `(columns,)`.
    """

    @tf.custom_gradient
    def function(x):
        return _sum_rows(x), lambda upstream: broadcast_rows(upstream, x)

    return function(x)


def broadcast_rows(row, like):
    """Repeats a row; its gradient is `sum_rows`.

    Args:
        row: Shape `(columns,)`.
        like: The matrix whose shape `(rows, columns)` it takes.

    Returns:
        Shape `(rows, columns)`.
    """
    shape = tf.stop_gradient(tf.shape(like))
    if like.shape.is_fully_defined():
        shape = like.shape

    @tf.custom_gradient
    def function(row):
        return tf.broadcast_to(row, shape), sum_rows

    return function(row)


def _sum_rows(x):
    count, columns = x.shape
    if count is None or count * columns >= _FUSED_SUM:
        return tf.reduce_sum(x, 0)
    # Four rows of ones, since a product with one row is not a product to XLA.
    return (tf.ones((4, count), x.dtype) @ x)[0]


def _mean_of_rows(x):
    count = tf.shape(x)[0] if x.shape[0] is None else x.shape[0]
    return sum_rows(x) / tf.cast(count, x.dtype)


def _centred(x):
    return x - broadcast_rows(_mean_of_rows(x), x)


def _scaled(centred, gamma, beta, epsilon):
    """What is left of batch normalisation once the mean is taken off."""
    variance = _mean_of_rows(centred * centred)
    scale = tf.math.rsqrt(variance + epsilon)
    scale = scale if gamma is None else scale * gamma
    y = centred * broadcast_rows(scale, centred)
    return y if beta is None else y + broadcast_rows(beta, y)
