"""Optimizers as pure functions, against themselves in place."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_reptile.stateless import stateless

schedule = keras.optimizers.schedules.ExponentialDecay(0.05, 2, 0.5)
o = keras.optimizers
SUPPORTED = [
    o.SGD(0.1),
    o.SGD(0.1, momentum=0.9),
    o.SGD(0.1, momentum=0.9, nesterov=True),
    o.SGD(0.1, weight_decay=0.1),
    o.SGD(schedule),
    o.SGD(0.1, clipnorm=0.5),
    o.SGD(0.1, global_clipnorm=0.5),
    o.SGD(0.1, clipvalue=0.1),
    o.Adam(0.01),
    o.Adam(0.01, beta_1=0.0, epsilon=1e-8),
    o.Adam(0.01, amsgrad=True),
    o.AdamW(0.01, weight_decay=0.1),
    o.Adamax(0.01),
    o.RMSprop(0.01, momentum=0.5, centered=True),
    o.Adagrad(0.1),
    o.Adadelta(1.0),
    o.Adafactor(0.01),
    o.Ftrl(0.1),
    o.Lion(0.01),
    o.Lamb(0.01),
    o.Muon(0.01),
]
REFUSED = [
    o.Nadam(0.01),
    o.LossScaleOptimizer(o.SGD(0.1)),
    o.SGD(0.1, gradient_accumulation_steps=2),
    o.SGD(0.1, loss_scale_factor=128.0),
    o.SGD(0.1, use_ema=True, ema_overwrite_frequency=10),
]
if hasattr(o, "ScheduleFreeAdamW"):
    REFUSED.append(o.ScheduleFreeAdamW(0.01))


def name(optimizer):
    return type(optimizer).__name__


@pytest.mark.parametrize("optimizer", SUPPORTED, ids=name)
def test_steps_equal_those_in_place(optimizer):
    rng = np.random.default_rng(0)
    shapes = [(5, 3), (3,), (2, 2, 3, 4)]
    values = [rng.normal(size=s).astype("float32") for s in shapes]
    variables = [keras.Variable(v) for v in values]
    model_variables = [keras.Variable(v) for v in values]
    pure = stateless(optimizer, model_variables)
    in_place = type(optimizer).from_config(optimizer.get_config())
    in_place.build(variables)
    weights = [tf.constant(v) for v in values]
    slots = [tf.convert_to_tensor(v.value) for v in pure.variables]
    step = tf.function(pure.stateless_apply, autograph=False)
    for _ in range(5):
        gradients = [
            tf.constant(rng.normal(size=s).astype("float32")) for s in shapes
        ]
        in_place.apply(gradients, variables)
        weights, slots = step(slots, gradients, weights)
    for weight, variable, start, untouched in zip(
        weights, variables, values, model_variables
    ):
        np.testing.assert_allclose(
            weight, variable.numpy(), rtol=1e-5, atol=1e-6
        )
        assert np.abs(weight - start).max() > 1e-3
        np.testing.assert_array_equal(untouched.numpy(), start)


@pytest.mark.parametrize("optimizer", REFUSED, ids=name)
def test_others_are_refused_with_those_that_work(optimizer):
    with pytest.raises(ValueError, match="Use one of SGD, Adam, AdamW"):
        stateless(optimizer, [keras.Variable([1.0, 2.0])])


def test_the_given_optimizer_is_left_alone():
    optimizer = o.Adam(0.01)
    stateless(optimizer, [keras.Variable([1.0])])
    assert not optimizer.built


@pytest.mark.parametrize("by", ["var_list", "var_names"])
def test_what_is_excluded_from_weight_decay_does_not_decay(by):
    variables = [keras.Variable([1.0], name=name) for name in ("w", "bias")]
    optimizer = o.SGD(0.1, weight_decay=0.5)
    excluded = {"var_list": variables[1:], "var_names": ["bias"]}
    optimizer.exclude_from_weight_decay(**{by: excluded[by]})
    pure = stateless(optimizer, variables)
    values = [tf.convert_to_tensor(v.value) for v in variables]
    slots = [tf.convert_to_tensor(v.value) for v in pure.variables]
    zeros = [tf.zeros(1), tf.zeros(1)]
    (weight, bias), _ = pure.stateless_apply(slots, zeros, values)
    np.testing.assert_allclose([weight[0], bias[0]], [0.95, 1.0])
