"""What the instruments of the theory refuse, and what they warn of."""

import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import LOSS, meta_model
from test_analysis import classifier, first, learner_of

import keras_reptile as kr
from keras_reptile.analysis import smoothness


def test_one_batch_has_no_pairs():
    learner, tasks = classifier()
    one = tasks._replace(batches=tasks.batches[:, :1])
    with pytest.raises(ValueError, match="Pairs of batches.*at least two"):
        kr.analysis.estimate_terms(learner, one)


@pytest.mark.parametrize("rate", [0, -0.1, float("nan")])
def test_a_rate_that_is_none_is_refused(rate):
    learner, tasks = classifier()
    with pytest.raises(ValueError, match="above 0"):
        kr.analysis.measure_meta_gradients(learner, tasks, rate)


def test_what_is_no_task_or_learner_is_refused():
    learner, tasks = classifier()
    of, state = kr.analysis, learner.state()
    one, narrow = first(tasks), tasks.support.x[..., :3]
    narrow = tasks._replace(support=tasks.support._replace(x=narrow))
    for refused, message in (
        (lambda: of.estimate_terms(meta_model(), tasks), "as `model.learner`"),
        (lambda: of.estimate_terms(learner, one), "a batch of tasks.*3 axes"),
        (lambda: of.measure_meta_gradients(learner, [], 0.1), "list"),
        (lambda: of.gradient_agreement(learner, narrow), "input shape"),
        (lambda: of.meta_gradients(learner, state, tasks, 0.1), "one task"),
        (lambda: of.leading_order(learner, state, tasks, 0.1), "unstack"),
        (lambda: of.leading_order(learner, state, one, None), "above 0"),
        (
            lambda: of.hessian_vector_product(
                learner, state, *learner.batch(one, 0), state.weights[:2]
            ),
            "one part for each weight",
        ),
        (lambda: of.fit_coefficients(None, {"maml": []}, 0.1), "of one algo"),
        (lambda: of.fit_coefficients([], [], 0.1), "`terms`.*Received: list"),
        (lambda: of.coefficients("maml", 2.5), "whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            refused()


@pytest.mark.parametrize(("name", "k"), [("joint", 2), ("maml", 1)])
def test_coefficients_of_nothing_are_refused(name, k):
    with pytest.raises(ValueError, match="at least 2 batches"):
        kr.analysis.coefficients(name, k)


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("absl"), "propagate", True)
    with caplog.at_level(logging.WARNING, "absl"):
        yield caplog


def through_an_operation():
    x = keras.Input((4,))
    bent = keras.ops.relu(keras.layers.Dense(4)(x))
    return keras.Model(x, keras.layers.Dense(3)(bent))


@pytest.mark.parametrize(
    ("bent", "name"),
    [
        (keras.layers.Dense(4, "relu", name="bent"), "operations bent have"),
        (keras.layers.Dense(4, tf.nn.elu, name="bent"), "operations bent have"),
        (
            keras.layers.Dense(4, "hard_shrink", name="bent"),
            "operations bent have",
        ),
        (
            keras.layers.Dense(4, "hard_tanh", name="bent"),
            "operations bent have",
        ),
        (keras.layers.ReLU(threshold=0.5, name="bent"), "operations bent have"),
        (
            keras.layers.Dense(4, tf.function(tf.nn.relu)),
            "operations Relu have",
        ),
        (keras.layers.Dense(4, "gelu", name="smooth"), None),
        (keras.layers.Normalization(mean=0.0, variance=1.0), None),
        (keras.layers.Lambda(lambda x: x * tf.abs(tf.constant(2.0))), None),
        (None, "Relu have"),
    ],
)
def test_kinks_and_float32_are_warned_of(said, bent, name):
    if bent is None:
        model = through_an_operation()
    else:
        layers = keras.layers
        normal, last = layers.BatchNormalization(), layers.Dense(3)
        model = keras.Sequential([keras.Input((4,)), bent, normal, last])
    learner, task = learner_of(model, LOSS), first(classifier()[1])
    kr.analysis.meta_gradients(learner, learner.state(), task, 0.1)
    assert "float64" in said.text
    assert name in said.text if name else "kinks" not in said.text
    said.clear()
    kr.analysis.leading_order(learner, learner.state(), task, 0.1)
    assert not said.text


def test_batches_that_share_examples_are_warned_of(said, float64):
    learner, tasks = classifier()
    kr.analysis.estimate_terms(learner, tasks)
    assert not said.text
    same = tasks._replace(batches=tf.repeat(tasks.batches[:, :1], 3, 1))
    kr.analysis.estimate_terms(learner, same)
    assert "share examples" in said.text
    said.clear()
    kr.analysis.measure_meta_gradients(learner, same, 0.1)
    assert "share examples" in said.text


def test_inside_of_a_function(float64):
    learner, tasks = classifier()

    @tf.function(autograph=False)
    def inside(tasks, rate):
        terms = kr.analysis.estimate_terms(learner, tasks)
        measured = kr.analysis.measure_meta_gradients(learner, tasks, rate)
        return terms, measured

    outside = (
        kr.analysis.estimate_terms(learner, tasks),
        kr.analysis.measure_meta_gradients(learner, tasks, 0.1),
    )
    received = inside(tasks, tf.constant(0.1, tf.float64))
    for a, b in zip(tf.nest.flatten(received), tf.nest.flatten(outside)):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_learner_of_other_variables_is_refused():
    learner, tasks = classifier()
    learner.model.layers[0].trainable = False
    with pytest.raises(ValueError, match="compile. again after freezing"):
        kr.analysis.gradient_agreement(learner, tasks)


def enlarging():
    """The second layer has no second derivative."""
    return keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            keras.layers.Conv2D(2, 3),
            keras.layers.UpSampling2D(2, interpolation="bicubic", name="bent"),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


def images():
    x = np.random.default_rng(0).normal(size=(6, 4, 4, 1)).astype("float32")
    examples = kr.Examples(tf.constant(x), tf.constant([0, 1, 2] * 2))
    return kr.Task(examples, examples, tf.constant([[0, 1, 2], [3, 4, 5]]))


def test_layers_without_a_second_derivative_are_named_every_time():
    model, task = enlarging(), images()
    sgd = keras.optimizers.SGD(0.1)
    head = kr.Learner(model, LOSS, sgd, inner_variables="head")
    kr.analysis.meta_gradients(head, head.state(), task, 0.1)
    whole = kr.Learner(model, LOSS, sgd)
    state = whole.state()
    for refused in (
        lambda: kr.analysis.meta_gradients(whole, state, task, 0.1),
        lambda: kr.analysis.hessian_vector_product(
            whole, state, *task.query, state.weights
        ),
    ):
        with pytest.raises(ValueError, match="none for bent"):
            refused()


def test_hessians_of_what_does_not_fit_are_refused():
    learner, tasks = classifier()
    state, (x, y) = learner.state(), learner.batch(first(tasks), 0)
    product = kr.analysis.hessian_vector_product
    for arguments, message in (
        ((x, y + 3, state.weights), "labels from 0 to 2"),
        ((x[:, :3], y, state.weights), "input shape"),
        ((x, y[:2], state.weights), "a target each"),
        ((x[:0], y[:0], state.weights), "one or more examples"),
        ((x, y, None), "one part for each weight.*None"),
        ((x, y, [[1, [2]]]), "one part for each weight"),
        ((x, y, [w * 1j for w in flat_arrays(state)]), "real numbers"),
        (([[1.0], [1.0, 2.0]], y, None), "several shapes"),
    ):
        with pytest.raises(ValueError, match=message):
            product(learner, state, *arguments)


def flat_arrays(state):
    return [np.asarray(weight) for weight in state.weights]


def test_lists_and_iterators_are_taken():
    learner, tasks = classifier()
    state, (x, y) = learner.state(), learner.batch(first(tasks), 0)
    product = kr.analysis.hessian_vector_product
    vector = [2 * weight for weight in state.weights]
    expected = product(learner, state, x, y, vector)
    for received in (
        product(learner, state, x, y, iter(vector)),
        product(learner, state, x.numpy().tolist(), y.numpy().tolist(), vector),
    ):
        for one, other in zip(expected, received, strict=True):
            np.testing.assert_allclose(one, other, 1e-6)


def test_a_vector_of_numpy_is_taken_as_the_weights_are():
    learner, tasks = classifier()
    state, batch = learner.state(), learner.batch(first(tasks), 0)
    product = kr.analysis.hessian_vector_product
    expected = product(learner, state, *batch, state.weights)
    vector = [np.asarray(w, "float64") for w in state.weights]
    for one, other in zip(expected, product(learner, state, *batch, vector)):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("rate", [0, -1.0, float("nan"), None, "0.1x"])
def test_a_prediction_is_at_a_rate_above_0(rate):
    terms = kr.analysis.Terms([tf.ones(2)], [tf.ones(2)])
    with pytest.raises(ValueError, match="above 0"):
        kr.analysis.predict(terms, "maml", 2, rate)


@pytest.mark.parametrize("inner", [[1.0, 2.0], [0.0, 0.0]])
def test_terms_that_cannot_be_told_apart_are_refused(inner):
    terms = kr.analysis.Terms([tf.constant([2.0, 4.0])], [tf.constant(inner)])
    with pytest.raises(ValueError, match="must point different ways"):
        kr.analysis.fit_coefficients(terms, [tf.ones(2)], 0.01)


def test_terms_that_are_not_finite_are_refused():
    terms = kr.analysis.Terms([tf.ones(2)], [tf.constant([0.0, 1.0])])
    with pytest.raises(ValueError, match="at a smaller rate"):
        kr.analysis.fit_coefficients(terms, [tf.constant([1.0, np.nan])], 1.0)
    half = kr.analysis.Terms(*([tf.cast(t[0], tf.float16)] for t in terms))
    fitted = kr.analysis.fit_coefficients(half, half[0], 0.5)
    np.testing.assert_allclose(fitted, (1, 0), atol=1e-3)


def test_coefficients_are_found_at_small_rates():
    rng = np.random.default_rng(0)
    terms = kr.analysis.Terms([rng.normal(size=9)], [1e3 * rng.normal(size=9)])
    for rate in (1e-1, 1e-9):
        fitted = kr.analysis.fit_coefficients(
            terms, [3 * terms[0][0] - 5 * rate * terms[1][0]], rate
        )
        np.testing.assert_allclose(fitted, (3, 5), rtol=1e-3)


def of_labels_and_size(y, outputs):
    """Keras' loss is smooth, for all the clipping and maxima in it."""
    y = tf.cast(y, tf.int32)
    loss = keras.losses.sparse_categorical_crossentropy(y, outputs, True)
    return loss + tf.reduce_mean(tf.abs(outputs), -1)


def clipped_crossentropy(y, outputs):
    clipped = tf.clip_by_value(tf.nn.softmax(outputs), 1e-7, 1 - 1e-7)
    return -tf.reduce_sum(y * tf.math.log(clipped), -1)


class OfSizes(keras.losses.MeanSquaredError):
    def call(self, y, outputs):
        return tf.reduce_mean(tf.abs(y - outputs), -1)


@pytest.mark.parametrize(
    "loss, kinked",
    [
        ("mae", True),
        (keras.losses.Huber(), True),
        ("mse", False),
        (LOSS, False),
        (lambda y, o: tf.reduce_mean(tf.abs(y - o), -1), True),
        (lambda y, o: tf.reduce_mean((tf.abs(y) - o) ** 2, -1), False),
        (lambda y, o: tf.reduce_logsumexp(y * o, -1), False),
        (clipped_crossentropy, False),
        (of_labels_and_size, True),
        (OfSizes(), True),
    ],
)
def test_kinks_of_a_loss_are_warned_of(said, loss, kinked):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    learner, x = learner_of(network, loss), np.zeros((2, 4), "f")
    y = np.arange(2) if learner.loss_function.takes_labels else x[:, :3]
    if getattr(loss, "__name__", "").startswith("of_labels"):
        y = np.arange(2)
    smoothness.check_smooth(learner, x, y)
    assert ("have kinks" in said.text) == kinked
