"""MAML against finite differences, for every inner optimizer it takes."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import LOSS, of_tokens, slope_of

import keras_reptile as kr

OPTIMIZERS = {
    "SGD": keras.optimizers.SGD(0.1),
    "momentum": keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "Adam": keras.optimizers.Adam(0.05, beta_1=0.0),
    "Adam, as Keras has it": keras.optimizers.Adam(0.05),
    "AdamW": keras.optimizers.AdamW(0.05),
    "Adamax": keras.optimizers.Adamax(0.05),
    "RMSprop": keras.optimizers.RMSprop(0.05, epsilon=1e-3),
    "Adagrad": keras.optimizers.Adagrad(0.05),
    "Adadelta": keras.optimizers.Adadelta(1.0, epsilon=1e-3),
    "Ftrl": keras.optimizers.Ftrl(0.1),
    "Lamb": keras.optimizers.Lamb(0.05),
    "Adafactor": keras.optimizers.Adafactor(0.05),
    "Muon": keras.optimizers.Muon(0.05),
    "clipnorm": keras.optimizers.SGD(0.1, clipnorm=0.3),
    "global_clipnorm": keras.optimizers.SGD(0.1, global_clipnorm=0.3),
    "clipvalue": keras.optimizers.SGD(0.1, clipvalue=0.2),
    "schedule": keras.optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    ),
    "decay": keras.optimizers.SGD(0.1, weight_decay=0.1),
    "centered": keras.optimizers.RMSprop(0.05, epsilon=1e-3, centered=True),
}


def smooth_problem(optimizer):
    """A network with batch norm and tanh in float64, and a task."""
    rng = np.random.default_rng(0)
    network = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, "tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
    )
    # No weight at 0, where Lamb's trust ratio jumps.
    network.set_weights([w + 0.3 for w in network.get_weights()])
    learner = kr.Learner(network, "mse", optimizer)
    support, query = (
        kr.Examples(rng.normal(size=(n, 3)), rng.normal(size=(n, 2)))
        for n in (6, 5)
    )
    task = tf.nest.map_structure(
        tf.constant,
        kr.Task(support, query, np.arange(12, dtype="int32").reshape(3, 4) % 6),
    )
    return learner, task, rng


# Others are near enough to these; all of them take a minute.
LEFT_OUT = ("global_clipnorm", "schedule", "decay", "Adamax")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in LEFT_OUT else ())
        for name in OPTIMIZERS
    ],
)
def test_maml_against_finite_differences(name, float64):
    learner, task, rng = smooth_problem(OPTIMIZERS[name])
    state = learner.state()
    along = [tf.constant(rng.normal(size=w.shape)) for w in state.weights]

    @tf.function(autograph=False)
    def loss(distance):
        weights = [w + distance * d for w, d in zip(state.weights, along)]
        adapted = learner.adapt(state._replace(weights=weights), task)
        return learner.query_loss(adapted, task)

    gradient, _ = tf.function(
        lambda: kr.algorithms.get("maml")(learner, state, task),
        autograph=False,
    )()
    received = sum(tf.reduce_sum(g * d) for g, d in zip(gradient, along))
    np.testing.assert_allclose(received, slope_of(loss), rtol=1e-8)


def test_first_and_second_order_differ(float64):
    learner, task, _ = smooth_problem(keras.optimizers.SGD(0.1))
    first, second = (
        kr.algorithms.get(name)(learner, learner.state(), task)[0]
        for name in ("fomaml", "maml")
    )
    assert np.abs(first[0] - second[0]).max() > 1e-3


@pytest.mark.parametrize("jit_compile", [None, False, True])
@pytest.mark.parametrize(
    "optimizer",
    [
        "sgd",
        "adam",
        keras.optimizers.Adam(beta_1=0.0),
        keras.optimizers.Adam(amsgrad=True),
        "adamax",
        "rmsprop",
        "adagrad",
    ],
    ids=lambda o: getattr(o, "name", o),
)
def test_maml_of_units_that_are_off_is_finite(optimizer, jit_compile):
    network = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(4, "relu", bias_initializer="ones"),
            keras.layers.Dense(2),
        ]
    )
    network.layers[0].bias.assign([-100.0, 0.0, 1.0, 1.0])
    learner = kr.Learner(network, "mse", optimizer)
    x, y = tf.random.normal((4, 3)), tf.random.normal((4, 2))
    task = kr.Task(
        kr.Examples(x, y), kr.Examples(x, y), tf.constant([[0, 1, 2, 3]] * 3)
    )
    maml = functools.partial(kr.algorithms.get("maml"), learner)
    if jit_compile is not None:
        maml = tf.function(maml, jit_compile=jit_compile, autograph=False)
    gradient, _ = maml(learner.state(), task)
    assert all(np.isfinite(g).all() for g in gradient)
    assert np.abs(gradient[0][:, 1:]).max() > 0
    np.testing.assert_array_equal(gradient[0][:, 0], np.zeros(3))


@pytest.mark.parametrize("name", ["maml", "fomaml", "reptile"])
def test_a_table_of_embeddings_is_trained(name):
    network = of_tokens()
    model = kr.MetaModel(network, name)
    model.compile(loss=LOSS, jit_compile=False)
    x = np.arange(36).reshape(1, 12, 3) % 10
    examples = kr.Examples(x.astype("int32"), np.arange(12)[None] % 3)
    batches = np.arange(12, dtype="int32").reshape(1, 3, 4)
    tasks = kr.Task(examples, examples, batches)
    before = network.get_weights()
    model.fit(tf.data.Dataset.from_tensors(tasks), steps_per_epoch=1, verbose=0)
    for a, b in zip(before, network.get_weights()):
        assert (a != b).any() and np.isfinite(b).all()
