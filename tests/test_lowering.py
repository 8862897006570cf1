"""Layers in their lowered form, against Keras' own."""

import contextlib
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_reptile import lowered_norm, lowered_ops
from keras_reptile.lowering import lowered
from keras_reptile.models import omniglot_cnn

layers = keras.layers


def convolution(x, kernel, bias, strides, padding):
    """As `tf.nn.conv2d`, in the lowered form."""
    taps = lowered_ops.taps_of(x, kernel.shape[:2], strides, padding)
    rows = tf.reshape(kernel, (-1, kernel.shape[-1]))
    return lowered_ops.convolution(taps, rows, bias)


def narrow_batch_norm(x, kernel, gamma, beta):
    """A 3x3 convolution of stride 2 and its normalisation, in one."""
    taps = lowered_ops.taps_of(x, (3, 3), (2, 2), "same")
    rows = tf.reshape(kernel, (-1, kernel.shape[-1]))
    return lowered_norm.narrow_batch_norm(taps, rows, gamma, beta, 1e-3)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (3, 3), (2, 1)])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (2, 2), (5, 3), (4, 4)])
@pytest.mark.parametrize("extent", [(8, 8), (7, 9)])
def test_convolution(extent, kernel, strides, padding):
    x = tf.random.normal((2, *extent, 3))
    k = tf.random.normal((*kernel, 3, 4))
    b = tf.random.normal((4,))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch((x, k, b))
        expected = tf.nn.conv2d(x, k, (1, *strides, 1), padding.upper()) + b
        received = convolution(x, k, b, strides, padding)
        losses = [tf.reduce_sum(tf.sin(y)) for y in (expected, received)]
    np.testing.assert_allclose(received, expected, atol=1e-4)
    for wanted, got in zip(*(tape.gradient(z, (x, k, b)) for z in losses)):
        np.testing.assert_allclose(got, wanted, atol=1e-3)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [(2, 2), (3, 2), (1, 3)])
@pytest.mark.parametrize("extent", [(8, 6), (7, 9)])
def test_max_pool_with_ties(extent, size, padding):
    # Of a few whole numbers, most windows hold their maximum twice.
    rng = np.random.default_rng(0)
    x = tf.constant(rng.integers(-3, 0, (2, *extent, 3)), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        expected = tf.nn.max_pool2d(x, size, size, padding.upper())
        received = lowered_ops.max_pool(x, size, padding)
        weights = rng.normal(size=expected.shape)
        losses = [
            tf.reduce_sum(y * tf.constant(weights, tf.float32))
            for y in (expected, received)
        ]
    np.testing.assert_array_equal(received, expected)
    wanted, got = (tape.gradient(loss, x) for loss in losses)
    np.testing.assert_array_equal(got, wanted)


def second_order(function, arguments):
    """A Hessian-vector product in every argument, with fixed directions."""
    rng = np.random.default_rng(0)
    directions = [tf.constant(rng.normal(size=a.shape)) for a in arguments]
    with tf.GradientTape() as outer:
        outer.watch(arguments)
        with tf.GradientTape() as inner:
            inner.watch(arguments)
            loss = tf.reduce_sum(tf.sin(function(*arguments)))
        gradients = inner.gradient(loss, arguments)
        total = tf.add_n(
            [tf.reduce_sum(g * d) for g, d in zip(gradients, directions)]
        )
    return gradients, outer.gradient(total, arguments)


def plain_batch_norm(x, gamma, beta):
    # Not tf.nn.moments: its second derivative takes the mean for a constant.
    mean = tf.reduce_mean(x, (0, 1, 2))
    variance = tf.reduce_mean((x - mean) ** 2, (0, 1, 2))
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-3)


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize(
    ("form", "plain", "shapes"),
    [
        (
            lambda x, k, b: convolution(x, k, b, (2, 2), "same"),
            lambda x, k, b: tf.nn.conv2d(x, k, (1, 2, 2, 1), "SAME") + b,
            [(2, 5, 6, 3), (3, 3, 3, 4), (4,)],
        ),
        (
            lambda x, g, b: lowered_norm.batch_norm(x, g, b, 1e-3),
            plain_batch_norm,
            [(2, 5, 6, 3), (3,), (3,)],
        ),
        (
            narrow_batch_norm,
            lambda x, k, g, b: plain_batch_norm(
                tf.nn.conv2d(x, k, (1, 2, 2, 1), "SAME"), g, b
            ),
            [(2, 5, 6, 1), (3, 3, 1, 12), (12,), (12,)],
        ),
    ],
)
def test_derivatives_of_first_and_second_order(form, plain, shapes, in_graph):
    rng = np.random.default_rng(1)
    arguments = [tf.constant(rng.normal(size=shape)) for shape in shapes]

    def both(arguments):
        return second_order(form, arguments), second_order(plain, arguments)

    received, expected = (tf.function(both) if in_graph else both)(arguments)
    for got, wanted in zip(*map(tf.nest.flatten, (received, expected))):
        np.testing.assert_allclose(got, wanted, atol=1e-10)


