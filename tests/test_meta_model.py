"""MetaModel through `fit`: what a meta-step does, and what it refuses."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SPEC, all_values, assert_same, blobs, meta_model, mlp

import keras_reptile as kr
from keras_reptile import lanes, task_running

CLASSES = blobs(examples=10)


@functools.cache
def plainly_trained(**settings):
    return all_values(trained(**settings))


def trained(steps=4, tasks=3, **settings):
    model = meta_model(**settings)
    stream = CLASSES.episodes(SPEC, meta_batch_size=tasks, seed=1)
    model.fit(stream, steps_per_epoch=steps, verbose=0)
    return model


@pytest.mark.parametrize(
    "inner_state",
    ["average", "carry", pytest.param("reset", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
    "settings",
    [
        {"jit_compile": True},
        {"run_eagerly": True},
        {"steps_per_execution": 2},
        {"task_execution": "one_after_another", "jit_compile": True},
    ],
    ids=str,
)
def test_all_ways_to_run_give_the_same_weights(inner_state, settings):
    plain = plainly_trained(inner_state=inner_state)
    other = trained(inner_state=inner_state, **settings)
    assert_same(plain, all_values(other), exact=False)


@pytest.mark.parametrize(
    "inner_state, dropout",
    [("average", True), pytest.param("reset", False, marks=pytest.mark.slow)],
)
def test_tasks_cut_among_cores_give_the_same_weights(
    inner_state, dropout, monkeypatch
):
    values = []
    for cores in (1, 2, 4):
        monkeypatch.setattr(lanes, "cores", lambda cores=cores: cores)
        settings = {"inner_state": inner_state, "dropout": dropout}
        model = trained(tasks=5, jit_compile=True, **settings)
        cut = "part" in {key[0] for key in model._compiled_functions}
        assert cut == (cores > 1)
        values.append(all_values(model))
    for other in values[1:]:
        assert_same(values[0], other, exact=False)


@pytest.mark.parametrize(
    "inner_state, tasks_per_chunk",
    [
        ("average", 2),
        ("reset", None),
        pytest.param("average", None, marks=pytest.mark.slow),
        pytest.param("reset", 2, marks=pytest.mark.slow),
    ],
)
def test_vectorized_tasks_give_the_same_weights(inner_state, tasks_per_chunk):
    plain = plainly_trained(inner_state=inner_state)
    other = trained(
        jit_compile=True,
        task_execution="vectorized",
        tasks_per_chunk=tasks_per_chunk,
        inner_state=inner_state,
    )
    assert "tasks" in {key[0] for key in other._compiled_functions}
    assert_same(plain, all_values(other), exact=False)


@pytest.mark.slow
def test_a_convolutional_network_trains_the_same_in_every_way(float64):
    classes, values = kr.data.scribbles(20, seed=0), []
    for way in task_running.WAYS:
        keras.utils.set_random_seed(0)
        model = kr.MetaModel(kr.models.omniglot_cnn(ways=3))
        model.compile(
            optimizer=keras.optimizers.SGD(0.5),
            inner_optimizer=keras.optimizers.SGD(0.01),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            task_execution=way,
        )
        assert model.inner_loop_is_compiled
        spec = kr.EpisodeSpec(ways=3, shots=3, inner_steps=2)
        stream = classes.episodes(spec, meta_batch_size=3)
        model.fit(stream, steps_per_epoch=3, verbose=0)
        values.append([w.numpy() for w in model.inner_model.weights])
    for other in values[1:]:
        for expected, received in zip(values[0], other):
            scale = np.abs(expected).max()
            assert np.abs(received - expected).max() <= 1e-9 * scale + 1e-12


@pytest.mark.parametrize(
    ("inner_state", "settings", "message"),
    [
        ("average", {"task_execution": "all"}, "side_by_side"),
        ("carry", {"task_execution": "vectorized"}, "one after another"),
        ("carry", {"task_execution": "side_by_side"}, "one after another"),
        (
            "average",
            {"task_execution": "vectorized", "dropout": True},
            "draw random numbers",
        ),
        ("average", {"tasks_per_chunk": 2}, "tasks_per_chunk=2"),
        (
            "average",
            {"task_execution": "vectorized", "tasks_per_chunk": 0},
            "at least 1",
        ),
    ],
)
def test_ways_to_run_that_do_not_fit_are_refused(
    inner_state, settings, message
):
    with pytest.raises(ValueError, match=message):
        meta_model(inner_state=inner_state, **settings)


def by_hand(inner_state, steps, tasks):
    """The meta-step written again with in-place Keras, task by task."""
    network, rate = mlp(), 0.5
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = keras.optimizers.Adam(0.02, beta_1=0.0)
    weights = network.trainable_variables
    optimizer.build(weights)
    slots = first = [v.numpy() for v in optimizer.variables]
    stream = CLASSES.episodes(SPEC, meta_batch_size=tasks, seed=1)
    for batch in stream.take(steps):
        start = [v.numpy() for v in weights]
        ends, slot_ends = [], []
        for t in range(tasks):
            for variable, value in zip(weights, start):
                variable.assign(value)
            for variable, value in zip(optimizer.variables, slots):
                variable.assign(value)
            for rows in batch.batches[t]:
                x = tf.gather(batch.support.x[t], rows)
                y = tf.gather(batch.support.y[t], rows)
                with tf.GradientTape() as tape:
                    value = loss(y, network(x, training=True))
                gradient = tape.gradient(value, [w.value for w in weights])
                optimizer.apply(gradient, weights)
            ends.append([v.numpy() for v in weights])
            slot_ends.append([v.numpy() for v in optimizer.variables])
            if inner_state == "carry":
                slots = slot_ends[-1]
        if inner_state == "average":
            slots = [np.mean(s, 0) for s in zip(*slot_ends)]
        if inner_state == "reset":
            slots = first
        for variable, old, new in zip(weights, start, zip(*ends)):
            variable.assign(old + rate * (np.mean(new, 0) - old))
    return [v.numpy() for v in weights]


@pytest.mark.parametrize("inner_state", ["average", "carry", "reset"])
def test_the_update_is_the_papers(inner_state):
    model = trained(inner_state=inner_state)
    keras.utils.set_random_seed(0)
    expected = by_hand(inner_state, steps=4, tasks=3)
    for variable, value in zip(model.trainable_variables, expected):
        np.testing.assert_allclose(variable.numpy(), value, atol=2e-5)


def test_fit_reports_the_query_examples_after_adaptation():
    model = meta_model()
    history = model.fit(
        CLASSES.episodes(SPEC, 3), steps_per_epoch=20, epochs=4, verbose=0
    ).history
    assert set(history) == {
        *("loss", "accuracy", "inner_loss", "inner/nonfinite_tasks"),
    }
    assert history["accuracy"][-1] > 0.8 > history["accuracy"][0]
    assert history["loss"][-1] < history["loss"][0]


def test_without_query_examples_only_the_inner_loss_is_reported():
    spec = kr.EpisodeSpec(ways=3, shots=3, queries=0)
    history = meta_model().fit(
        CLASSES.episodes(spec, 2), steps_per_epoch=2, verbose=0
    )
    assert set(history.history) == {"inner_loss", "inner/nonfinite_tasks"}


def test_evaluate_adapts_and_leaves_no_trace():
    model = trained(steps=40)
    before = all_values(model)
    logs = model.evaluate(
        CLASSES.episodes(SPEC, 3, seed=9), steps=20, return_dict=True, verbose=0
    )
    assert logs["accuracy"] > 0.8
    assert_same(before, all_values(model))


def test_fit_goes_on_where_the_model_stands():
    stream = CLASSES.episodes(SPEC, meta_batch_size=3, seed=1)
    model = meta_model()
    for _ in range(2):
        model.fit(stream, steps_per_epoch=2, verbose=0)
    assert model.meta_step == 4
    assert_same(all_values(model), all_values(trained(steps=4)))


def test_weight_decay_is_a_factor_before_every_step():
    model = trained(
        steps=1,
        tasks=1,
        optimizer=keras.optimizers.SGD(1.0),
        inner_optimizer=keras.optimizers.SGD(0.0),
        inner_weight_decay=0.9,
    )
    keras.utils.set_random_seed(0)
    for variable, start in zip(
        model.trainable_variables, mlp().trainable_variables
    ):
        np.testing.assert_allclose(
            variable.numpy(), start.numpy() * 0.9**3, rtol=1e-5, atol=1e-7
        )


def test_sum_is_mean_at_a_rate_times_the_batch():
    sgd = keras.optimizers.SGD
    by_sum = trained(inner_optimizer=sgd(0.01), inner_reduction="sum")
    by_mean = trained(inner_optimizer=sgd(0.04), inner_reduction="mean")
    own = trained(
        inner_optimizer=sgd(0.01),
        loss=keras.losses.SparseCategoricalCrossentropy(
            from_logits=True, reduction="sum"
        ),
    )
    for one, two, three in zip(
        *(m.trainable_variables for m in (by_sum, by_mean, own))
    ):
        np.testing.assert_allclose(one.numpy(), two.numpy(), atol=1e-5)
        np.testing.assert_array_equal(one.numpy(), three.numpy())


def test_dropout_differs_between_tasks_and_repeats_between_runs():
    assert_same(
        all_values(trained(dropout=True)), all_values(trained(dropout=True))
    )
    model = meta_model(dropout=True)
    x = tf.ones((4, 4))

    def masks(number, steps=4):
        state = model.learner.with_seed(model.initial_state(), number)
        outputs = []
        for _ in range(steps):
            output, buffers, _ = model.learner._call(state, x, True, False)
            state = state._replace(buffers=buffers)
            outputs.append(output.numpy().tobytes())
        return outputs

    # No mask twice, neither among the tasks nor among their steps.
    drawn = [mask for number in range(8) for mask in masks(number)]
    assert len(set(drawn)) > 0.9 * len(drawn)
    assert masks(3) == masks(3)


@pytest.mark.parametrize(
    "inner_state", ["average", pytest.param("carry", marks=pytest.mark.slow)]
)
def test_models_built_anew_learn_the_same_bits(inner_state):
    runs = [
        all_values(trained(20, tasks=5, inner_state=inner_state))
        for _ in range(4)
    ]
    for other in runs[1:]:
        assert_same(runs[0], other)


def test_moving_averages_are_no_part_of_what_is_learned():
    model = trained()
    for variable in model.inner_model.non_trainable_variables:
        if "moving" in variable.path:
            expected = 1.0 if "variance" in variable.path else 0.0
            np.testing.assert_array_equal(variable.numpy(), expected)


def test_outer_adam_comes_free():
    model = trained(steps=30, optimizer=keras.optimizers.Adam(0.01))
    logs = model.evaluate(
        CLASSES.episodes(SPEC, 3), steps=20, return_dict=True, verbose=0
    )
    assert logs["accuracy"] > 0.6


def test_a_plain_function_is_an_algorithm():
    def nothing(learner, state, task):
        return [tf.zeros_like(w) for w in state.weights], state

    network = mlp()
    before = network.get_weights()
    model = kr.MetaModel(network, algorithm=nothing)
    model.compile(loss="sparse_categorical_crossentropy")
    model.fit(CLASSES.episodes(SPEC), steps_per_epoch=2, verbose=0)
    for old, new in zip(before, network.get_weights()):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("dropout", [False, True])
def test_save_and_load_are_bitwise(tmp_path, dropout):
    model = trained(inner_state="carry", dropout=dropout)
    path = tmp_path / "meta.keras"
    model.save(path)
    loaded = keras.saving.load_model(path)
    assert loaded.inner_state == "carry"
    ours, theirs = all_values(model), all_values(loaded)
    assert_same(ours, theirs)
    stream = CLASSES.episodes(SPEC, meta_batch_size=3, seed=1)
    for m in (model, loaded):
        m.fit(stream, steps_per_epoch=3, verbose=0)
    assert_same(all_values(model), all_values(loaded))


def support(ways=3, seed=3):
    spec = kr.EpisodeSpec(ways=ways, shots=4, queries=5)
    task = CLASSES.episode(spec, seed=seed)
    return tf.nest.map_structure(np.asarray, task)


def test_adapt_gives_a_plain_model_that_knows_the_classes():
    model = trained(steps=60)
    before, task = all_values(model), support()
    personal = model.adapt(task.support.x, task.support.y, steps=20)
    assert type(personal) is keras.Sequential
    predicted = personal.predict(task.query.x, verbose=0).argmax(-1)
    assert (predicted == task.query.y).mean() > 0.8
    # One by one or together: a prediction stands by itself.
    alone = [personal.predict(x[None], verbose=0)[0] for x in task.query.x]
    together = personal.predict(task.query.x, verbose=0)
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert_same(before, all_values(model))


def test_adapt_is_the_inner_loop_of_training():
    # One task, outer step 1: the new weights are the adapted ones.
    task = support()
    model = trained(steps=3, optimizer=keras.optimizers.SGD(1.0))
    personal = model.adapt(task.support.x, task.support.y, 5, 6, seed=7)
    from keras_reptile.personal import support_task

    batch = support_task(model.learner, task.support.x, task.support.y, 5, 6, 7)
    tasks = tf.nest.map_structure(lambda t: t[tf.newaxis], batch)
    tasks = tasks._replace(query=kr.Examples(*(q[:, :0] for q in tasks.query)))
    dataset = tf.data.Dataset.from_tensors(tasks)
    model.fit(dataset, steps_per_epoch=1, verbose=0)
    for one, other in zip(
        personal.trainable_variables, model.trainable_variables
    ):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-6)


def test_a_personal_model_saves_as_any_other(tmp_path):
    task = support()
    personal = trained().adapt(task.support.x, task.support.y)
    personal.save(tmp_path / "personal.keras")
    loaded = keras.saving.load_model(tmp_path / "personal.keras")
    np.testing.assert_array_equal(
        personal.predict(task.query.x, verbose=0),
        loaded.predict(task.query.x, verbose=0),
    )


TASK = support()
X, Y = TASK.support.x, TASK.support.y


@pytest.mark.parametrize(
    "x, y, settings, text",
    [
        (X[:, :3], Y, {}, r"input shape \(4,\).*\(3,\)"),
        (X[..., None], Y, {}, r"input shape \(4,\).*\(4, 1\)"),
        (X * np.nan, Y, {}, "finite.*NaN"),
        ((X * 10).astype("uint8"), Y, {}, "floats.*uint8.*/ 255"),
        (X, Y.astype("float32"), {}, "integer labels.*float32"),
        (X, Y + 1, {}, "from 0 to 2.*from 1 to 3"),
        (X, Y - 1, {}, "from 0 to 2.*from -1 to 1"),
        (X, Y[:-1], {}, "one label per support example"),
        (X[:0], Y[:0], {}, "at least one example"),
        (X, Y, {"steps": 0}, "`steps`.*at least 1"),
        (X, Y, {"batch_size": 13}, "batch_size=13.*12"),
    ],
)
def test_adapt_refuses_what_does_not_suit(x, y, settings, text):
    with pytest.raises(ValueError, match=text):
        meta_model().adapt(x, y, **settings)


def test_an_unbuilt_model_is_refused():
    network = keras.Sequential([keras.layers.Dense(3)])
    with pytest.raises(ValueError, match="must be built.*call it once"):
        kr.MetaModel(network)


def test_other_objects_and_names_are_refused():
    with pytest.raises(ValueError, match="keras.Model. Received: str"):
        kr.MetaModel("cnn")
    with pytest.raises(ValueError, match="average.*carry.*reset.*'mean'"):
        kr.MetaModel(mlp(), inner_state="mean")
    with pytest.raises(ValueError, match="`loss` must be"):
        kr.MetaModel(mlp()).compile()
    with pytest.raises(ValueError, match='"sum" or "mean".*"median"|median'):
        meta_model(inner_reduction="median")
    with pytest.raises(ValueError, match="factor.*above 0.*1.5"):
        meta_model(inner_weight_decay=1.5)
    with pytest.raises(ValueError, match="must be compiled first"):
        kr.MetaModel(mlp()).fit(CLASSES.episodes(SPEC), steps_per_epoch=1)


def test_output_of_another_width_is_refused():
    spec = kr.EpisodeSpec(ways=4, shots=2)
    with pytest.raises(ValueError, match="width 3, and ways=4"):
        meta_model().fit(CLASSES.episodes(spec), steps_per_epoch=1)


def dataset(**changes):
    task = tf.nest.map_structure(
        lambda t: tf.constant(t)[tf.newaxis], support()
    )
    parts = {
        "x": task.support.x,
        "y": task.support.y,
        "batches": task.batches,
        **changes,
    }
    examples = kr.Examples(parts["x"], parts["y"])
    tasks = kr.Task(examples, task.query, parts["batches"])
    return tf.data.Dataset.from_tensors(tasks)


ONE = dataset().get_single_element()


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"x": ONE.support.x[:, :, :2]}, r"support.x.*input shape \(4,\)"),
        ({"x": ONE.support.x * np.nan}, "support.x.*finite"),
        ({"y": ONE.support.y + 1}, "support.y.*from 0 to 2"),
        ({"y": ONE.support.y[:, :5]}, "agree in tasks and examples"),
        ({"batches": ONE.batches + 9}, "rows of the support set, 0 to 11"),
        ({"batches": ONE.batches[:, :0]}, "one inner step"),
        ({"batches": ONE.batches[0]}, "integers of shape"),
        ({"y": tf.cast(ONE.support.y, tf.float32)}, "integer labels"),
    ],
)
def test_tasks_that_do_not_suit_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        meta_model().fit(dataset(**changes), steps_per_epoch=1, verbose=0)


def test_other_data_is_refused():
    with pytest.raises(ValueError, match="tf.data.Dataset of Tasks.*ndarray"):
        meta_model().fit(np.zeros((3, 4)), steps_per_epoch=1)
    pairs = tf.data.Dataset.from_tensors((X, Y))
    with pytest.raises(ValueError, match="kr.Task"):
        meta_model().fit(pairs, steps_per_epoch=1)
    with pytest.raises(ValueError, match="drop_remainder=True"):
        meta_model().fit(dataset().unbatch().batch(2), steps_per_epoch=1)


def test_epochs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no end.*steps_per_epoch=None"):
        meta_model().fit(CLASSES.episodes(SPEC))
    with pytest.raises(ValueError, match="10.*not a multiple of.*=4"):
        meta_model(steps_per_execution=4).fit(
            CLASSES.episodes(SPEC), steps_per_epoch=10
        )


def test_outer_gradient_accumulation_is_refused():
    outer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="meta_batch_size"):
        meta_model(optimizer=outer)


def test_the_inner_learning_rate_is_not_rounded():
    model = trained(tasks=3, inner_optimizer=keras.optimizers.SGD(0.003))
    assert float(model.inner_optimizer.learning_rate) == np.float32(0.003)
