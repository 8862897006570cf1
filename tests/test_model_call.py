"""A model inside of the loop is called as Keras' own `fit` calls it."""

import threading

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import LOSS, SPEC, blobs, messages

import keras_reptile as kr
from keras_reptile import own_calls

REGULARIZER = keras.regularizers.L2(0.1)
X = np.random.default_rng(0).normal(size=(6, 4)).astype("float32")
Y = np.array([0, 1, 2, 0, 1, 2])


class Untold(keras.Model):
    """Does not hand `training` on, which Keras does by itself."""

    def __init__(self, rate=0.5, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(32, "relu")
        self.drop = keras.layers.Dropout(rate, seed=1)
        self.head = keras.layers.Dense(3)

    def call(self, x, training=None):
        return self.head(self.drop(self.hidden(x)))


def regularized(layer=keras.layers.Dense):
    return layer(4, "tanh", activity_regularizer=REGULARIZER)


def used_twice():
    x, shared = keras.Input((4,)), regularized()
    return keras.Model(x, keras.layers.Dense(3)(shared(shared(x))))


def nested_twice():
    x, shared = keras.Input((4,)), keras.Sequential([regularized()])
    return keras.Model(x, keras.layers.Dense(3)(shared(shared(x))))


def of_the_model():
    model = Untold(activity_regularizer=REGULARIZER)
    model(X)
    return model


def in_a_row():
    layers = [regularized() for _ in range(4)]
    return keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(3)])


def learner_of(model):
    return kr.Learner(model, LOSS, keras.optimizers.SGD(0.1))


def test_layers_know_that_they_are_in_training():
    model = Untold()
    model(X)
    learner = learner_of(model)
    state = learner.state()
    trained, buffers, _ = learner._call(state, X, True, False)
    again, *_ = learner._call(state._replace(buffers=buffers), X, True, False)
    predicted = learner.predict(state, X)
    np.testing.assert_allclose(predicted, model(X), 1e-6)
    assert np.abs(trained - predicted).max() > 0.01
    assert np.abs(trained - again).max() > 0.01  # Its seed has moved on.


def test_dropout_of_any_model_drops_in_fit():
    weights = []
    for rate in (0.0, 0.9):
        keras.utils.set_random_seed(0)
        network = Untold(rate)
        network(X)
        model = kr.MetaModel(network)
        model.compile(loss=LOSS, jit_compile=False)
        stream = blobs().episodes(SPEC)
        model.fit(stream, steps_per_epoch=2, verbose=0)
        weights.append(network.get_weights()[0])
    assert np.abs(weights[0] - weights[1]).max() > 1e-4


@pytest.mark.parametrize(
    "network", [used_twice, nested_twice, of_the_model, in_a_row]
)
def test_penalties_are_those_of_keras(network):
    model = network()
    learner = learner_of(model)
    model(X, training=False)
    expected = float(sum(model.losses))
    assert expected > 0
    # By id Keras finds a loss, and an id comes again when a loss is gone.
    for _ in range(20):
        _, _, penalties = learner._call(learner.state(), X, False, False)
        assert float(sum(penalties)) == pytest.approx(expected)


@pytest.mark.parametrize("network", [used_twice, in_a_row])
def test_a_step_is_that_of_keras(network):
    keras.utils.set_random_seed(0)
    model = network()
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.compile(keras.optimizers.SGD(0.1), LOSS, jit_compile=False)
    copy.train_on_batch(X, Y)
    learner = learner_of(model)
    stepped = learner.step(learner.state(), tf.constant(X), tf.constant(Y))
    for one, other in zip(stepped.weights, copy.trainable_variables):
        np.testing.assert_allclose(one, other.numpy(), 1e-5, 1e-7)


class Penalized(keras.layers.Layer):
    """One value for each example, which Keras sums."""

    def call(self, x):
        self.add_loss(keras.ops.sum(x**2, -1))
        return x


def test_penalties_that_are_no_scalars_are_summed():
    test_a_step_is_that_of_keras(
        lambda: keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(4),
                Penalized(),
                keras.layers.Dense(3),
            ]
        )
    )


def test_penalties_are_there_whatever_other_threads_do():
    model = in_a_row()
    learner = learner_of(model)
    state = learner.state()
    expected = float(sum(learner._call(state, X, False, False)[2]))

    class Clearing(keras.layers.Layer):
        def call(self, x):
            thread = threading.Thread(target=model._clear_losses)
            thread.start()
            thread.join()
            return x

    last, clearing = model.layers[-1], Clearing()

    def call(x, training=None):
        return clearing(type(last).call(last, x))

    with own_calls.replaced(last, call):
        penalties = learner._call(state, X, False, False)[2]
    assert float(sum(penalties)) == pytest.approx(expected)


def test_a_state_of_other_variables_is_refused():
    model = in_a_row()
    learner = learner_of(model)
    state = learner.state()
    model.layers[-1].trainable = False
    with pytest.raises(ValueError, match="10 weights and 0 buffers; exp.* 8 a"):
        learner.predict(state, X)


def test_layers_that_would_get_no_gradient_are_refused():
    with keras.RematScope(mode="full"):
        layer = keras.layers.Dense(4, name="again")
    network = keras.Sequential([keras.Input((4,)), layer])
    with pytest.raises(ValueError, match="RematScope.*'again'"):
        kr.MetaModel(network)


def test_scales_of_float8_are_refused():
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    network.layers[0].quantize("float8")
    with pytest.raises(ValueError, match="float8 replaces by its gradient"):
        kr.MetaModel(network)


class Unseeded(keras.layers.Layer):
    def call(self, x):
        return x + keras.random.normal((4,))


@pytest.mark.parametrize(
    "layer",
    [
        Unseeded,
        lambda: keras.layers.SimpleRNN(4, stateful=True),
    ],
    ids=["random", "stateful"],
)
def test_what_is_kept_outside_of_the_model_is_refused(layer):
    network = keras.Sequential(
        [
            keras.Input((4,), batch_size=2),
            keras.layers.Reshape((1, 4)),
            layer(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    with pytest.raises(ValueError, match="must be variables of the model"):
        kr.MetaModel(network).compile(loss=LOSS)


def test_float16_is_warned_of(log):
    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, dtype="mixed_float16")]
    )
    kr.MetaModel(network).compile(loss=LOSS)
    assert "Use mixed_bfloat16" in messages(log)
