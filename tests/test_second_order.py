"""What MAML cannot go through is refused by name, before it is trained."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import messages, mlp

import keras_reptile as kr
from keras_reptile import fitting
from keras_reptile.second_order import check_second_order

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def enlarging(interpolation):
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(2, 3),
            keras.layers.UpSampling2D(
                2, interpolation=interpolation, name="enlarge"
            ),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def compiled(network, algorithm, optimizer="sgd"):
    model = kr.MetaModel(network, algorithm)
    model.compile(inner_optimizer=optimizer, loss=LOSS)
    return model


def test_a_layer_without_a_second_derivative_is_named():
    with pytest.raises(ValueError, match=r"none for enlarge \(ResizeBicubic"):
        compiled(enlarging("bicubic"), "maml")


@pytest.mark.parametrize("algorithm", ["fomaml", "reptile"])
def test_first_order_takes_any_layer(algorithm):
    compiled(enlarging("bicubic"), algorithm)


def test_a_derivative_that_tensorflow_takes_for_0_is_one_that_lacks():
    with pytest.raises(ValueError, match=r"enlarge \(ResizeBilinearGrad\)"):
        compiled(enlarging("bilinear"), "maml")


def test_it_lacks_inside_of_a_function_as_well():
    @tf.function
    def resized(x):
        return tf.image.resize(x, (8, 8))

    network = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(2, 3),
            keras.layers.Lambda(resized, output_shape=(8, 8, 2)),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    with pytest.raises(ValueError, match="ResizeBilinearGrad"):
        compiled(network, "maml")


def test_a_layer_with_a_second_derivative_passes():
    compiled(enlarging("nearest"), "maml")


def test_only_the_layers_at_fault_are_named():
    """Also where Keras numbers them, as TensorFlow numbers a layer's calls."""
    keras.backend.clear_session()
    layers = [
        keras.layers.UpSampling2D(2, interpolation=kind)
        for kind in ("bicubic", "nearest")
    ]
    network = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(2, 3),
            *layers,
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    assert layers[1].name == layers[0].name + "_1"
    with pytest.raises(ValueError, match=f"none for {layers[0].name} "):
        compiled(network, "maml")


