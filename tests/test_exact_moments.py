"""Normalisation of any kind has the right second derivatives."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import slope_of

import keras_reptile as kr
from keras_reptile.exact_moments import moments
from keras_reptile.lowering import lowered


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16"])
@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("axes", [[0, 2], [-1], (1,)])
def test_values_and_first_derivatives_are_tensorflows(axes, keepdims, dtype):
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 4, 5)), dtype)
    results = []
    for function in (tf.nn.moments, moments):
        with tf.GradientTape() as tape:
            tape.watch(x)
            mean, variance = function(x, axes, keepdims=keepdims)
            total = tf.reduce_sum(mean**2) + tf.reduce_sum(tf.sqrt(variance))
        results.append((mean, variance, tape.gradient(total, x)))
    (*expected, slope), (*received, own_slope) = results
    for one, other in zip(expected, received):
        assert one.shape == other.shape and one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    tolerance = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-14}[dtype]
    np.testing.assert_allclose(slope, own_slope, tolerance, tolerance)


class OwnNormalization(keras.layers.Layer):
    """Of a user's, straight from TensorFlow."""

    def call(self, x):
        mean, variance = tf.nn.moments(x, [-1], keepdims=True)
        return tf.nn.batch_normalization(x, mean, variance, None, None, 1e-3)


NORMALIZATIONS = {
    "layer": lambda: keras.layers.LayerNormalization(),
    "group": lambda: keras.layers.GroupNormalization(2),
    "unit": lambda: keras.layers.UnitNormalization(),
    "batch, of the first axis": lambda: keras.layers.BatchNormalization(axis=1),
    "batch": lambda: keras.layers.BatchNormalization(),
    "own": lambda: OwnNormalization(),
}


def problem(name):
    """A smooth network around a normalisation, and a task."""
    rng = np.random.default_rng(0)
    network = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(12, "tanh"),
            keras.layers.Reshape((3, 4)),
            NORMALIZATIONS[name](),
            keras.layers.Flatten(),
            keras.layers.Dense(2),
        ]
    )
    learner = kr.Learner(network, "mse", keras.optimizers.SGD(0.1))
    support, query = (
        kr.Examples(rng.normal(size=(n, 3)), rng.normal(size=(n, 2)))
        for n in (6, 5)
    )
    rows = np.arange(12, dtype="int32").reshape(3, 4) % 6
    task = tf.nest.map_structure(tf.constant, kr.Task(support, query, rows))
    along = [rng.normal(size=w.shape) for w in learner.state().weights]
    return learner, task, along


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_hessians_are_differences_of_gradients(float64, name):
    learner, task, along = problem(name)
    state, step = learner.state(), 1e-4

    def difference(step):
        ahead, behind = (
            learner.gradient(
                state._replace(
                    weights=[w + h * d for w, d in zip(state.weights, along)]
                ),
                *task.query,
            )[0]
            for h in (step, -step)
        )
        return [(a - b) / (2 * step) for a, b in zip(ahead, behind)]

    product = kr.analysis.hessian_vector_product(
        learner, state, *task.query, along
    )
    # Of fourth order, so that its own error is below what is asked.
    for near, far, part in zip(difference(step), difference(2 * step), product):
        np.testing.assert_allclose(part, (4 * near - far) / 3, 1e-6, 1e-7)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["layer", "group"])
def test_maml_goes_through_them(float64, name, jit_compile):
    learner, task, along = problem(name)
    state = learner.state()

    @tf.function(autograph=False)
    def loss(distance):
        weights = [w + distance * d for w, d in zip(state.weights, along)]
        adapted = learner.adapt(state._replace(weights=weights), task)
        return learner.query_loss(adapted, task)

    maml = tf.function(
        lambda: kr.algorithms.get("maml")(learner, state, task)[0],
        autograph=False,
        jit_compile=jit_compile,
    )
    received = sum(tf.reduce_sum(g * d) for g, d in zip(maml(), along))
    np.testing.assert_allclose(received, slope_of(loss), rtol=1e-6)


def test_tensorflow_is_itself_again_and_in_other_threads():
    theirs, seen = tf.nn.moments, []
    learner, *_ = problem("own")
    x = tf.random.normal((4, 3))

    def operations():
        traced = tf.function(lambda x: tf.nn.moments(x, [0]))
        graph = traced.get_concrete_function(x).graph
        return {op.type for op in graph.get_operations()}

    with lowered(learner.model):
        thread = threading.Thread(target=lambda: seen.append(operations()))
        thread.start()
        thread.join()
        assert "StopGradient" not in operations()
    assert "StopGradient" in seen[0]
    assert tf.nn.moments is theirs
