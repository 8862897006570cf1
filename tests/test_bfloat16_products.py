"""Convolutions whose products are of bfloat16."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SPEC, meta_model
from test_compiled_step import as_hlo

import keras_reptile as kr
from keras_reptile import bfloat16_products, lowered_ops, lowering
from keras_reptile.bfloat16_products import product
from keras_reptile.learner import Learner

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
ON_THIS_PROCESSOR = bfloat16_products.processor_has_them()


def compiled(function):
    return tf.function(function, jit_compile=True, autograph=False)


def rounded(x):
    return tf.cast(tf.cast(x, tf.bfloat16), tf.float64)


@pytest.mark.parametrize(
    "transpose_a, transpose_b", [(False, False), (True, False), (False, True)]
)
def test_factors_are_rounded_and_the_sums_are_not(transpose_a, transpose_b):
    rng = np.random.default_rng(0)
    a = rng.normal(1, 1, (600, 7) if transpose_a else (7, 600))
    b = rng.normal(1, 1, (5, 600) if transpose_b else (600, 5))
    a, b = tf.constant(a, tf.float32), tf.constant(b, tf.float32)
    arguments = {"transpose_a": transpose_a, "transpose_b": transpose_b}
    expected = tf.matmul(rounded(a), rounded(b), **arguments)
    for way in (compiled, tf.function, lambda function: function):
        received = way(lambda a, b: product(a, b, **arguments))(a, b)
        assert received.dtype == tf.float32
        np.testing.assert_allclose(received, expected, rtol=1e-6)
    exact = tf.matmul(a, b, **arguments)
    assert np.abs(exact / tf.cast(expected, tf.float32) - 1).max() > 1e-5


@pytest.mark.skipif(not ON_THIS_PROCESSOR, reason="no bfloat16 here")
@pytest.mark.parametrize(
    "transpose_a, transpose_b", [(False, False), (True, False), (False, True)]
)
def test_xla_leaves_the_products_as_they_are(transpose_a, transpose_b):
    """When this fails, a new XLA converts to float32 first, and is slow."""
    a = tf.ones((64, 32) if transpose_a else (32, 64))
    b = tf.ones((16, 64) if transpose_b else (64, 16))
    function = compiled(lambda a, b: product(a, b, transpose_a, transpose_b))
    hlo = function.experimental_get_compiler_ir(a, b)(stage="optimized_hlo")
    ((first, second),) = re.findall(r"= f32\[.*? dot\((%\S+), (%\S+)\)", hlo)
    assert f"{first} = bf16[" in hlo and f"{second} = bf16[" in hlo


def test_an_inner_loop_has_one_each_way():
    """Forwards, and back to the images and to the kernel."""
    task = images().episode(SPEC, 0)
    learner = Learner(convolutional(), LOSS, "sgd", in_bfloat16=True)
    hlo = as_hlo(learner.adapt, (learner.state(), task))
    assert "while(" in hlo
    assert len(re.findall(r"= f32\[\S+ dot\(bf16\[", hlo)) == 3


def sum_of_sines(in_bfloat16):
    extents = (3, 3), (2, 2), "same"

    def function(x, kernel, bias):
        rows = tf.reshape(kernel, (-1, kernel.shape[-1]))
        if in_bfloat16:
            y = lowered_ops.convolution_in_bfloat16(x, rows, bias, *extents)
        else:
            taps = lowered_ops.taps_of(x, *extents)
            y = lowered_ops.convolution(taps, rows, bias)
        return tf.reduce_sum(tf.sin(y))

    return function


def derivatives(function, arguments):
    """Its gradient, and a Hessian-vector product."""

    def both(*arguments):
        with tf.GradientTape() as outer:
            outer.watch(arguments)
            with tf.GradientTape() as inner:
                inner.watch(arguments)
                value = function(*arguments)
            gradient = inner.gradient(value, arguments)
            along = tf.add_n([tf.reduce_sum(tf.cos(g)) for g in gradient])
        return gradient, outer.gradient(along, arguments)

    return tf.nest.flatten(compiled(both)(*arguments))


def test_derivatives_are_those_of_a_convolution():
    rng = np.random.default_rng(0)
    shapes = (3, 7, 8, 4), (3, 3, 4, 5), (5,)
    arguments = [
        tf.constant(rng.normal(0, 0.3, shape), tf.float32) for shape in shapes
    ]
    received = derivatives(sum_of_sines(True), arguments)
    expected = derivatives(sum_of_sines(False), arguments)
    for got, wanted in zip(received, expected):
        error = np.abs(got - wanted).max() / np.abs(wanted).max()
        assert 1e-6 < error < 0.03


def images():
    rng = np.random.default_rng(0)
    centres = rng.random((8, 1, 8, 8, 1))
    x = (centres + 0.1 * rng.random((8, 6, 8, 8, 1))).astype("float32")
    return kr.data.ClassDataset(x.reshape(-1, 8, 8, 1), [6] * 8)


def convolutional(dtype=None):
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 1))]
    for _ in range(2):
        layers += [
            keras.layers.Conv2D(16, 3, 2, padding="same", dtype=dtype),
            keras.layers.BatchNormalization(dtype=dtype),
            # Of a ReLU rounding switches what is nearly 0 on and off.
            keras.layers.Activation("tanh", dtype=dtype),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(3)]
    return keras.Sequential(layers)


def trained(algorithm="reptile", steps=15, **settings):
    model = kr.MetaModel(convolutional(), algorithm)
    model.compile(
        optimizer=keras.optimizers.SGD(0.5),
        inner_optimizer=keras.optimizers.SGD(0.02),
        loss=LOSS,
        **settings,
    )
    stream = images().episodes(SPEC, meta_batch_size=3, seed=1)
    history = model.fit(stream, steps_per_epoch=steps, epochs=2, verbose=0)
    return model, history.history["loss"]


@pytest.mark.parametrize(
    "algorithm, bound", [("reptile", 0.01), ("maml", 0.06)]
)
def test_weights_are_nearly_those_of_float32(algorithm, bound):
    exact, _ = trained(algorithm, steps=2)
    ours, _ = trained(algorithm, steps=2, convolution_dtype="bfloat16")
    kernels = [
        (a, b)
        for a, b in zip(exact.get_weights(), ours.get_weights())
        if a.ndim == 4
    ]
    # Not by the largest difference, which is another one on each processor:
    # of MAML 0.063 of the largest weight on one that has no bfloat16.
    norm = np.linalg.norm
    errors = [norm(a - b) / norm(a) for a, b in kernels]
    assert 1e-5 < max(errors) < bound


def test_tasks_run_in_both_ways_to_the_same_end():
    ways = [
        trained(steps=3, convolution_dtype="bfloat16", task_execution=way)[0]
        for way in ("side_by_side", "one_after_another")
    ]
    for a, b in zip(*(model.get_weights() for model in ways)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_episodes_are_evaluated_with_them():
    model, _ = trained(convolution_dtype="bfloat16")
    protocol = kr.Protocol(ways=3, shots=2, inner_steps=5, num_episodes=20)
    assert kr.evaluate(model, images(), protocol)["inductive"].mean > 0.6
    stream = images().episodes(SPEC, meta_batch_size=2, seed=9)
    losses = [model.evaluate(stream, steps=2, verbose=0)[0]]
    model.learner.in_bfloat16 = False
    model._compiled_functions, model.test_function = {}, None
    losses += [model.evaluate(stream, steps=2, verbose=0)[0]]
    assert 1e-6 < abs(losses[0] / losses[1] - 1) < 0.1


@pytest.mark.filterwarnings("ignore:.*unbuilt state")
def test_layers_that_are_not_used_are_no_matter():
    class WithOneMore(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.unused = convolutional(), keras.layers.Conv2D(4, 3)

        def call(self, x, training=None):
            return self.used(x, training=training)

    network = WithOneMore()
    network(np.zeros((2, 8, 8, 1), "float32"))
    model = kr.MetaModel(network)
    model.compile(loss=LOSS, convolution_dtype="bfloat16")
    assert model.learner.in_bfloat16


def test_tasks_are_not_vectorized_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(lowering, "has_accelerator", lambda: True)
    model = kr.MetaModel(convolutional())
    model.compile(loss=LOSS, convolution_dtype="bfloat16")
    assert model.task_execution == "side_by_side"


def test_gradients_of_their_batches_are_compared():
    model, _ = trained(steps=1, convolution_dtype="bfloat16")
    spec = kr.EpisodeSpec(
        ways=3, shots=4, queries=0, inner_steps=2, inner_batch_size=6
    )
    tasks = next(iter(images().episodes(spec, meta_batch_size=2)))
    agreement = kr.analysis.gradient_agreement(model.learner, tasks)
    model.learner.in_bfloat16 = False
    exact = kr.analysis.gradient_agreement(model.learner, tasks)
    assert agreement == exact  # An instrument does not round.


def test_a_saved_model_has_them(tmp_path):
    model, _ = trained(steps=1, convolution_dtype="bfloat16")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert loaded.learner.in_bfloat16


@pytest.mark.parametrize(
    "before, after",
    [
        (None, "bfloat16"),
        pytest.param("bfloat16", None, marks=pytest.mark.slow),
    ],
)
def test_a_run_is_not_resumed_without(tmp_path, before, after):
    def run(dtype, **arguments):
        model = kr.MetaModel(convolutional())
        model.compile(loss=LOSS, convolution_dtype=dtype)
        trainer = kr.MetaTrainer(checkpoint_dir=tmp_path, **arguments)
        stream = images().episodes(SPEC, meta_batch_size=2)
        model.fit(stream, steps_per_epoch=1, callbacks=trainer, verbose=0)

    run(before)
    with pytest.raises(ValueError, match="convolution_dtype' is"):
        run(after, resume=True)


def refused(network, message, **settings):
    model = kr.MetaModel(network)
    with pytest.raises(ValueError, match=message):
        model.compile(loss=LOSS, **settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"convolution_dtype": "float16"}, "be \"bfloat16\".*'float16'"),
        ({"jit_compile": False}, "that XLA compiles: jit_compile=True"),
        ({"run_eagerly": True}, "run_eagerly=False"),
        ({"task_execution": "vectorized"}, "no vectorized form"),
        ({"convolution_dtype": tf.bfloat16}, "Received: tf.bfloat16"),
    ],
)
def test_where_there_can_be_none_they_are_refused(settings, message):
    settings = {"convolution_dtype": "bfloat16", **settings}
    refused(convolutional(), message, **settings)


def test_models_that_cannot_have_them_are_refused():
    settings = {"convolution_dtype": "bfloat16", "jit_compile": True}
    refused(convolutional("float64"), r"layers of float32.*conv2d", **settings)
    with pytest.raises(ValueError, match="Conv2D that is lowered"):
        meta_model(**settings)
    narrow = [keras.Input((4, 4, 1)), keras.layers.Conv2D(16, 3)]
    layers = [*narrow, keras.layers.Flatten(), keras.layers.Dense(3)]
    refused(keras.Sequential(layers), "inputs per output", **settings)


def test_a_processor_without_is_warned_of(monkeypatch, caplog):
    monkeypatch.setattr(bfloat16_products, "processor_has_them", lambda: False)
    with caplog.at_level("WARNING"):
        trained(steps=1, convolution_dtype="bfloat16")
    assert "no instructions for bfloat16" in caplog.text


@pytest.mark.parametrize("compiled", [compiled, tf.function])
def test_learner_alone_has_them(compiled):
    task = images().episode(SPEC, 0)
    results = []
    for in_bfloat16 in (False, True):
        learner = Learner(convolutional(), LOSS, "sgd", in_bfloat16=in_bfloat16)
        adapt = compiled(learner.adapt)
        results.append(adapt(learner.state(), task).weights)
    differences = [np.abs(a - b).max() for a, b in zip(*results)]
    assert 1e-5 < max(differences) < 0.1
