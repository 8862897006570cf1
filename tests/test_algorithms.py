"""Each algorithm's meta-gradient, by hand and by finite differences."""

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs, messages, mlp

import keras_reptile as kr
from keras_reptile import algorithms
from keras_reptile.algorithms import combination

W, TARGET, QUERY, RATE, STEPS = 3.0, 1.0, 2.5, 0.125, 4
# Loss (w - t)**2 under gradient descent: w_k - t = SHRINK**k * (w - t).
# All of these are sums of powers of two, so that no rounding is in the way.
SHRINK = 1 - 2 * RATE
ADAPTED = TARGET + SHRINK**STEPS * (W - TARGET)
FIRST = TARGET + SHRINK * (W - TARGET)
CLOSED_FORM = {
    "reptile": W - ADAPTED,
    "joint": W - FIRST,
    "foml": SHRINK ** (STEPS - 1) * (1 - SHRINK) * (W - TARGET),
    "foml_tail": (1 - SHRINK) * (ADAPTED - QUERY),
    "fomaml": 2 * (ADAPTED - QUERY),
    "fomaml_shared_tail": 2 * SHRINK ** (STEPS - 1) * (W - TARGET),
    "maml": 2 * (ADAPTED - QUERY) * SHRINK**STEPS,
}
BEFORE_LAST = TARGET + SHRINK ** (STEPS - 1) * (W - TARGET)


def one_weight_problem():
    model = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(1, use_bias=False)]
    )
    model.set_weights([np.array([[W]])])
    learner = kr.Learner(
        model, keras.losses.MeanSquaredError(), keras.optimizers.SGD(RATE)
    )
    support = kr.Examples(tf.ones((2, 1)), tf.fill((2, 1), TARGET))
    query = kr.Examples(tf.ones((3, 1)), tf.fill((3, 1), QUERY))
    batches = tf.tile([[0, 1]], (STEPS, 1))
    return learner, kr.Task(support, query, batches)


def test_every_algorithm_has_a_closed_form():
    assert sorted(CLOSED_FORM) == kr.algorithms.names()


@pytest.mark.parametrize("name", kr.algorithms.names())
def test_meta_gradient_matches_closed_form(name):
    learner, task = one_weight_problem()
    algorithm = kr.algorithms.get(name)
    (gradient,), adapted = algorithm(learner, learner.state(), task)
    np.testing.assert_allclose(gradient, [[CLOSED_FORM[name]]], rtol=1e-6)
    expected = {"joint": FIRST, "fomaml_shared_tail": BEFORE_LAST}
    expected = expected.get(name, ADAPTED)
    np.testing.assert_allclose(adapted.weights[0], [[expected]], rtol=1e-6)
    # A sum over the steps, of which `fit` reports the mean.
    losses = [(SHRINK**i * (W - TARGET)) ** 2 for i in range(STEPS)]
    taken = {"joint": 1, "fomaml_shared_tail": STEPS - 1}.get(name, STEPS)
    mean = sum(losses[:taken]) / taken
    np.testing.assert_allclose(adapted.loss / STEPS, mean, rtol=1e-6)


@pytest.mark.parametrize("name", kr.algorithms.names())
def test_the_model_is_unchanged(name):
    learner, task = one_weight_problem()
    kr.algorithms.get(name)(learner, learner.state(), task)
    np.testing.assert_array_equal(learner.model.get_weights()[0], [[W]])


def test_coefficients_in_place_of_an_algorithm_are_refused():
    with pytest.raises(ValueError, match=r"or a function.*\[0, 1, 1\]"):
        kr.algorithms.get([0, 1, 1])


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'reptile'.*'repile'"):
        kr.algorithms.get("repile")


def meta_gradient(algorithm):
    learner, task = one_weight_problem()
    (gradient,), _ = kr.algorithms.get(algorithm)(
        learner, learner.state(), task
    )
    return float(gradient[0, 0])


