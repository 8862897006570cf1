"""Keras layers in the form that compiles well inside an inner loop.

`lowered(model)` puts the forms of `lowered_ops` in place of Keras' own while
a model is traced, and takes them out again: the user's model, its class and
its weights are untouched.

What `tf.nn.moments` gives, Keras' or a user's layers, can be differentiated
twice there.

It also makes batch normalisation use the statistics of the batch at hand,
always, as the networks of the paper do (reference: `training=True` constant
in the original's models). Moving averages are neither read nor written.
"""

import contextlib

import keras
import tensorflow as tf

from keras_reptile import exact_moments, lowered_norm, lowered_ops, own_calls

# What XLA on the CPU is slow at inside a loop, unless it is lowered. A model
# with max pooling is lowered where the user asks for compiling, but gains
# nothing by it: its images are large, and memory is what it waits for.
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


def has_accelerator() -> bool:
    """Whether there is a GPU or a TPU to run on."""
    return bool(
        tf.config.list_physical_devices("GPU")
        or tf.config.list_logical_devices("TPU")
    )


def slow_when_compiled(model: keras.Model) -> list[str]:
    """Names of the layers for whose sake a CPU should not compile the loop.

    Args:
        model: Any built model.

    Returns:
        Names of layers. Empty where everything is lowered or needs not be,
        and wherever there is an accelerator.
    """
    if has_accelerator():
        return []
    return [
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, _SLOW_IN_A_LOOP) and not _is_convolution(layer)
    ]


@contextlib.contextmanager
def lowered(
    model: keras.Model, compiled: bool = True, in_bfloat16: bool = False
):
    """Runs the model's layers in their lowered form inside the context.

    Args:
        model: Any built model. Layers it holds at any depth are found.
        compiled: Whether what is traced will be compiled by XLA, and
            convolutions take the form that is fast there. Batch
            normalisation always changes: it decides what is computed.
        in_bfloat16: Whether the products of such convolutions round their
            factors to bfloat16.
    """
    narrow = _NarrowConvolutions()
    with contextlib.ExitStack() as stack:
        for layer in model._flatten_layers(include_self=True):
            function = _replacement(layer, compiled, in_bfloat16, narrow)
            if function is not None:
                stack.enter_context(own_calls.replaced(layer, function))
        moments = exact_moments.moments
        stack.enter_context(own_calls.replaced(tf.nn, moments, "moments"))
        yield model


class _NarrowConvolutions:
    """Outputs of narrow convolutions, for the batch norm that takes one.

    Keras hands a layer's output to the next as the same tensor, so that the
    tensor itself says what made it.
    """

    def __init__(self):
        self._made = []

    def add(self, output, taps, kernel):
        self._made.append((output, taps, kernel))

    def find(self, tensor):
        """`(taps, kernel)`, or None if it is no such output."""
        for output, taps, kernel in self._made:
            if output is tensor:
                return taps, kernel
        return None


def _replacement(layer, compiled, in_bfloat16, narrow):
    """What to put in place of a layer's `call`, if anything."""
    if _is_batch_norm(layer):
        return lambda inputs, training=None, mask=None: _call_batch_norm(
            layer, inputs, mask, narrow
        )
    if compiled and _is_convolution(layer):
        return lambda inputs: _call_convolution(
            layer, inputs, in_bfloat16, narrow
        )
    if compiled and _is_max_pool(layer):
        return lambda inputs: lowered_ops.max_pool(
            inputs, layer.pool_size, layer.padding
        )
    return None


def _is_batch_norm(layer):
    return (
        isinstance(layer, keras.layers.BatchNormalization)
        and not layer.renorm
        and _has_own_methods(layer)
        # A frozen layer keeps Keras' meaning: its moving averages.
        and layer.trainable
    )


def _has_own_methods(layer):
    """Whether a subclass leaves the computation as Keras has it."""
    return own_calls.as_its_class(layer) and all(
        getattr(type(layer), name)
        is getattr(keras.layers.BatchNormalization, name)
        for name in ("call", "_moments")
    )


def left_on_moving_averages(model: keras.Model) -> list[str]:
    """Names of the layers that predict with averages nobody updates.

    Meta-training writes no moving averages, so a batch normalisation that
    cannot be lowered would score the queries with its initial ones.
    """
    return [
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
        and not _is_batch_norm(layer)
    ]


def _is_convolution(layer):
    return (
        type(layer) is keras.layers.Conv2D
        and own_calls.as_its_class(layer)
        and layer.data_format == "channels_last"
        and layer.groups == 1
        and tuple(layer.dilation_rate) == (1, 1)
        and layer.padding in ("same", "valid")
    )


def wide_convolutions(model: keras.Model) -> list:
    """The layers whose products can be of bfloat16."""
    return [
        layer
        for layer in model._flatten_layers()
        if _is_convolution(layer)
        and layer.built
        and not lowered_ops.is_narrow(
            tf.reshape(layer.kernel, (-1, layer.filters))
        )
    ]


def _is_max_pool(layer):
    return (
        type(layer) is keras.layers.MaxPooling2D
        and own_calls.as_its_class(layer)
        and layer.data_format == "channels_last"
        and tuple(layer.strides) == tuple(layer.pool_size)
    )


def _call_convolution(layer, x, in_bfloat16, narrow):
    kernel = tf.convert_to_tensor(layer.kernel)
    bias = tf.convert_to_tensor(layer.bias) if layer.use_bias else None
    extents = kernel.shape[:2], layer.strides, layer.padding
    kernel = tf.reshape(kernel, (-1, kernel.shape[-1]))
    is_narrow = lowered_ops.is_narrow(kernel)
    if in_bfloat16 and not is_narrow:
        outputs = lowered_ops.convolution_in_bfloat16(x, kernel, bias, *extents)
    else:
        taps = lowered_ops.taps_of(x, *extents)
        outputs = lowered_ops.convolution(taps, kernel, bias)
    if layer.activation not in (None, keras.activations.linear):
        return layer.activation(outputs)
    if is_narrow:
        narrow.add(outputs, taps, kernel)
    return outputs


def _call_batch_norm(layer, x, mask, narrow):
    axis = layer.axis[0] if isinstance(layer.axis, list) else layer.axis
    if mask is not None or axis not in (-1, len(x.shape) - 1):
        return type(layer).call(layer, x, training=True, mask=mask)
    dtype = x.dtype
    y = tf.cast(x, tf.as_dtype(keras.backend.result_type(dtype, "float32")))
    gamma = tf.cast(layer.gamma, y.dtype) if layer.scale else None
    beta = tf.cast(layer.beta, y.dtype) if layer.center else None
    factors = narrow.find(x) if y.dtype == dtype else None
    if factors:
        y = lowered_norm.narrow_batch_norm(*factors, gamma, beta, layer.epsilon)
    else:
        y = lowered_norm.batch_norm(y, gamma, beta, layer.epsilon)
    return tf.cast(y, layer.compute_dtype)
