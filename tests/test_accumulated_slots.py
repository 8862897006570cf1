"""Slots of tasks side by side, put together as if the tasks were in a row."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SPEC, meta_model
from trained_model import CLASSES

import keras_reptile as kr

o = keras.optimizers
REFUSED = [
    o.Adam(0.01, amsgrad=True),
    o.RMSprop(0.01, momentum=0.5),
    o.Adamax(0.01),
    o.Adadelta(1.0),
    o.Adafactor(0.01),
    o.Ftrl(0.1),
    o.Muon(0.01),
]


class MyAdam(o.Adam):
    """Which could do anything."""


def name(optimizer):
    return type(optimizer).__name__


@pytest.mark.parametrize("optimizer", [*REFUSED, MyAdam()], ids=name)
def test_slots_not_known_to_be_linear_are_refused(optimizer):
    text = f"{name(optimizer)} with .*whose slot .* is not. Use SGD"
    with pytest.raises(ValueError, match=text):
        meta_model(inner_state="accumulate", inner_optimizer=optimizer)


def test_an_algorithm_that_takes_fresh_slots_is_refused():
    def fresh(learner, state, task):
        adapted = learner.adapt(learner.with_fresh_slots(state), task)
        both = zip(state.weights, adapted.weights)
        return [a - b for a, b in both], adapted

    model = meta_model(inner_state="accumulate", algorithm=fresh)
    with pytest.raises(ValueError, match='accumulate.*fresh.*"average" or'):
        model.fit(CLASSES.episodes(SPEC, 2), steps_per_epoch=1, verbose=0)


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


# Without momentum, with small steps, clipped, or of a long memory.
@pytest.mark.parametrize(
    "optimizer",
    [
        o.SGD(0.1),
        o.SGD(1e-5, momentum=0.9, nesterov=True),
        o.SGD(o.schedules.ExponentialDecay(0.1, 5, 0.5)),
        o.Adam(0.01, global_clipnorm=0.01),
        o.Adam(0.01, beta_1=0.0, beta_2=0.99999),
        o.AdamW(0.01, weight_decay=0.1),
        o.Lamb(0.01),
        o.RMSprop(0.01, rho=0.8, centered=True),
        o.Adagrad(0.1),
        o.Lion(0.01),
    ],
    ids=name,
)
def test_of_the_same_gradients_they_are_the_carried_ones(optimizer):
    carried = slots_after("carry", optimizer, tasks=4)
    accumulated = slots_after("accumulate", optimizer, tasks=4)
    for one, other in zip(carried, accumulated):
        scale = np.abs(one).max()
        np.testing.assert_allclose(other, one, atol=2e-5 * scale, rtol=0)


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