@pytest.mark.parametrize(
    ("coefficients", "name"),
    [
        ([1, 1, 1, 1], "reptile"),
        ([0, 0, 0, 1], "foml"),
        ([1, 0, 0, 0], "joint"),
    ],
)
def test_special_cases_of_a_combination(coefficients, name):
    assert meta_gradient(combination(coefficients)) == meta_gradient(name)


def network_problem(inner_optimizer):
    """A network in float64, and a task of three batches."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    learner = kr.Learner(mlp(), loss, inner_optimizer)
    spec = kr.EpisodeSpec(ways=3, shots=2, inner_steps=3, inner_batch_size=2)
    task = kr.episodes.unstack(next(iter(blobs().episodes(spec))))[0]
    support = task.support._replace(x=tf.cast(task.support.x, tf.float64))
    return learner, task._replace(support=support)


@pytest.mark.parametrize(
    ("coefficients", "name", "tolerance"),
    [
        # A sum of three changes is rounded otherwise than one difference.
        ([1, 1, 1], "reptile", 1e-14),
        ([0, 0, 1], "foml", 0),
        ([1, 0, 0], "joint", 0),
    ],
)
def test_special_cases_hold_for_networks(
    float64, coefficients, name, tolerance
):
    learner, task = network_problem(keras.optimizers.Adam(0.01))
    received, expected = (
        kr.algorithms.get(algorithm)(learner, learner.state(), task)[0]
        for algorithm in (combination(coefficients), name)
    )
    assert max(np.abs(part).max() for part in expected) > 1e-3
    for one, other in zip(received, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


def test_the_last_decay_of_weights_is_inside_of_the_update():
    """As in the original, whose last step begins before it."""
    decay, (learner, task) = 0.75, one_weight_problem()
    learner = kr.Learner(
        learner.model, "mse", keras.optimizers.SGD(RATE), weight_decay=decay
    )
    weights = [W]
    for _ in range(STEPS):
        weights.append(TARGET + SHRINK * (decay * weights[-1] - TARGET))
    on_tail = QUERY + SHRINK * (decay * weights[-1] - QUERY)
    for name, expected in (
        ("foml", weights[-2] - weights[-1]),
        ("foml_tail", weights[-1] - on_tail),
    ):
        (gradient,), _ = kr.algorithms.get(name)(learner, learner.state(), task)
        np.testing.assert_allclose(gradient, [[expected]], rtol=1e-6)


def test_a_step_on_a_shared_tail_is_its_gradient_times_the_rate(float64):
    learner, task = network_problem(keras.optimizers.SGD(RATE))
    gradient, step = (
        kr.algorithms.get(name)(learner, learner.state(), task)[0]
        for name in ("fomaml_shared_tail", "foml")
    )
    for g, s in zip(gradient, step):
        np.testing.assert_allclose(s, RATE * g, atol=1e-12)


def test_a_combination_weighs_each_step():
    first, second = (SHRINK**i * (1 - SHRINK) * (W - TARGET) for i in range(2))
    received = meta_gradient(combination([0.5, -2, 0, 0]))
    assert received == 0.5 * first - 2 * second


def test_coefficients_are_as_exact_as_the_weights(float64):
    first = (1 - SHRINK) * (W - TARGET)
    received = meta_gradient(combination([0.1, 0, 0, 0]))
    np.testing.assert_allclose(received, 0.1 * first, rtol=1e-15)


@pytest.mark.parametrize(
    "coefficients", [[0, 0], [], [1, np.nan], [[1, 2]], "ones", None]
)
def test_coefficients_that_are_none_are_refused(coefficients):
    with pytest.raises(ValueError, match="`coefficients` must be a list"):
        combination(coefficients)


def test_a_combination_of_another_length_is_refused():
    with pytest.raises(ValueError, match="2 coefficients and 4 inner steps"):
        meta_gradient(combination([1, 1]))


def fitted(algorithm, queries=4, epochs=4, **settings):
    keras.utils.set_random_seed(0)
    model = kr.MetaModel(mlp(), algorithm=algorithm)
    in_units_of_weights = "maml" not in str(algorithm)
    model.compile(
        optimizer=keras.optimizers.SGD(0.5 if in_units_of_weights else 0.05),
        inner_optimizer=keras.optimizers.SGD(0.05),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **settings,
    )
    spec = kr.EpisodeSpec(ways=3, shots=2, queries=queries, inner_steps=3)
    stream = blobs(examples=6).episodes(spec, meta_batch_size=4)
    history = model.fit(
        stream, steps_per_epoch=20, epochs=epochs, verbose=0
    ).history
    return model, history.get("loss")


EVERY = [*kr.algorithms.names(), combination([0, 1, 1])]


@pytest.mark.parametrize("algorithm", EVERY, ids=str)
def test_every_algorithm_learns(algorithm):
    _, losses = fitted(algorithm, epochs=6)
    # Joint training has nothing to gain from three steps of adaptation.
    assert losses[-1] < (1.0 if algorithm == "joint" else 0.9) * losses[0]


@functools.cache
def trained_plainly(algorithm):
    return trained(algorithm, jit_compile=False)


def trained(algorithm, **settings):
    """Weights and slots after five meta-steps of a network of images."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(4, 3, 2, padding="same"),
            keras.layers.BatchNormalization(),
            keras.layers.Activation("tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(3, kernel_regularizer="l2"),
        ]
    )
    first = network.get_weights()
    model = kr.MetaModel(network, algorithm)
    model.compile(
        optimizer=keras.optimizers.SGD(0.5),
        # Of a size where a step is not the sign of its gradient.
        inner_optimizer=keras.optimizers.Adam(0.02, beta_1=0.0, epsilon=1e-2),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **settings,
    )
    images = np.random.default_rng(0).random((48, 6, 6, 1), "float32")
    classes = kr.data.ClassDataset(images, [6] * 8)
    spec = kr.EpisodeSpec(ways=3, shots=2, queries=4, inner_steps=3)
    model.fit(classes.episodes(spec, 3), steps_per_epoch=6, verbose=0)
    moved = [np.abs(a - b).max() for a, b in zip(network.get_weights(), first)]
    # The bias before a batch norm, and its averages, have nothing to learn.
    assert all(m > 1e-3 for i, m in enumerate(moved) if i not in (1, 4, 5))
    values = [*network.weights, *model.inner_optimizer.variables]
    return [v.numpy() for v in values]


