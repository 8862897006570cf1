"""Slots of tasks side by side, put together as if the tasks were in a row."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SPEC, meta_model
from trained_model import CLASSES

import keras_reptile as kr
from keras_reptile import slot_decay
from keras_reptile.stateless import stateless

o = keras.optimizers
RATE = o.schedules.ExponentialDecay(0.01, 5, 0.9)
LINEAR = [
    (o.SGD(0.1), []),
    (o.SGD(RATE, momentum=0.9), [(0.9, False)]),
    (o.SGD(0.1, momentum=0.8, nesterov=True, clipnorm=1.0), [(0.8, False)]),
    (o.Adam(0.01, beta_1=0.0), [(0.0, False), (0.999, True)]),
    (o.AdamW(0.01, weight_decay=0.1), [(0.9, False), (0.999, True)]),
    (o.RMSprop(0.01), [(0.9, True)]),
    (o.RMSprop(0.01, rho=0.8, centered=True), [(0.8, False), (0.8, True)]),
    (o.Adagrad(0.1), [(1.0, True)]),
    (o.Lion(0.01), [(0.99, False)]),
    (o.Lamb(0.01), [(0.9, False), (0.999, True)]),
]
NOT_LINEAR = [
    o.Adam(0.01, amsgrad=True),
    o.Adamax(0.01),
    o.RMSprop(0.01, momentum=0.5),
    o.Adadelta(1.0),
    o.Adafactor(0.01),
    o.Ftrl(0.1),
]


def name(optimizer):
    return type(optimizer).__name__ if optimizer is not None else None


def weights(*shapes):
    return [keras.Variable(np.zeros(s, "float32")) for s in shapes]


@pytest.mark.parametrize("optimizer, expected", LINEAR, ids=name)
@pytest.mark.parametrize("shapes", [[(3, 40), (40,)], [()]], ids=str)
def test_decays_are_the_settings(optimizer, expected, shapes):
    variables = weights(*shapes)
    decays = slot_decay.of_slots(stateless(optimizer, variables), variables)
    assert sorted({d for d in decays if d}) == expected


@pytest.mark.parametrize("optimizer", NOT_LINEAR, ids=name)
@pytest.mark.parametrize("shapes", [[(3, 40), (40,)], [()]], ids=str)
def test_other_slots_are_refused(optimizer, shapes):
    variables = weights(*shapes)
    with pytest.raises(ValueError, match="whose slot .* is not. Use .*Adam"):
        slot_decay.of_slots(stateless(optimizer, variables), variables)


def test_compile_refuses_them():
    with pytest.raises(ValueError, match="accumulate.*Adamax"):
        meta_model(inner_state="accumulate", inner_optimizer=o.Adamax(0.01))


def linear_in_the_outputs(targets, outputs):
    """A loss whose gradient in a linear model's weights is always the same."""
    signs = tf.one_hot(targets, outputs.shape[-1]) - 0.3
    return tf.reduce_sum(signs * outputs, -1)


def slots_after(inner_state, optimizer, tasks, steps=3):
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model = kr.MetaModel(network, inner_state=inner_state)
    model.compile(
        optimizer=o.SGD(0.5),
        inner_optimizer=optimizer,
        loss=linear_in_the_outputs,
        jit_compile=False,
    )
    stream = CLASSES.episodes(SPEC, meta_batch_size=tasks, seed=1)
    model.fit(stream, steps_per_epoch=steps, verbose=0)
    return [v.numpy() for v in model.inner_optimizer.variables]


@pytest.mark.parametrize(
    "optimizer",
    [
        o.SGD(0.1, momentum=0.9, nesterov=True),
        o.Adam(0.01),
        o.RMSprop(0.01, rho=0.8, centered=True),
        o.Adagrad(0.1),
        o.Lion(0.01),
    ],
    ids=name,
)
def test_of_the_same_gradients_they_are_the_carried_ones(optimizer, tasks=4):
    carried = slots_after("carry", optimizer, tasks)
    accumulated = slots_after("accumulate", optimizer, tasks)
    for one, other in zip(carried, accumulated):
        np.testing.assert_allclose(other, one, rtol=2e-5, atol=1e-7)


def test_of_which_none_is_below_zero():
    """Where rounding is more than what is left of an old second moment."""

    def zero(targets, outputs):
        return 0.0 * linear_in_the_outputs(targets, outputs)

    model = meta_model(
        inner_state="accumulate",
        inner_optimizer=o.RMSprop(0.01, rho=0.1),
        loss=zero,
        metrics=(),
    )
    variables = model.inner_optimizer.variables[2:]
    random = np.random.default_rng(0)
    for variable in variables:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    stream = CLASSES.episodes(SPEC, meta_batch_size=4, seed=1)
    model.fit(stream, steps_per_epoch=1, verbose=0)
    for variable in variables:
        assert variable.numpy().min() >= 0.0
        assert variable.numpy().max() < 1e-6
