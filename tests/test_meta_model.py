"""MetaModel through `fit`: what a meta-step does, and what it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import LOSS, SPEC, all_values, assert_same, meta_model, mlp
from trained_model import CLASSES, trained

import keras_reptile as kr


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
        ends, slot_ends, gradients = [], [], []
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
                gradients.append(gradient)
            ends.append([v.numpy() for v in weights])
            slot_ends.append([v.numpy() for v in optimizer.variables])
            if inner_state == "carry":
                slots = slot_ends[-1]
        if inner_state == "accumulate":
            for variable, value in zip(optimizer.variables, slots):
                variable.assign(value)
            for gradient in gradients:
                optimizer.apply(gradient, weights)
            slots = [v.numpy() for v in optimizer.variables]
        if inner_state == "average":
            slots = [np.mean(s, 0) for s in zip(*slot_ends)]
        if inner_state == "reset":
            slots = first
        for variable, old, new in zip(weights, start, zip(*ends)):
            variable.assign(old + rate * (np.mean(new, 0) - old))
    return [v.numpy() for v in weights]


@pytest.mark.parametrize(
    "inner_state", ["average", "accumulate", "carry", "reset"]
)
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


def constant_gradient(value):
    def algorithm(learner, state, task):
        return [tf.fill(w.shape, value) for w in state.weights], state

    return algorithm


def test_the_outer_step_may_be_adams():
    network = mlp()
    before = network.get_weights()
    model = kr.MetaModel(network, algorithm=constant_gradient(-3.0))
    outer = keras.optimizers.Adam(0.125, epsilon=1e-9)
    model.compile(outer, loss=LOSS)
    model.fit(CLASSES.episodes(SPEC), steps_per_epoch=3, verbose=0)
    # Of a constant gradient each step is its sign, but for what rounding
    # makes of 1 - 0.999.
    trained_paths = [v.path for v in network.trainable_variables]
    for variable, old in zip(network.variables, before):
        expected = old + 3 * 0.125 * (variable.path in trained_paths)
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-5)


def test_the_outer_step_of_adam_learns():
    """To 0.80, where a schedule at 0, which learns nothing, has 0.59."""
    model = trained(steps=30, optimizer=keras.optimizers.Adam(0.01))
    logs = model.evaluate(
        CLASSES.episodes(SPEC, 3), steps=20, return_dict=True, verbose=0
    )
    assert logs["accuracy"] > 0.7


def test_the_outer_step_may_have_nesterovs_momentum():
    network = mlp()
    before = network.get_weights()
    model = kr.MetaModel(network, algorithm=constant_gradient(1.0))
    outer = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    model.compile(outer, loss=LOSS)
    model.fit(CLASSES.episodes(SPEC), steps_per_epoch=2, verbose=0)
    # Velocities of 1 and 1.9 steps; each is looked ahead along once more.
    way = 0.1 * ((0.9 * 1 + 1) + (0.9 * 1.9 + 1))
    trained = [v.path for v in network.trainable_variables]
    for variable, old in zip(network.variables, before):
        expected = old - way * (variable.path in trained)
        np.testing.assert_allclose(variable.numpy(), expected, atol=1e-6)


def test_a_plain_function_is_an_algorithm():
    def nothing(learner, state, task):
        return [tf.zeros_like(w) for w in state.weights], state

    network = mlp()
    before = network.get_weights()
    model = kr.MetaModel(network, algorithm=nothing)
    model.compile(loss=LOSS)
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
    with pytest.raises(ValueError, match="must be compiled first"):
        kr.MetaModel(mlp()).learner  # noqa: B018


def test_outer_gradient_accumulation_is_refused():
    outer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="meta_batch_size"):
        meta_model(optimizer=outer)


def test_the_inner_learning_rate_is_not_rounded():
    model = trained(tasks=3, inner_optimizer=keras.optimizers.SGD(0.003))
    assert float(model.inner_optimizer.learning_rate) == np.float32(0.003)


def test_a_scaled_loss_changes_nothing():
    plain, sgd = keras.optimizers.SGD(0.5), keras.optimizers.SGD
    scaled = sgd(0.5, loss_scale_factor=128.0)
    weights = [
        trained(optimizer=optimizer).inner_model.get_weights()
        for optimizer in (plain, scaled)
    ]
    for one, other in zip(*weights):
        np.testing.assert_array_equal(one, other)
    # Its scale would grow beyond all bounds.
    with pytest.raises(ValueError, match="needs no scale.*that it wraps"):
        meta_model(optimizer=keras.optimizers.LossScaleOptimizer(plain))


def test_a_compile_that_fails_changes_nothing():
    model = trained()
    learner, settings = model.learner, model.settings
    for wrong in ({"metrics": ["nonsense"]}, {"steps_per_execution": 0}):
        with pytest.raises(ValueError):
            model.compile(**{"loss": "mse", **wrong})
        assert model.learner is learner and model.settings is settings
        assert model.inner_optimizer is learner.optimizer


def test_a_learning_rate_set_later_counts():
    model = meta_model(inner_state="reset")
    before = model.inner_model.get_weights()
    model.inner_optimizer.learning_rate = 0.0
    model.fit(CLASSES.episodes(SPEC), steps_per_epoch=1, verbose=0)
    for one, other in zip(before, model.inner_model.get_weights()):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ["optimizer", "inner_optimizer"])
def test_what_does_not_decay_is_saved_and_compared(tmp_path, name):
    def model(excluded):
        optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
        if excluded:
            optimizer.exclude_from_weight_decay(var_names=["kernel"])
        return meta_model(**{name: optimizer})

    first = model(True)
    assert first.settings != model(False).settings
    first.save(tmp_path / "a.keras")
    loaded = keras.saving.load_model(tmp_path / "a.keras")
    assert loaded.settings == first.settings
    of_before = {**first.settings}
    of_before.pop(f"{name}, not decayed")
    if name == "optimizer":  # Which did so then, without a word of it.
        kr.settings.check_same(first.settings, of_before, "a.npz")
    else:
        with pytest.raises(ValueError, match="inner_optimizer, not decayed"):
            kr.settings.check_same(first.settings, of_before, "a.npz")
    stream = CLASSES.episodes(SPEC, meta_batch_size=3)
    for m in (first, loaded):
        m.fit(stream, steps_per_epoch=2, verbose=0)
    assert_same(all_values(first), all_values(loaded))


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"inner_weight_decay": "0.9"}, "factor.*'0.9'"),
        ({"jit_compile": 1}, "`jit_compile` must be.*Received: 1"),
        ({"tasks_per_chunk": True}, "`tasks_per_chunk` must be an integer"),
        ({"tasks_per_chunk": 2}, 'for task_execution="vectorized"'),
    ],
)
def test_arguments_of_compile_out_of_range_are_refused(settings, text):
    with pytest.raises(ValueError, match=text):
        meta_model(**settings)


def test_numbers_of_numpy_are_settings_as_others_are():
    first = meta_model(inner_weight_decay=np.float32(0.5))
    assert first.settings == meta_model(inner_weight_decay=0.5).settings


@pytest.mark.parametrize(
    "arguments",
    [
        (1.0, 0.0, 0),
        (1.0, 0.0, 1.5),
        (1.0, 0.0, True),
        (1.0, 0.0, np.nan),
        ("a", 0.0, 10),
        (1.0, np.nan, 10),
        (-1.0, 0.0, 10),
    ],
)
def test_schedules_out_of_range_are_refused(arguments):
    with pytest.raises(ValueError, match="must be an (integer|outer step)"):
        kr.schedules.linear(*arguments)


@pytest.mark.parametrize(
    "make", [kr.models.omniglot_cnn, kr.models.mini_imagenet_cnn]
)
def test_the_papers_networks_have_their_channels_last(make):
    expected = [v.shape for v in make(5).variables]
    keras.config.set_image_data_format("channels_first")
    try:
        received = [v.shape for v in make(5).variables]
    finally:
        keras.config.set_image_data_format("channels_last")
    assert received == expected
