"""Several replicas: the weights, the logs and the scores of one device."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    LOSS,
    SPEC,
    all_values,
    assert_same,
    blobs,
    meta_model,
    mlp,
)

import keras_reptile as kr
from keras_reptile import distribution

CLASSES = blobs()
STREAM = {"spec": SPEC, "seed": 1}


def trained(tasks, stream=None, **settings):
    model = meta_model(**settings)
    stream = stream or CLASSES.episodes(meta_batch_size=tasks, **STREAM)
    history = model.fit(stream, steps_per_epoch=4, epochs=2, verbose=0)
    return model, history.history


def assert_close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, values in ours.items():
        np.testing.assert_allclose(values, theirs[name], rtol=1e-5, atol=1e-6)


ACCUMULATE = {"inner_state": "accumulate"}


# On four replicas: evenly, two left over, and one, and none, for some.
@pytest.mark.parametrize(
    "tasks, settings",
    [
        pytest.param(
            *(4, {"inner_state": "reset", "dropout": True}),
            marks=pytest.mark.slow,
        ),
        (6, {}),
        (5, {"dropout": True, "steps_per_execution": 2, **ACCUMULATE}),
        (3, {"jit_compile": True}),
        (2, {"steps_per_execution": 2}),
    ],
)
def test_four_replicas_equal_one_device(strategy, tasks, settings):
    alone, history = trained(tasks, **settings)
    with strategy.scope():
        shared, shared_history = trained(tasks, **settings)
    assert_same(all_values(alone), all_values(shared), exact=False)
    assert_close(history, shared_history)
    for variable in shared.inner_model.trainable_variables:
        copies = strategy.experimental_local_results(variable.value)
        for copy in copies[1:]:
            np.testing.assert_array_equal(copies[0], copy)


@pytest.mark.parametrize("inner_state", ["average", "accumulate"])
def test_slots_of_which_none_is_floating(strategy, inner_state):
    def of_counter_only():
        rate = keras.optimizers.schedules.ExponentialDecay(0.02, 5, 0.9)
        optimizer = keras.optimizers.SGD(rate)
        return trained(3, inner_state=inner_state, inner_optimizer=optimizer)[0]

    alone = of_counter_only()
    with strategy.scope():
        shared = of_counter_only()
    assert_same(all_values(alone), all_values(shared), exact=False)


def test_a_strategy_of_one_device(tmp_path):
    alone, history = trained(3, inner_state="carry")
    with tf.distribute.OneDeviceStrategy("CPU:0").scope():
        shared = meta_model(inner_state="carry")
        trainer = kr.MetaTrainer(
            CLASSES,
            kr.Protocol(ways=3, shots=2, inner_steps=3, num_episodes=6),
            checkpoint_dir=tmp_path,
        )
        shared_history = shared.fit(
            CLASSES.episodes(meta_batch_size=3, **STREAM),
            steps_per_epoch=4,
            epochs=2,
            callbacks=[trainer],
            verbose=0,
        ).history
    assert_same(all_values(alone), all_values(shared))
    assert_close(history, {key: shared_history[key] for key in history})
    assert trainer.best_accuracy > 0.3


def test_uncompiled(strategy):
    alone, _ = trained(3, run_eagerly=True)
    with strategy.scope():
        shared, _ = trained(3, run_eagerly=True)
    assert_same(all_values(alone), all_values(shared), exact=False)


@pytest.mark.parametrize(
    "policy, rtol", [("float64", 1e-12), ("bfloat16", 2e-2)]
)
def test_models_of_another_precision(strategy, policy, rtol):
    def trained():
        keras.utils.set_random_seed(0)
        layers = [
            keras.layers.Dense(8, activation="tanh", dtype=policy),
            keras.layers.Dense(3, dtype=policy),
        ]
        model = kr.MetaModel(keras.Sequential([keras.Input((4,)), *layers]))
        model.compile(
            optimizer=keras.optimizers.SGD(0.5),
            inner_optimizer=keras.optimizers.Adam(0.02, beta_1=0.0),
            loss=LOSS,
            jit_compile=False,
        )
        stream = CLASSES.episodes(meta_batch_size=5, **STREAM)
        model.fit(stream, steps_per_epoch=4, verbose=0)
        return all_values(model)

    alone = trained()
    with strategy.scope():
        shared = trained()
    for name, value in alone.items():
        np.testing.assert_allclose(shared[name], value, rtol, rtol / 10)


def test_a_dataset_of_ones_own(strategy):
    def tasks():
        # Without what `fit` knows of the library's own streams.
        return CLASSES.episodes(meta_batch_size=3, **STREAM).prefetch(1)

    alone, _ = trained(3, tasks())
    with strategy.scope():
        shared, _ = trained(3, tasks())
    assert_same(all_values(alone), all_values(shared), exact=False)


def test_a_dataset_that_ends_without_queries(strategy):
    def losses():
        spec = dataclasses.replace(STREAM["spec"], queries=0)
        ending = CLASSES.episodes(spec, meta_batch_size=3).take(2)
        return meta_model().evaluate(ending, return_dict=True, verbose=0)

    alone = losses()
    assert set(alone) == {"inner_loss", "inner/nonfinite_tasks"}
    with strategy.scope():
        shared = losses()
    np.testing.assert_allclose(shared["inner_loss"], alone["inner_loss"], 1e-5)


def test_an_outer_optimizer_with_a_state(strategy):
    def optimizer():
        return keras.optimizers.Adam(1e-2, clipnorm=1.0, weight_decay=1e-3)

    alone, _ = trained(3, optimizer=optimizer())
    with strategy.scope():
        shared, _ = trained(3, optimizer=optimizer())
    assert_same(all_values(alone), all_values(shared), exact=False)


def test_every_replica_draws_only_its_own_tasks():
    stream = CLASSES.episodes(meta_batch_size=5, **STREAM)
    drawn = [
        [tasks.support.x.numpy() for tasks in part.take(4)]
        for part in (
            stream.of_positions(
                distribution.positions_of_worker(5, 4, worker, 2)
            )
            for worker in range(2)
        )
    ]
    # Two replicas of each worker, by turns; two steps.
    for step, tasks in enumerate(stream.take(2)):
        whole = tasks.support.x.numpy()
        parts = [drawn[w][2 * step + r] for w in (0, 1) for r in (0, 1)]
        expected = [whole[0:2], whole[2:4], whole[[4, 4]], whole[[4, 4]]]
        np.testing.assert_array_equal(parts, expected)


@pytest.mark.parametrize(
    "episodes", [pytest.param(50, marks=pytest.mark.slow), 7]
)
def test_scores_are_those_of_one_device(strategy, episodes):
    protocol = kr.Protocol(
        ways=3, shots=2, inner_steps=3, num_episodes=episodes, seed=4
    )
    alone = kr.evaluate(meta_model(dropout=True), CLASSES, protocol)
    with strategy.scope():
        model = meta_model(dropout=True)
    shared = kr.evaluate(model, CLASSES, protocol)
    for mode in alone:
        np.testing.assert_array_equal(
            alone[mode].per_episode, shared[mode].per_episode
        )
        assert alone[mode].mean_before == shared[mode].mean_before


def test_evaluate_and_validation_data(strategy):
    held_out = CLASSES.episodes(meta_batch_size=3, spec=SPEC, seed=9).take(4)

    def run():
        model = meta_model()
        stream = CLASSES.episodes(meta_batch_size=2, **STREAM)
        history = model.fit(
            stream, steps_per_epoch=2, validation_data=held_out, verbose=0
        ).history
        assert {"val_loss", "val_accuracy"} <= history.keys()
        return history, model.evaluate(held_out, return_dict=True, verbose=0)

    alone, evaluated = run()
    with strategy.scope():
        shared, evaluated_shared = run()
    assert_close(alone, shared)
    assert_close(evaluated, evaluated_shared)


@pytest.mark.slow
def test_a_checkpoint_of_four_replicas_goes_on_on_one(strategy, tmp_path):
    def run(epochs, resume):
        model = meta_model(dropout=True)
        model.fit(
            CLASSES.episodes(meta_batch_size=5, **STREAM),
            steps_per_epoch=2,
            epochs=epochs,
            callbacks=[kr.MetaTrainer(checkpoint_dir=folder, resume=resume)],
            verbose=0,
        )
        return model

    whole, folder = None, tmp_path / "whole"
    whole = run(2, False)
    folder = tmp_path / "four_then_one"
    with strategy.scope():
        run(1, False)
    assert_same(all_values(whole), all_values(run(2, True)), exact=False)
    folder = tmp_path / "one_then_four"
    run(1, False)
    with strategy.scope():
        resumed = run(2, True)
    assert_same(all_values(whole), all_values(resumed), exact=False)


def test_what_cannot_be_shared_is_refused(strategy):
    with strategy.scope(), pytest.raises(ValueError, match="4 replicas.*aver"):
        meta_model(inner_state="carry")
    outside = mlp()
    with strategy.scope(), pytest.raises(ValueError, match="with strategy.sco"):
        kr.MetaModel(outside).compile(loss="mse")
    optimizer = keras.optimizers.SGD()
    with strategy.scope(), pytest.raises(ValueError, match="SGD made outside"):
        meta_model(optimizer=optimizer)


@pytest.mark.parametrize("name", ["ParameterServerV2", "CentralStorage"])
def test_other_strategies_are_refused(name):
    # By its name, as making one needs a cluster.
    strategy = type(f"{name}Strategy", (), {})()
    with pytest.raises(ValueError, match=f"{name}Strategy, which is not"):
        distribution.check_strategy(strategy, mlp(), "average")


def test_keras_own_train_function_fails_where_ours_is_needed(strategy):
    """When this fails, `keras_under_strategies.make_function` is needless."""
    with strategy.scope():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        model.compile(loss="mse", steps_per_execution=2)
    data = tf.data.Dataset.from_tensors((tf.zeros((4, 4)), tf.zeros((4, 1))))
    with pytest.raises(tf.errors.InvalidArgumentError, match="placeholder"):
        model.fit(data.repeat(), steps_per_epoch=4, shuffle=False, verbose=0)


def test_what_several_replicas_must_know_of_a_dataset(strategy):
    stream = CLASSES.episodes(meta_batch_size=2, **STREAM)
    unknown = stream.take(4).filter(lambda *_: True)
    with strategy.scope():
        model = meta_model(steps_per_execution=2)
    with pytest.raises(ValueError, match="steps_per_epoch=None.*not known"):
        model.fit(unknown, verbose=0)
    with pytest.raises(ValueError, match="validation_steps=3.*multiple of"):
        model.fit(stream, steps_per_epoch=2, validation_data=stream.take(3))
    with pytest.raises(ValueError, match="8 meta-batches.*a dataset of 7"):
        model.fit(stream.take(7), steps_per_epoch=4, epochs=2, verbose=0)
    with pytest.raises(ValueError, match="4 meta-batches.*a dataset of 3"):
        model.evaluate(stream.take(3), steps=4, verbose=0)


def test_a_metric_without_weights_would_count_what_fills_up(strategy):
    class Count(keras.metrics.Mean):
        def update_state(self, y_true, y_pred):
            return super().update_state(y_true)

    with strategy.scope(), pytest.raises(ValueError, match="'count'"):
        meta_model(metrics=[Count(name="count")])


def test_keras_still_has_what_is_replaced(strategy):
    """Under another name, ours would be called by nobody."""
    with strategy.scope():
        model = meta_model()
    for name in ("_make_function", "_maybe_symbolic_build"):
        assert callable(getattr(keras.Model, name))
    assert callable(type(model.optimizer)._all_reduce_sum_gradients)
    assert model.optimizer._distribution_strategy is strategy
