"""Each algorithm's meta-gradient against a one-weight model by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_reptile as kr

W, TARGET, RATE, STEPS = 3.0, 1.0, 0.1, 4
# Loss (w - t)**2 under gradient descent: w_k - t = (1 - 2 * RATE)**k (w - t).
ADAPTED = TARGET + (1 - 2 * RATE) ** STEPS * (W - TARGET)
CLOSED_FORM = {"reptile": W - ADAPTED}


def one_weight_problem():
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False)]
    )
    model.set_weights([np.array([[W]])])
    learner = kr.Learner(
        model, keras.losses.MeanSquaredError(), keras.optimizers.SGD(RATE)
    )
    examples = kr.Examples(tf.ones((2, 1)), tf.fill((2, 1), TARGET))
    batches = tf.tile([[0, 1]], (STEPS, 1))
    return learner, kr.Task(examples, examples, batches)


def test_every_algorithm_has_a_closed_form():
    assert sorted(CLOSED_FORM) == kr.algorithms.names()


@pytest.mark.parametrize("name", kr.algorithms.names())
def test_meta_gradient_matches_closed_form(name):
    learner, task = one_weight_problem()
    algorithm = kr.algorithms.get(name)
    (gradient,), adapted = algorithm(learner, learner.state(), task)
    np.testing.assert_allclose(gradient, [[CLOSED_FORM[name]]], rtol=1e-6)
    np.testing.assert_allclose(adapted.weights[0], [[ADAPTED]], rtol=1e-6)


@pytest.mark.parametrize("name", kr.algorithms.names())
def test_the_model_is_unchanged(name):
    learner, task = one_weight_problem()
    kr.algorithms.get(name)(learner, learner.state(), task)
    np.testing.assert_array_equal(learner.model.get_weights()[0], [[W]])


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"one of \['reptile'\].*'repile'"):
        kr.algorithms.get("repile")