def kernel_gradients(network, weights, x, in_form):
    values = [tf.constant(w, network.dtype) for w in weights]
    buffers = [v.value for v in network.non_trainable_variables]
    form = lowered(network) if in_form else contextlib.nullcontext()
    with tf.GradientTape() as tape, form:
        tape.watch(values)
        outputs, _ = network.stateless_call(values, buffers, x, training=True)
        loss = tf.reduce_sum(tf.nn.log_softmax(outputs)[:, 0])
    return tape.gradient(loss, values)[::4]  # Without what batch norm undoes.


def test_gradients_are_as_exact_as_keras_own():
    network, rng = omniglot_cnn(ways=5), np.random.default_rng(0)
    keras.config.set_dtype_policy("float64")
    try:
        double = omniglot_cnn(ways=5)
    finally:
        keras.config.set_dtype_policy("float32")
    weights = [v.numpy() for v in network.trainable_variables]
    x = (rng.uniform(size=(10, 28, 28, 1)) > 0.2).astype("float32")
    exact = kernel_gradients(double, weights, x, in_form=False)

    def error(network, in_form):
        received = kernel_gradients(network, weights, x, in_form)
        return [
            np.abs(r - e).max() / np.abs(e).max()
            for r, e in zip(map(np.array, received), map(np.array, exact))
        ]

    assert max(error(double, in_form=True)) < 1e-13
    keras_own = error(network, in_form=False)
    assert max(error(network, in_form=True)) < 2 * max(keras_own) < 1e-4


def network():
    return keras.Sequential(
        [
            keras.Input((9, 9, 2)),
            layers.Conv2D(4, 3, strides=2, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(2, padding="same"),
            layers.Dropout(0.3),
            layers.Conv2D(3, 2, use_bias=False),
            layers.BatchNormalization(center=False, scale=False),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )


def call(model, x, training, compiled):
    values = [
        [tf.convert_to_tensor(v.value) for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
        )
    ]
    with lowered(model, compiled):
        return model.stateless_call(*values, x, training=training)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_whole_model_computes_the_same(compiled):
    model, x = network(), tf.random.normal((6, 9, 9, 2))
    weights = [v.value for v in model.trainable_variables]
    buffers = [v.value for v in model.non_trainable_variables]
    # The same dropout mask: the seed's state goes in with the buffers.
    expected, _ = model.stateless_call(weights, buffers, x, training=True)
    received, _ = call(model, x, True, compiled)
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_batch_statistics_also_where_dropout_is_off():
    model, x = network(), 5 + tf.random.normal((6, 9, 9, 2))
    before = [v.numpy() for v in model.non_trainable_variables]
    outputs, buffers = call(model, x, False, True)
    shifted, _ = call(model, x + 100, False, True)
    # Batch norm takes a shift of the whole batch away, but for the padding.
    valid = keras.Sequential(
        [
            keras.Input((9, 9, 2)),
            layers.Conv2D(3, 3),
            layers.BatchNormalization(),
        ]
    )
    one, _ = call(valid, x, False, True)
    other, _ = call(valid, x + 100, False, True)
    np.testing.assert_allclose(one, other, atol=2e-3)
    assert np.abs(one - valid(x, training=False)).max() > 0.1
    for old, new in zip(before, buffers):
        np.testing.assert_array_equal(old, new)
    assert np.isfinite(outputs).all() and np.isfinite(shifted).all()


def test_a_frozen_batch_norm_keeps_its_moving_averages():
    model, x = network(), tf.random.normal((6, 9, 9, 2))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    received, _ = call(model, x, False, True)
    np.testing.assert_allclose(received, model(x, training=False), atol=1e-5)


def test_the_model_is_itself_again_afterwards():
    model = network()
    with pytest.raises(RuntimeError), lowered(model):
        assert "call" in model.layers[1].__dict__
        raise RuntimeError
    for layer in model.layers:
        assert not {"call", "convolution_op"} & set(layer.__dict__)


def test_other_layers_are_left_as_they_are():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 4)),
            layers.Conv2D(4, 3, dilation_rate=2),
            layers.Conv2D(4, 3, groups=2),
            layers.DepthwiseConv2D(3, padding="same"),
            layers.MaxPooling2D(2, strides=1),
        ]
    )
    x = tf.random.normal((2, 8, 8, 4))
    received, _ = call(model, x, True, True)
    np.testing.assert_array_equal(received, model(x))


