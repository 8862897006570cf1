"""Convolution and pooling made of what a compiled loop is good at.

XLA on the CPU runs matrix products at full speed, and little else: a
convolution inside a loop is about ten times too slow, and a product whose left
factor is taken transposed half as fast as one whose right factor is. These
functions say the same sums in the forms that are fast (`BUILD_NOTES.md` has
the profile). All of them differentiate to any order.
"""

import functools

import tensorflow as tf

from keras_reptile.bfloat16_products import product
from keras_reptile.lowered_norm import broadcast_rows


def convolution(taps, kernel, bias=None):
    """A 2-D convolution as one matrix product.

    Args:
        taps: What `taps_of` returns of the images.
        kernel: Shape `(size, filters)`, its rows in the order of the taps.
        bias: Shape `(filters,)`, or None.

    Returns:
        Shape `(batch, height, width, filters)`.
    """
    size, filters = kernel.shape
    if bias is None:
        bias = tf.zeros((filters,), kernel.dtype)
    if is_narrow(kernel):
        outputs = tf.reshape(tf.concat(taps, -1), (-1, size)) @ kernel
        outputs += broadcast_rows(bias, outputs)
    else:
        outputs = affine(kernel, bias, *taps)
    return tf.reshape(outputs, (-1, *taps[0].shape[1:3], filters))


def convolution_in_bfloat16(x, kernel, bias, size, strides, padding):
    """A 2-D convolution as one product whose factors are of bfloat16.

    The sums and the bias are in float32. The images are rounded before they
    are taken apart, which halves what there is to copy.

    Args:
        x: Images, shape `(batch, height, width, channels)`, float32.
        kernel: Shape `(rows * columns * channels, filters)`.
        bias: Shape `(filters,)`, or None.
        size: Rows and columns of the kernel.
        strides: Two integers.
        padding: `"same"` or `"valid"`.

    Returns:
        Shape `(batch, height, width, filters)`.
    """

    def taps(x):
        return taps_of(x, size, strides, padding)

    @tf.custom_gradient
    def function(x, kernel):
        def patches():
            joined = tf.concat(taps(tf.cast(x, tf.bfloat16)), -1)
            return tf.reshape(joined, (-1, kernel.shape[0])), joined.shape[1:3]

        def gradient(upstream):
            upstream = tf.reshape(upstream, (-1, kernel.shape[-1]))
            by_filter = product(upstream, patches()[0], transpose_a=True)
            by_patch = product(upstream, kernel, transpose_b=True)
            # Linear, so the same at any images. Of `x` itself TensorFlow
            # loses terms of the second derivative within a while loop.
            anywhere = tf.zeros_like(x)
            with tf.GradientTape() as tape:
                tape.watch(anywhere)
                pieces = taps(anywhere)
            by_image = tape.gradient(
                pieces, anywhere, _as_taps(by_patch, pieces)
            )
            return by_image, tf.transpose(by_filter)

        rows, extent = patches()
        y = product(rows, kernel)
        return tf.reshape(y, (-1, *extent, kernel.shape[-1])), gradient

    y = function(x, kernel)
    if bias is None:
        return y
    rows = tf.reshape(y, (-1, kernel.shape[-1]))
    return tf.reshape(rows + broadcast_rows(bias, rows), tf.shape(y))


