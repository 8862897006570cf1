"""Keras layers in the form that compiles well inside an inner loop.

A compiled inner loop is slow where Keras' layers call the convolution of the
platform: XLA on the CPU runs a convolution inside a loop about ten times too
slowly, and no platform batches convolutions whose kernels differ by task.
The same convolution as slices, one concatenation and one matrix product runs
at the speed of the matrix product. `lowered(model)` puts these forms in
place while a model is traced, and takes them out again: the user's model,
its class and its weights are untouched.

It also makes batch normalisation use the statistics of the batch at hand,
always, as the networks of the paper do (reference: `training=True` constant
in the original's models). Moving averages are neither read nor written.
"""

import contextlib

import keras
import tensorflow as tf

# What XLA on the CPU is slow at inside a loop, unless it is lowered. Max
# pooling besides breaks ties otherwise there, by which golden traces differ.
_SLOW_IN_A_LOOP = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
)


def slow_when_compiled(model: keras.Model) -> list[str]:
    """Names of the layers for whose sake a CPU should not compile the loop.

    Args:
        model: Any built model.

    Returns:
        Names of layers. Empty where everything is lowered or needs not be,
        and wherever there is an accelerator.
    """
    if tf.config.list_physical_devices("GPU") or tf.config.list_logical_devices(
        "TPU"
    ):
        return []
    return [
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, _SLOW_IN_A_LOOP) and not _is_convolution(layer)
    ]


@contextlib.contextmanager
def lowered(model: keras.Model, convolutions: bool = True):
    """Runs the model's layers in their lowered form inside the context.

    Args:
        model: Any built model. Layers it holds at any depth are found.
        convolutions: Whether convolutions are lowered too.
            Batch normalisation always is: it decides what is computed.
    """
    replaced = []
    try:
        for layer in model._flatten_layers(include_self=True):
            for name, function in _replacements(layer, convolutions):
                # Past Keras' attribute tracking: nothing of this is state.
                layer.__dict__[name] = function
                replaced.append((layer, name))
        yield model
    finally:
        for layer, name in replaced:
            del layer.__dict__[name]


def _replacements(layer, convolutions):
    if _is_batch_norm(layer):
        yield (
            "call",
            lambda x, training=None, mask=None: _call_batch_norm(
                layer, x, mask
            ),
        )
    elif convolutions and _is_convolution(layer):
        yield (
            "convolution_op",
            lambda x, kernel: convolution(
                x, kernel, layer.strides, layer.padding
            ),
        )


def _is_batch_norm(layer):
    return (
        type(layer) is keras.layers.BatchNormalization
        and not layer.renorm
        # A frozen layer keeps Keras' meaning: its moving averages.
        and layer.trainable
    )


def _is_convolution(layer):
    return (
        type(layer) is keras.layers.Conv2D
        and layer.data_format == "channels_last"
        and layer.groups == 1
        and tuple(layer.dilation_rate) == (1, 1)
        and layer.padding in ("same", "valid")
    )


def convolution(x, kernel, strides, padding):
    """A 2-D convolution as one matrix product.

    The taps of one kernel row that fall into one stride are neighbours in
    memory, so they are taken as one slice: a 3x3 kernel of stride 2 needs six
    slices and not nine, and none of them strides (15 % faster on a CPU).

    Args:
        x: Images, shape `(batch, height, width, channels)`.
        kernel: Shape `(kernel_height, kernel_width, channels, filters)`.
        strides: Two integers.
        padding: `"same"` or `"valid"`, as TensorFlow pads.

    Returns:
        Shape `(batch, new_height, new_width, filters)`.
    """
    rows, columns, channels, filters = kernel.shape
    down, right = strides
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
    size = rows * columns * channels
    patches = tf.reshape(tf.concat(taps, -1), (-1, size))
    product = patches @ tf.reshape(kernel, (size, filters))
    return tf.reshape(product, (-1, height, width, filters))


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
    y = tf.reshape(x, (-1, x.shape[-1]))
    centred = y - tf.reduce_mean(y, 0)
    variance = tf.reduce_mean(centred * centred, 0)
    scale = tf.math.rsqrt(variance + epsilon)
    y = centred * (scale if gamma is None else scale * gamma)
    return tf.reshape(y if beta is None else y + beta, tf.shape(x))


def _extent_and_padding(extent, size, stride, padding):
    """Output extent, and what "same" puts before the input."""
    if padding == "valid":
        return (extent - size) // stride + 1, 0
    out = -(-extent // stride)
    return out, max((out - 1) * stride + size - extent, 0) // 2


def _in_blocks(x, axis, size, stride, padding):
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
        x = tf.pad(x, widths)
    return x, out


def _call_batch_norm(layer, x, mask):
    axis = layer.axis[0] if isinstance(layer.axis, list) else layer.axis
    if mask is not None or axis not in (-1, len(x.shape) - 1):
        return type(layer).call(layer, x, training=True, mask=mask)
    dtype = x.dtype
    y = tf.cast(x, tf.as_dtype(keras.backend.result_type(dtype, "float32")))
    gamma = tf.convert_to_tensor(layer.gamma) if layer.scale else None
    beta = tf.convert_to_tensor(layer.beta) if layer.center else None
    y = batch_norm(y, gamma, beta, layer.epsilon)
    return tf.cast(y, layer.compute_dtype)
