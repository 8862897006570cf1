"""The theory of sections 5.1 and 5.2, checked on problems known exactly."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import LOSS, blobs, mlp, of_tokens

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


def classifier(dropout=False, **settings):
    learner = kr.Learner(
        mlp(dropout=dropout), LOSS, keras.optimizers.SGD(0.1), **settings
    )
    stream = blobs(examples=8).episodes(APART, 6)
    return learner, next(iter(stream))


def first(tasks):
    return tf.nest.map_structure(lambda x: x[0], tasks)


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


# A part of the variables adapted; and a mask that is the same everywhere.
KINDS = [{}, {"inner_variables": "head"}, {"dropout": True}]


@pytest.mark.parametrize("settings", KINDS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_residual_along_one_path_is_of_second_order(float64, name, settings):
    learner, tasks = classifier(**settings)
    task = first(tasks)
    state, rates, residuals = learner.state(), [0.04, 0.02, 0.01], []
    for rate in rates:
        measured = kr.analysis.meta_gradients(learner, state, task, rate)
        order = kr.analysis.leading_order(learner, state, task, rate)
        residuals.append(
            np.linalg.norm(flat(measured[name]) - flat(order[name]))
        )
    assert 1.8 < slope(rates, residuals) < 2.2


@pytest.mark.parametrize("settings", KINDS)
def test_expected_meta_gradients_have_the_papers_coefficients(
    float64, settings
):
    learner, tasks = classifier(**settings)
    terms = kr.analysis.estimate_terms(learner, tasks)
    rates, residuals = [0.02, 0.01, 0.005], {name: [] for name in ALGORITHMS}
    for rate in rates:
        measured = kr.analysis.measure_meta_gradients(learner, tasks, rate)
        for name, left in residuals.items():
            predicted = kr.analysis.predict(terms, name, 3, rate)
            left.append(np.linalg.norm(flat(measured[name]) - flat(predicted)))
    for name, left in residuals.items():
        assert 1.8 < slope(rates, left) < 2.2
        fitted = kr.analysis.fit_coefficients(terms, measured[name], rates[-1])
        expected = kr.analysis.coefficients(name, 3)
        np.testing.assert_allclose(fitted[0], expected[0], rtol=0.01)
        np.testing.assert_allclose(fitted[1], expected[1], rtol=0.1)


@pytest.mark.parametrize("meta_batch", [1, 4])
def test_a_stream_gives_its_first_tasks(float64, meta_batch):
    learner, _ = classifier()
    stream = blobs(examples=8).episodes(APART, meta_batch)
    tasks = [next(iter(stream.skip(i))) for i in range(6)]
    tasks = tf.nest.map_structure(lambda *x: tf.concat(x, 0)[:6], *tasks)
    for of in (
        kr.analysis.estimate_terms,
        lambda *given, num_tasks=6: kr.analysis.measure_meta_gradients(
            *given, 0.1, num_tasks
        )["maml"],
        kr.analysis.gradient_agreement,
    ):
        ours, theirs = of(learner, stream, num_tasks=6), of(learner, tasks)
        for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(theirs)):
            np.testing.assert_array_equal(a, b)
        fewer = of(learner, stream.take(1), num_tasks=100)  # It ends before.
        assert np.isfinite(tf.nest.flatten(fewer)[0]).all()


def test_maml_is_that_of_the_algorithm(float64):
    learner, tasks = classifier()
    task = first(tasks)
    measured = kr.analysis.meta_gradients(learner, learner.state(), task, 0.1)
    query = kr.Examples(*learner.batch(task, 2))
    task = kr.Task(task.support, query, task.batches[:2])
    for name in ("maml", "fomaml"):
        algorithm = kr.algorithms.get(name)
        expected, _ = algorithm(learner, learner.state(), task)
        np.testing.assert_allclose(
            flat(measured[name]), flat(expected), rtol=1e-9, atol=1e-12
        )


def test_tables_of_embeddings_have_terms_too(float64):
    model = of_tokens()
    learner = learner_of(model, LOSS)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 10, (2, 12, 3)), np.arange(24).reshape(2, 12) % 3
    examples = kr.Examples(x.astype("int32"), y.astype("int32"))
    batches = rng.permuted(np.tile(np.arange(12), (2, 1)), axis=1)
    tasks = kr.Task(
        examples, examples, batches.reshape(2, 3, 4).astype("int32")
    )
    terms, rate = kr.analysis.estimate_terms(learner, tasks), 1e-3
    measured = kr.analysis.measure_meta_gradients(learner, tasks, rate)["maml"]
    fitted = kr.analysis.fit_coefficients(terms, measured, rate)
    np.testing.assert_allclose(fitted, (1.0, 4.0), rtol=0.01)
    agreement = kr.analysis.gradient_agreement(learner, tasks)
    assert -1 < agreement.cosine < 1


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
            gradient = learner.gradient(state, *learner.batch(task, 0))[0]
            first = flat(found["reptile"])
            np.testing.assert_allclose(first, flat(gradient), rtol=1e-12)
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
