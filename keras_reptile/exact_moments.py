"""Mean and variance that may be differentiated more than once.

`tf.nn.moments`, by which Keras normalises layers and groups, takes the mean
inside of the variance for a constant. The first derivative is right all the
same, as deviations from the mean add up to 0; the second is not.
"""

import tensorflow as tf


def moments(x, axes, shift=None, keepdims=False, name=None):
    """As `tf.nn.moments`, with all of its derivatives.

    Args:
        x: A tensor of floats.
        axes: Those that are averaged over.
        shift: Ignored, as there.
        keepdims: Whether these stay, with an extent of 1.
        name: Ignored.

    Returns:
        `(mean, variance)`, of the dtype of `x`; those of 16 bits are computed
        in float32.
    """
    x = tf.convert_to_tensor(x)
    half = x.dtype in (tf.float16, tf.bfloat16)
    y = tf.cast(x, tf.float32) if half else x
    mean = tf.reduce_mean(y, axes, keepdims=True)
    variance = tf.reduce_mean(
        tf.math.squared_difference(y, mean), axes, keepdims=True
    )
    if not keepdims:
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    return tf.cast(mean, x.dtype), tf.cast(variance, x.dtype)