WAYS_TO_RUN = {
    "compiled": {"jit_compile": True},
    "vectorized": {"jit_compile": True, "task_execution": "vectorized"},
    "eager": {"run_eagerly": True},
    "several steps per execution": {
        "jit_compile": False,
        "steps_per_execution": 3,
    },
}


def every_way():
    """Those that differ most in how they run; the rest take minutes."""
    pairs = itertools.product(EVERY, WAYS_TO_RUN)
    return [
        pytest.param(
            *pair,
            id=f"{pair[0]}-{pair[1]}",
            marks=()
            if "reptile" in pair
            or "compiled" in pair
            or pair == ("foml_tail", "vectorized")
            else pytest.mark.slow,
        )
        for pair in pairs
    ]


@pytest.mark.parametrize("algorithm, way", every_way())
def test_every_algorithm_in_every_way(algorithm, way, float64):
    if algorithm == "maml" and way == "vectorized":
        with pytest.raises(ValueError, match="gradient of an inner loop"):
            trained(algorithm, **WAYS_TO_RUN[way])
        return
    plain = trained_plainly(algorithm)
    for a, b in zip(trained(algorithm, **WAYS_TO_RUN[way]), plain):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


def test_maml_keeps_its_tasks_apart_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(kr.lowering, "has_accelerator", lambda: True)
    ways = {}
    for name in ("reptile", "maml"):
        model, _ = fitted(name, epochs=0, jit_compile=False)
        ways[name] = model.task_execution
    assert ways == {"reptile": "vectorized", "maml": "side_by_side"}


