"""Convolution, pooling and batch norm made of what a compiled loop is good at.

XLA on the CPU runs matrix products at full speed, and little else: a
convolution inside a loop is about ten times too slow, a product whose left
factor is taken transposed half as fast as one whose right factor is, and a
sum over rows that it fuses with what comes before is computed one scalar at
a time. These functions say the same sums in the forms that are fast
(`BUILD_NOTES.md` has the profile). All of them differentiate to any order.
"""

import functools

import tensorflow as tf

# Below this many elements XLA fuses a sum over rows with its operand; above
# it calls a library that is fast.
_FUSED_SUM = 1 << 16


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
        product = tf.reshape(tf.concat(taps, -1), (-1, size)) @ kernel
        product += broadcast_rows(bias, product)
    else:
        product = affine(kernel, bias, *taps)
    return tf.reshape(product, (-1, *taps[0].shape[1:3], filters))


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
        by_patch = tf.reshape(
            by_patch, (-1, *taps[0].shape[1:-1], kernel.shape[0])
        )
        sizes = [tap.shape[-1] for tap in taps]
        return (
            tf.transpose(by_filter[:, :-1]),
            by_filter[:, -1],
            *tf.split(by_patch, sizes, -1),
        )

    return patches() @ tf.concat([kernel, bias[None]], 0), gradient


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