def taps_of(x, size, strides, padding) -> list:
    """What each place of a kernel sees, as images of the output's extent.

    The taps of one kernel row that fall into one stride are neighbours in
    memory, so they are taken as one slice: a 3x3 kernel of stride 2 needs six
    slices and not nine, and none of them strides (15 % faster on a CPU).

    Args:
        x: Images, shape `(batch, height, width, channels)`.
        size: Rows and columns of the kernel.
        strides: Two integers.
        padding: `"same"` or `"valid"`.

    Returns:
        Tensors whose last axes, one after the other, are in the order of a
        kernel's rows, columns and channels.
    """
    (rows, columns), (down, right), channels = size, strides, x.shape[-1]
    x, height = _in_blocks(x, 1, rows, down, padding)
    x, width = _in_blocks(x, 2, columns, right, padding)
    x = tf.reshape(
        x,
        (-1, x.shape[1] // down, down, x.shape[2] // right, right * channels),
    )
    taps = []
    for i in range(rows):
        block_row, row = divmod(i, down)
        for block in range(-(-columns // right)):
            neighbours = min(right, columns - block * right)
            taps.append(
                x[
                    :,
                    block_row : block_row + height,
                    row,
                    block : block + width,
                    : neighbours * channels,
                ]
            )
    return taps


def is_narrow(kernel) -> bool:
    """Whether a kernel as a matrix has fewer rows than filters."""
    return kernel.shape[0] < kernel.shape[1]


def max_pool(x, size, padding):
    """The maximum of each window, where windows do not overlap.

    Args:
        x: Images, shape `(batch, height, width, channels)`.
        size: Rows and columns of a window.
        padding: `"same"` or `"valid"`.

    Returns:
        Shape `(batch, new height, new width, channels)`. Of equal values the
        first one, row by row, takes the gradient, as in TensorFlow's own.
    """
    (rows, columns), channels = size, x.shape[-1]
    lowest = float("-inf")
    x, height = _in_blocks(x, 1, rows, rows, padding, lowest)
    x, width = _in_blocks(x, 2, columns, columns, padding, lowest)
    x = tf.reshape(x, (-1, height, rows, width, columns, channels))
    in_windows = [tf.unstack(row, axis=3) for row in tf.unstack(x, axis=2)]
    return functools.reduce(tf.maximum, [tap for r in in_windows for tap in r])


@tf.custom_gradient
def affine(kernel, bias, *taps):
    """`patches @ kernel + bias`, with the kernel's gradient in a fast form.

    A column of ones beside the patches makes the bias a row of the kernel.
    Its cost is nothing, and in the gradient it keeps XLA from turning the
    product back into the slow form, and gives the bias' gradient besides.

    Args:
        kernel: Shape `(size, filters)`.
        bias: Shape `(filters,)`.
        *taps: The patches in pieces, shapes `(..., n)` whose `n` add up to
            `size`: joined once, together with the ones.

    Returns:
        Shape `(rows, filters)`.
    """

    def patches():
        ones = tf.ones_like(taps[0][..., :1])
        joined = tf.concat([*taps, ones], -1)
        return tf.reshape(joined, (-1, joined.shape[-1]))

    def gradient(upstream):
        by_filter = tf.matmul(upstream, patches(), transpose_a=True)
        by_patch = tf.matmul(upstream, kernel, transpose_b=True)
        return (
            tf.transpose(by_filter[:, :-1]),
            by_filter[:, -1],
            *_as_taps(by_patch, taps),
        )

    return patches() @ tf.concat([kernel, bias[None]], 0), gradient


def _as_taps(by_patch, taps):
    """Rows of patches, as the taps that they were joined of."""
    sizes = [tap.shape[-1] for tap in taps]
    shape = (-1, *taps[0].shape[1:-1], sum(sizes))
    return tf.split(tf.reshape(by_patch, shape), sizes, -1)


def _extent_and_padding(extent, size, stride, padding):
    """Output extent, and what "same" puts before the input."""
    if padding == "valid":
        return (extent - size) // stride + 1, 0
    out = -(-extent // stride)
    return out, max((out - 1) * stride + size - extent, 0) // 2


def _in_blocks(x, axis, size, stride, padding, fill=0):
    """Pads or cuts one axis to the whole strides that its windows cover.

    Returns:
        The tensor, and the extent of the output along the axis.
    """
    extent = x.shape[axis]
    out, before = _extent_and_padding(extent, size, stride, padding)
    covered = (out + (size - 1) // stride) * stride
    after = covered - extent - before
    if after < 0:
        x = tf.split(x, [covered - before, -1], axis)[0]
    if before or after > 0:
        widths = [[0, 0] for _ in x.shape]
        widths[axis] = [before, max(after, 0)]
        x = tf.pad(x, widths, constant_values=fill)
    return x, out
