"""The theory of sections 5.1 and 5.2, checked on problems known exactly."""

import dataclasses
import logging

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SPEC, blobs, meta_model, mlp

import keras_reptile as kr
from keras_reptile.analysis import vectors

ALGORITHMS = ("maml", "fomaml", "reptile")
# Three disjoint batches.
APART = kr.EpisodeSpec(
    ways=3, shots=4, queries=1, inner_steps=3, inner_batch_size=4
)


def learner_of(model, loss="mse"):
    return kr.Learner(model, loss, keras.optimizers.SGD(0.1))


def parabola():
    """Loss w**2 / 2 at w = 1, on every batch."""
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False)]
    )
    model.set_weights([np.ones((1, 1))])
    return learner_of(
        model, lambda y, outputs: tf.reduce_sum((outputs - y) ** 2, -1) / 2
    )


def parabola_task(batches):
    x = tf.ones((1, 1), tf.float64)
    examples = kr.Examples(x, 0 * x)
    return kr.Task(examples, examples, tf.zeros((batches, 1), tf.int32))


def classifier():
    learner = learner_of(
        mlp(), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    stream = blobs(examples=8).episodes(APART, 6)
    return learner, next(iter(stream))


def flat(vector):
    return np.concatenate([np.ravel(part) for part in vector])


def slope(rates, residuals):
    return np.polyfit(np.log(rates), np.log(residuals), 1)[0]


@pytest.mark.parametrize("k", [1, 2, 4])
def test_closed_form_of_one_weight(float64, k):
    learner, rate = parabola(), 0.125
    measured = kr.analysis.meta_gradients(
        learner, learner.state(), parabola_task(k), rate
    )
    expected = {
        "reptile": (1 - (1 - rate) ** k) / rate,
        "fomaml": (1 - rate) ** (k - 1),
        "maml": (1 - rate) ** (2 * (k - 1)),
    }
    for name in ALGORITHMS:
        np.testing.assert_allclose(
            flat(measured[name]), expected[name], rtol=1e-14
        )


@pytest.mark.parametrize(
    ("name", "limit"), [("reptile", 4), ("fomaml", 3), ("maml", 15)]
)
def test_second_order_residual_of_one_weight(float64, name, limit):
    learner, k, rate = parabola(), 4, 1e-4
    tasks = tf.nest.map_structure(lambda x: x[tf.newaxis], parabola_task(k))
    terms = kr.analysis.estimate_terms(learner, tasks)
    assert flat(terms.average_gradient) == flat(terms.average_gradient_inner)
    measured = kr.analysis.measure_meta_gradients(learner, tasks, rate)[name]
    predicted = kr.analysis.predict(terms, name, k, rate)
    residual = flat(measured) - flat(predicted)
    np.testing.assert_allclose(residual / rate**2, limit, rtol=1e-3)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_residual_along_one_path_is_of_second_order(float64, name):
    learner, tasks = classifier()
    task = tf.nest.map_structure(lambda x: x[0], tasks)
    state, rates, residuals = learner.state(), [0.04, 0.02, 0.01], []
    for rate in rates:
        measured = kr.analysis.meta_gradients(learner, state, task, rate)
        order = kr.analysis.leading_order(learner, state, task, rate)
        residuals.append(
            np.linalg.norm(flat(measured[name]) - flat(order[name]))
        )
    assert 1.8 < slope(rates, residuals) < 2.2


@pytest.mark.parametrize("name", ALGORITHMS)
def test_expected_meta_gradients_have_the_papers_coefficients(float64, name):
    learner, tasks = classifier()
    terms = kr.analysis.estimate_terms(learner, tasks)
    rates, residuals = [0.02, 0.01, 0.005], []
    for rate in rates:
        measured = kr.analysis.measure_meta_gradients(learner, tasks, rate)
        predicted = kr.analysis.predict(terms, name, 3, rate)
        residuals.append(np.linalg.norm(flat(measured[name]) - flat(predicted)))
    assert 1.8 < slope(rates, residuals) < 2.2
    fitted = kr.analysis.fit_coefficients(terms, measured[name], rates[-1])
    expected = kr.analysis.coefficients(name, 3)
    np.testing.assert_allclose(fitted[0], expected[0], rtol=0.01)
    np.testing.assert_allclose(fitted[1], expected[1], rtol=0.1)


def test_coefficients_of_the_paper():
    of = kr.analysis.coefficients
    assert [of(name, 2) for name in ALGORITHMS] == [(1, 2), (1, 1), (2, 1)]
    assert [of(name, 5) for name in ALGORITHMS] == [(1, 8), (1, 4), (5, 10)]


def test_reptile_is_the_sum_of_fomaml(float64):
    learner, tasks = classifier()
    task = tf.nest.map_structure(lambda x: x[0], tasks)
    state, total = learner.state(), vectors.zeros(learner.state().weights)
    for k in (1, 2, 3):
        part = task._replace(batches=task.batches[:k])
        found = kr.analysis.meta_gradients(learner, state, part, 0.3)
        total = vectors.plus(total, found["fomaml"])
        np.testing.assert_allclose(
            flat(found["reptile"]), flat(total), rtol=1e-12, atol=1e-14
        )
        if k == 1:
            first = flat(found["reptile"])
            for name in ALGORITHMS:
                np.testing.assert_array_equal(flat(found[name]), first)


def test_hessian_vector_product_is_a_difference_of_gradients(float64):
    learner, tasks = classifier()
    state = learner.state()
    batch = learner.batch(tf.nest.map_structure(lambda x: x[0], tasks), 0)
    rng = np.random.default_rng(0)
    vector = [tf.constant(rng.normal(size=w.shape)) for w in state.weights]
    gradients = [
        learner.gradient(
            state._replace(weights=vectors.plus(state.weights, vector, h)),
            *batch,
        )[0]
        for h in (1e-5, -1e-5)
    ]
    expected = (flat(gradients[0]) - flat(gradients[1])) / 2e-5
    product = kr.analysis.hessian_vector_product(learner, state, *batch, vector)
    np.testing.assert_allclose(flat(product), expected, rtol=1e-6, atol=1e-8)


# Section 5.2: tasks A w = b with fewer equations than weights each, but more
# than weights together, so that no point solves them all.
RATE, RNG = 0.4, np.random.default_rng(3)
ROWS = [np.linalg.qr(RNG.normal(size=(3, 2)))[0].T for _ in range(4)]
A = np.stack([np.diag([1.0, 0.5]) @ rows for rows in ROWS])
B = RNG.normal(size=(4, 2, 1))
CLOSEST = np.stack([np.linalg.pinv(a) @ b for a, b in zip(A, B)])


@pytest.mark.parametrize("steps", [1, 3, 60])
def test_reptile_converges_to_its_closed_form(steps):
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(1, use_bias=False)]
    )
    meta = kr.MetaModel(model)
    meta.compile(
        keras.optimizers.SGD(1.0),
        keras.optimizers.SGD(RATE),
        "mse",
        inner_reduction="sum",
        jit_compile=False,
        steps_per_execution=50,
    )
    examples = kr.Examples(A.astype("float32"), B.astype("float32"))
    batches = np.tile(np.arange(2, dtype="int32"), (4, steps, 1))
    tasks = tf.data.Dataset.from_tensors(kr.Task(examples, examples, batches))
    meta.fit(tasks.repeat(), steps_per_epoch=300, verbose=0)
    found = model.get_weights()[0]
    # (I - (I - 2 a A'A)^k) (w - p) summed over tasks is 0 there.
    pulls = np.eye(3) - [
        np.linalg.matrix_power(np.eye(3) - 2 * RATE * a.T @ a, steps) for a in A
    ]
    fixed = np.linalg.solve(pulls.sum(0), (pulls @ CLOSEST).sum(0))
    np.testing.assert_allclose(found, fixed, atol=1e-4)
    projectors = np.stack([rows.T @ rows for rows in ROWS])
    nearest = np.linalg.solve(projectors.sum(0), (projectors @ CLOSEST).sum(0))
    least, *_ = np.linalg.lstsq(A.reshape(8, 3), B.reshape(8, 1), rcond=None)
    assert np.allclose(found, nearest, atol=1e-3) == (steps == 60)
    assert np.allclose(found, least, atol=1e-3) == (steps == 1)