@pytest.mark.parametrize("name", ["foml", "foml_tail", "joint"])
def test_slots_of_the_inner_optimizer(name):
    """Adam's second moment, after as many steps as the algorithm takes."""
    learner, task = one_weight_problem()
    decay = 0.9
    adam = keras.optimizers.Adam(RATE, beta_1=0.0, beta_2=decay)
    learner = kr.Learner(learner.model, "mse", adam)
    tail = {"foml": [], "foml_tail": [task.query], "joint": []}[name]
    _, adapted = kr.algorithms.get(name)(learner, learner.state(), task)
    state = learner.state()
    for batch in [task.support] * (1 if name == "joint" else STEPS) + tail:
        state = learner.step(state, batch.x, batch.y)
    for received, expected in zip(adapted.slots, state.slots, strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-6)
    assert int(adapted.slots[0]) == (1 if name == "joint" else STEPS) + len(
        tail
    )


@pytest.mark.parametrize("algorithm", EVERY, ids=str)
def test_evaluate_only_adapts(algorithm):
    """So its figures are the same, and other episodes are no matter."""
    model, _ = fitted(algorithm, epochs=0)
    reptile, _ = fitted("reptile", epochs=0)
    spec = kr.EpisodeSpec(ways=3, shots=2, queries=0, inner_steps=5)
    episodes = blobs(examples=6).episodes(spec, meta_batch_size=4)
    received, expected = (
        m.evaluate(episodes, steps=3, verbose=0) for m in (model, reptile)
    )
    assert received == expected


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (3, 2), (0, 5)])
def test_a_part_that_is_none_is_refused(first, last):
    learner, task = one_weight_problem()
    with pytest.raises(ValueError, match=f"{first} to {last}"):
        learner.part(first, last).adapt(learner.state(), task)


@pytest.mark.parametrize("algorithm", ["foml_tail", "fomaml", "maml"])
def test_episodes_without_queries_are_refused(algorithm):
    with pytest.raises(ValueError, match="`queries` of EpisodeSpec"):
        fitted(algorithm, queries=0)


@pytest.mark.parametrize("algorithm", ["maml", combination([0, 1, 1])], ids=str)
def test_an_algorithm_is_saved_with_its_model(algorithm, tmp_path):
    model, _ = fitted(algorithm)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    if algorithm == "maml":
        assert loaded.algorithm is kr.algorithms.get("maml")
    else:
        assert loaded.algorithm.coefficients == [0, 1, 1]
    assert loaded.settings == model.settings


def test_an_outer_step_that_nobody_chose_is_said_of_gradients(log):
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    own = functools.partial(kr.algorithms.get("maml"))
    for algorithm, large in (
        ("maml", True),
        ("fomaml", True),
        (own, True),
        ("reptile", False),
        ("foml_tail", False),
        (combination([1]), False),
        (lambda learner, state, task: None, False),
    ):
        model = kr.MetaModel(network, algorithm)
        model.compile(keras.optimizers.Adam(), loss="mse", jit_compile=False)
        assert "SGD(1.0)" not in messages(log)
        model.compile(loss="mse", jit_compile=False)
        assert ("SGD(1.0)" in messages(log)) == large
        log.clear()


def test_a_name_that_is_none_says_what_there_is():
    with pytest.raises(ValueError, match="inner_variables"):
        kr.algorithms.get("anil")


def test_a_name_is_what_files_hold_of_an_algorithm():
    reptile = algorithms.get("reptile")
    assert algorithms.serialize(reptile) == "reptile"
    assert algorithms.serialize("reptile") == "reptile"
    with pytest.raises(ValueError, match="must be one of.*Received: 'other'"):
        algorithms.serialize("other")