def turning():
    return keras.Sequential(
        [
            keras.Input((3, 4)),
            keras.layers.Dense(2, activation="tanh"),
            keras.layers.Permute((2, 1), name="turn"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def test_what_xla_refuses_in_a_gradient_through_the_loop_trains(log):
    """XLA compiles it by itself, so that other algorithms have it compiled."""
    classes = kr.data.ClassDataset(np.random.rand(24, 3, 4), [6] * 4)
    spec = kr.EpisodeSpec(ways=3, shots=2, queries=2, inner_steps=2)
    for algorithm, is_compiled in (("maml", False), ("fomaml", True)):
        model = compiled(turning(), algorithm)
        assert model.inner_loop_is_compiled == is_compiled
        model.fit(classes.episodes(spec), steps_per_epoch=1, verbose=0)
        said = "XLA, which cannot compile turn in a gradient through the inner"
        assert (said in messages(log)) != is_compiled
        log.clear()


def test_the_layer_that_its_user_put_there_is_named(log):
    """And not the parts that it is made of."""
    x = keras.Input((3, 4))
    attended = keras.layers.MultiHeadAttention(1, 2, name="attend")(x, x)
    network = keras.layers.Dense(3)(keras.layers.Flatten()(attended))
    model = compiled(keras.Model(x, network), "maml")
    assert not model.inner_loop_is_compiled
    assert "cannot compile attend in a gradient" in messages(log)


def test_nor_is_it_compiled_where_it_has_to_be():
    model = kr.MetaModel(turning(), "maml")
    with pytest.raises(ValueError, match="XLA cannot compile turn in a grad"):
        model.compile(loss=LOSS, jit_compile=True)
    model.compile(loss=LOSS, jit_compile=True, run_eagerly=True)


def test_xla_is_asked_with_targets_of_any_loss():
    model = kr.MetaModel(turning(), "maml")
    model.compile(loss="mse")
    assert not model.inner_loop_is_compiled
    model.compile(loss=lambda y, outputs: y["a"] - outputs)  # Unknown ones.


def test_what_is_not_adapted_needs_no_second_derivative():
    model = kr.MetaModel(enlarging("bicubic"), "maml")
    model.compile(loss=LOSS, inner_variables="head")
    with pytest.raises(ValueError, match="none for enlarge"):
        model.compile(loss=LOSS, inner_variables="body")


def test_ones_own_algorithm_is_named():
    def own(learner, state, task):
        """Never called."""

    own.second_order = True
    with pytest.raises(ValueError, match=r"`own` diff.*or Adam\.$"):
        compiled(mlp(), own, "lion")


def test_an_optimizer_of_signs_is_named():
    with pytest.raises(ValueError, match="those of Lion have a derivative of"):
        compiled(mlp(), "maml", "lion")
    compiled(mlp(), "fomaml", "lion")


def halved(learner, state, task):
    gradient, adapted = kr.algorithms.get("maml")(learner, state, task)
    return [part / 2 for part in gradient], adapted


@pytest.mark.parametrize(
    ("optimizer", "interpolation", "message"),
    [
        ("lion", "nearest", "those of Lion have a derivative of"),
        ("sgd", "bilinear", r"enlarge \(ResizeBilinearGrad\)"),
    ],
)
def test_maml_inside_of_another_algorithm_refuses(
    optimizer, interpolation, message
):
    model = compiled(enlarging(interpolation), halved, optimizer)
    tasks = small_images(4)
    with pytest.raises(ValueError, match=message):
        model.fit(tasks, steps_per_epoch=1, verbose=0)
    task = kr.episodes.unstack(next(iter(tasks)))[0]
    learner = model.learner
    with pytest.raises(ValueError, match=message):
        kr.algorithms.get("maml")(learner, learner.state(), task)
    with pytest.raises(ValueError, match=message):
        partial = functools.partial(kr.algorithms.get("maml"))
        compiled(enlarging(interpolation), partial, optimizer)


def test_a_gradient_that_may_be_clipped_is_no_sign():
    optimizer = keras.optimizers.SGD(0.1, clipvalue=0.05)
    compiled(mlp(), "maml", optimizer)


@pytest.mark.parametrize(
    "name",
    "Adadelta Adafactor Adagrad Adam Adamax AdamW Ftrl Lamb Muon RMSprop "
    "SGD".split(),
)
def test_other_optimizers_pass(name):
    optimizer = getattr(keras.optimizers, name)()
    check_second_order(
        kr.algorithms.get("maml"), kr.Learner(mlp(), LOSS, optimizer)
    )


def of_any_extent(*layers):
    return keras.Sequential(
        [
            keras.Input((None, None, 1)),
            *layers,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )


def small_images(extent=5):
    shape = 12, extent, extent, 1
    x = np.random.default_rng(0).random(shape).astype("float32")
    classes = kr.data.ClassDataset(x, [4] * 3)
    return classes.episodes(kr.EpisodeSpec(ways=3, shots=2, inner_steps=1))


def test_what_only_the_data_can_tell_is_told_by_fit():
    enlarge = keras.layers.UpSampling2D(2, interpolation="bicubic", name="bent")
    network = of_any_extent(keras.layers.Conv2D(2, 3), enlarge)
    model = compiled(network, "maml")
    with pytest.raises(ValueError, match="none for bent"):
        model.fit(small_images(), steps_per_epoch=1, verbose=0)
    model = compiled(network, "fomaml")
    with pytest.raises(ValueError, match="XLA cannot compile bent"):
        model.fit(small_images(), steps_per_epoch=1, verbose=0)
    model.compile(loss=LOSS, jit_compile=False)
    model.fit(small_images(), steps_per_epoch=1, verbose=0)


def test_what_xla_cannot_compile_is_told_before_evaluation():
    enlarge = keras.layers.UpSampling2D(2, interpolation="bicubic", name="bent")
    model = compiled(of_any_extent(enlarge), "reptile")
    x = np.zeros((6, 5, 5, 1), "float32")
    classes, protocol = kr.data.ClassDataset(x, [2] * 3), kr.Protocol(3, 1)
    stream = classes.episodes(kr.EpisodeSpec(3, 1))
    for refused in (
        lambda: kr.evaluate(model, classes, protocol),
        lambda: model.evaluate(stream, steps=1),
        lambda: model.adapt(x[:3], [0, 1, 2]),
    ):
        with pytest.raises(ValueError, match="XLA cannot compile bent"):
            refused()


def test_layers_are_looked_at_once(monkeypatch):
    model = compiled(of_any_extent(keras.layers.Conv2D(2, 3)), "maml")
    model.fit(small_images(), steps_per_epoch=1, verbose=0)
    monkeypatch.setattr(fitting, "check_second_order", None)
    protocol = kr.Protocol(3, 1, inner_steps=1, num_episodes=2)
    x = np.random.default_rng(0).random((6, 5, 5, 1)).astype("float32")
    kr.evaluate(model, kr.data.ClassDataset(x, [2] * 3), protocol)
    with pytest.raises(TypeError):
        model.compile(loss=LOSS)
        model.fit(small_images(), steps_per_epoch=1, verbose=0)


def test_layers_that_assign_to_their_weights_are_told_by_fit():
    layer = keras.layers.SpectralNormalization(keras.layers.Conv2D(2, 3))
    model = compiled(of_any_extent(layer), "reptile")
    with pytest.raises(ValueError, match="leave their trainable weights"):
        model.fit(small_images(), steps_per_epoch=1, verbose=0)