def test_a_filter_that_sums_to_zero_is_normalised_exactly():
    rng = np.random.default_rng(0)
    x = 128 + 60 * rng.normal(size=(20, 1, 1, 1))
    x = x + 0.06 * rng.normal(size=(20, 14, 14, 1))
    k = rng.normal(size=(3, 3, 1, 12))
    k -= k.mean((0, 1), keepdims=True)
    gamma, beta = np.ones(12), np.zeros(12)

    def normalised(dtype):
        arrays = [tf.constant(a, dtype) for a in (x, k, gamma, beta)]
        return narrow_batch_norm(*arrays)

    exact = plain_batch_norm(
        tf.nn.conv2d(x, k, (1, 2, 2, 1), "SAME"), gamma, beta
    )
    np.testing.assert_allclose(normalised("float64"), exact, atol=1e-9)
    np.testing.assert_allclose(normalised("float32"), exact, atol=2e-3)


class ByKeyword(keras.Model):
    """Which gives its layers their inputs by name."""

    def __init__(self):
        super().__init__()
        self.parts = [
            layers.Conv2D(3, 3, strides=2),
            layers.BatchNormalization(),
            layers.MaxPooling2D(2),
        ]

    def call(self, x, training=None):
        for layer in self.parts:
            x = layer(inputs=x)
        return x


def test_layers_may_be_called_by_keyword():
    model, x = ByKeyword(), tf.random.normal((4, 9, 9, 2))
    model(x)
    for layer in model.parts:
        layer.momentum = 0.0
    expected = model.parts[1](model.parts[0](x), training=True)
    expected = model.parts[2](expected)
    received, _ = call(model, x, True, False)
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_a_call_of_a_layers_own_is_left_as_it_is():
    model, x = network(), tf.random.normal((6, 9, 9, 2))
    convolution = model.layers[0]
    assert isinstance(convolution, layers.Conv2D)

    def own(inputs):
        return 0.0 * layers.Conv2D.call(convolution, inputs)

    convolution.call = own
    for inside in (lowered(model), contextlib.nullcontext()):
        with inside:
            assert not np.any(convolution(x))
    assert convolution.call is own


def test_contexts_may_overlap():
    layer = keras.Sequential([keras.Input((3,)), layers.BatchNormalization()])
    layer, x = layer.layers[0], tf.constant([[1.0, 2, 3], [2.0, 4, 6]])
    model = keras.Sequential([keras.Input((3,)), layer])
    own = layer(x, training=False)
    entered, left = threading.Event(), threading.Event()
    seen = {}

    def other():
        with lowered(model):
            entered.set()
            left.wait(10)
            seen["lowered"] = layer(x, training=False)
        seen["own"] = layer(x, training=False)

    thread = threading.Thread(target=other)
    with lowered(model):
        thread.start()
        assert entered.wait(10)
        with lowered(model):
            inside = layer(x, training=False)
        again = layer(x, training=False)
    # In this thread no longer, and in the other one still.
    np.testing.assert_array_equal(layer(x, training=False), own)
    left.set()
    thread.join()
    for received in (again, seen["lowered"]):
        np.testing.assert_array_equal(received, inside)
    np.testing.assert_array_equal(seen["own"], own)
    assert np.abs(inside - own).max() > 0.5 and "call" not in vars(layer)