def sine_agreement(algorithm, steps=5):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, "tanh") for _ in range(2)]
    model = kr.MetaModel(
        keras.Sequential([keras.Input((1,)), *layers, keras.layers.Dense(1)]),
        algorithm,
    )
    rate = 1.0 if algorithm == "joint" else 0.2
    model.compile(
        keras.optimizers.SGD(rate),
        keras.optimizers.SGD(0.02),
        "mse",
        jit_compile=False,
        steps_per_execution=100,
    )
    spec = kr.EpisodeSpec(
        ways=1, shots=50, inner_steps=steps, inner_batch_size=10
    )
    waves = kr.data.SineWaves()
    model.fit(waves.episodes(spec), steps_per_epoch=3_000, verbose=0)
    fresh = next(iter(waves.episodes(spec, 100, seed=1)))
    return kr.analysis.gradient_agreement(model.learner, fresh)


def test_agreement_grows_under_reptile_and_not_under_joint_training():
    reptile, joint = sine_agreement("reptile"), sine_agreement("joint")
    assert reptile.inner_product > 2 * joint.inner_product
    assert reptile.transfer > 2 * joint.transfer


def test_meta_trainer_logs_the_agreement(tmp_path):
    model = meta_model()
    stream = blobs(examples=8).episodes(APART, 2)
    trainer = kr.MetaTrainer(gradient_agreement=True, log_dir=str(tmp_path))
    history = model.fit(
        stream, steps_per_epoch=3, verbose=0, callbacks=[trainer]
    )
    tasks = [next(iter(stream.skip(i))) for i in range(10)]
    tasks = tf.nest.map_structure(lambda *x: tf.concat(x, 0), *tasks)
    expected = kr.analysis.gradient_agreement(model.learner, tasks)
    for name in ("inner_product", "cosine", "transfer"):
        received = history.history[f"gradient_{name}"][-1]
        np.testing.assert_allclose(received, getattr(expected, name), rtol=1e-4)


