"""What MAML cannot go through is refused by name, before it is trained."""

import keras
import pytest
from conftest import mlp

import keras_reptile as kr
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


def test_a_layer_with_a_second_derivative_passes():
    compiled(enlarging("bilinear"), "maml")


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
