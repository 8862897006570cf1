"""Of which models XLA is asked, before an inner loop is compiled."""

import keras
import pytest
from conftest import mlp

from keras_reptile import compiling

LAYERS = keras.layers
# The last two do not stand by themselves: one halves, one wants a number.
OTHERS = ("get", "serialize", "deserialize", "glu", "threshold")
ACTIVATIONS = [
    name
    for name, function in vars(keras.activations).items()
    if callable(function) and name not in OTHERS
]


def of_every_known_layer():
    x = inputs = keras.Input((6, 6, 1))
    x = LAYERS.Conv2D(4, 3, 2, padding="same", activation="relu")(x)
    x = LAYERS.Dropout(0.5)(LAYERS.ReLU()(LAYERS.BatchNormalization()(x)))
    x = LAYERS.Reshape((36,))(LAYERS.Flatten()(x))
    return keras.Model(inputs, keras.Sequential([LAYERS.Dense(3)])(x))


def of_every_activation():
    layers = []
    for name in ACTIVATIONS:
        layers += LAYERS.Dense(4), LAYERS.Activation(name)
    return keras.Sequential([keras.Input((4,)), *layers])


@pytest.mark.parametrize("make", [of_every_known_layer, of_every_activation])
def test_what_is_known_is_compiled(make):
    model = make()
    assert compiling._known_to_xla(model)
    assert compiling.refused_by_xla(model) is None


class Dense(keras.layers.Dense):
    """One's own under a known name."""


def with_a_function():
    inputs = keras.Input((4,))
    return keras.Model(inputs, LAYERS.Dense(3)(keras.ops.sin(inputs)))


def with_an_activation_of_ones_own():
    return keras.Sequential([keras.Input((4,)), LAYERS.Dense(3, lambda x: x)])


def with_a_layer_of_ones_own():
    return keras.Sequential([keras.Input((4,)), Dense(3)])


def with_a_call_of_ones_own():
    model = keras.Sequential([keras.Input((4,)), LAYERS.Dense(3)])
    model.layers[0].call = lambda x: x
    return model


@pytest.mark.parametrize(
    "make",
    [
        with_a_function,
        with_a_call_of_ones_own,
        with_an_activation_of_ones_own,
        with_a_layer_of_ones_own,
        lambda: keras.Sequential([with_a_function(), LAYERS.Dense(2)]),
    ],
)
def test_of_what_is_not_known_xla_is_asked(make, monkeypatch):
    asked = []
    monkeypatch.setattr(compiling, "refused_by_xla", asked.append)
    for model in (mlp(), make()):
        assert compiling.whether_to_jit("auto", model)
    assert asked == [model]