def test_agreement_of_orthogonal_and_of_equal_gradients():
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, use_bias=False)]
    )
    model.set_weights([np.ones((2, 1))])
    x = np.array([[[1, 0], [0, 1], [1, 0]]], "float32")
    examples = kr.Examples(x, np.zeros((1, 3, 1), "float32"))
    for second, cosine in ((1, 0.0), (2, 1.0)):
        batches = tf.constant([[[0], [second]]])
        agreement = kr.analysis.gradient_agreement(
            learner_of(model), kr.Task(examples, examples, batches)
        )
        # A gradient of 2; a step of 0.1 takes the loss from 1 to 0.64.
        np.testing.assert_allclose(
            agreement, (4 * cosine, cosine, 0.36 * cosine), atol=1e-6
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_steps": 1}, "two batches.*tasks of 1 batches"),
        ({"inner_batch_size": 8}, "share an example"),
    ],
)
def test_batches_that_are_not_apart_are_refused(settings, message):
    spec = dataclasses.replace(SPEC, **settings)
    tasks = next(iter(blobs().episodes(spec, 2)))
    with pytest.raises(ValueError, match=message):
        kr.analysis.gradient_agreement(classifier()[0], tasks)


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


@pytest.mark.parametrize(("name", "k"), [("joint", 2), ("maml", 1)])
def test_coefficients_of_nothing_are_refused(name, k):
    with pytest.raises(ValueError, match="at least 2 batches"):
        kr.analysis.coefficients(name, k)


def test_kinks_and_float32_are_warned_of(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("absl"), "propagate", True)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, "relu", name="bent"),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with caplog.at_level(logging.WARNING, "absl"):
        kr.analysis.estimate_terms(learner_of(model, loss), classifier()[1])
    assert "bent" in caplog.text and "float64" in caplog.text
