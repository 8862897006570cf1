"""Of which models XLA is asked, before an inner loop is compiled."""

import keras
import numpy as np
import pytest
from conftest import SPEC, messages, mlp
from test_kinds_of_model import Subclassed, built, compiled

import keras_reptile as kr
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
    assert compiling.known_to_xla(model)
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


@pytest.mark.parametrize("value", ["never", 2, None])
def test_unknown_jit_compile_is_refused(value):
    with pytest.raises(ValueError, match="jit_compile"):
        compiled(mlp(), jit_compile=value)


class Turned(keras.Model):
    def __init__(self):
        super().__init__()
        self.turn = keras.layers.RandomRotation(0.1, name="turn")
        self.flatten = keras.layers.Flatten()
        self.head = keras.layers.Dense(3)

    def call(self, x, training=None):
        return self.head(self.flatten(self.turn(x, training=training)))


def turned_sequential():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.RandomRotation(0.1, name="turn"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


@pytest.mark.parametrize(
    "make", [turned_sequential, lambda: built(Turned(), (1, 8, 8, 1))]
)
def test_a_layer_xla_has_no_kernel_for_is_named_and_trains(make, log):
    images = np.random.default_rng(0).uniform(size=(6, 10, 8, 8, 1))
    images = images.reshape(60, 8, 8, 1).astype("float32")
    classes = kr.data.ClassDataset(images, [10] * 6)
    model = compiled(make(), jit_compile="auto")
    assert "cannot compile turn" in messages(log)
    with pytest.raises(
        ValueError, match="cannot compile turn.*jit_compile=True"
    ):
        compiled(make(), jit_compile=True)
    history = model.fit(
        classes.episodes(SPEC, meta_batch_size=2), steps_per_epoch=2, verbose=0
    ).history
    assert np.isfinite(history["loss"]).all()


class TurnedInPrediction(keras.layers.RandomRotation):
    def call(self, x, training=None):
        return x if training else super().call(x, training=True)


def test_a_layer_that_fails_in_prediction_only_is_named(log):
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            TurnedInPrediction(0.1, name="turn"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    model = compiled(network, jit_compile="auto")
    assert "cannot compile turn" in messages(log)
    assert not model.inner_loop_is_compiled


@pytest.mark.parametrize("shape", [{"x": (None, 4)}, [(None, 4)], "4"])
def test_a_build_configuration_that_is_no_shape_tells_nothing(shape):
    network = built(Subclassed())
    network.get_build_config = lambda: {"input_shape": shape}
    assert compiled(network, jit_compile="auto").inner_loop_is_compiled


def test_a_model_xla_can_compile_is_compiled(log):
    compiled(mlp(), jit_compile="auto")
    assert "cannot compile" not in messages(log)
