"""Few-shot evaluation: its two modes, its figures, its lack of a trace."""

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
    messages,
    meta_model,
    mlp,
)

import keras_reptile as kr
from keras_reptile import evaluation

TRAIN, HELD_OUT = blobs(seed=0), blobs(seed=1)
PROTOCOL = kr.Protocol(
    ways=3, shots=3, queries=2, inner_steps=5, num_episodes=25
)


def trained(**settings):
    model = meta_model(**settings)
    model.fit(TRAIN.episodes(SPEC, 3), steps_per_epoch=60, verbose=0)
    return model


def test_scores_and_no_trace():
    model = trained()
    before = all_values(model)
    scores = kr.evaluate(model, HELD_OUT, PROTOCOL)
    assert list(scores) == ["inductive", "transductive"]
    for score in scores.values():
        assert score.num_episodes == len(score.per_episode) == 25
        assert score.mean > 0.8 > score.mean_before
        assert score.mean == pytest.approx(score.per_episode.mean())
        assert score.ci95 == pytest.approx(
            1.96 * score.per_episode.std(ddof=1) / 5
        )
    assert_same(before, all_values(model))


def by_hand(model, mode):
    """One episode after another with a plain in-place copy of everything."""
    accuracies = []
    network = keras.models.clone_model(model.inner_model)
    optimizer = keras.optimizers.Adam(0.02, beta_1=0.0)
    optimizer.build(network.trainable_variables)
    network.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    stream = HELD_OUT.stream(PROTOCOL.spec, 1, seed=-1 - PROTOCOL.seed)
    for tasks in stream.take(PROTOCOL.num_episodes):
        task = tf.nest.map_structure(lambda t: t[0], tasks)
        network.set_weights(model.inner_model.get_weights())
        for own, trained in zip(
            optimizer.variables, model.inner_optimizer.variables
        ):
            own.assign(trained)
        for rows in task.batches:
            network.train_on_batch(
                tf.gather(task.support.x, rows), tf.gather(task.support.y, rows)
            )
        if mode == "transductive":
            outputs = network(task.query.x, training=True)
        else:
            outputs = [
                network(tf.concat([task.support.x, x[None]], 0), training=True)
                for x in task.query.x
            ]
            outputs = tf.stack([o[-1] for o in outputs])
        hits = np.argmax(outputs, -1) == task.query.y
        accuracies.append(np.mean(hits))
    return accuracies


@pytest.mark.parametrize("mode", kr.protocol.MODES)
def test_accuracies_are_those_of_plain_keras(mode):
    model = trained(inner_state="carry")
    scores = kr.evaluate(model, HELD_OUT, PROTOCOL)
    expected = by_hand(model, mode)
    # Two logits as close as rounding may change places, rarely.
    assert np.sum(np.abs(scores[mode].per_episode - expected) > 1e-6) <= 1


def episode_and_state(model):
    task = HELD_OUT.episode(PROTOCOL.spec, number=2)
    return task, model.learner.adapt(model.initial_state(), task)


def test_an_inductive_prediction_does_not_depend_on_the_other_queries():
    model = trained()
    task, adapted = episode_and_state(model)
    other = kr.Examples(
        tf.concat([task.query.x[:1], 9 - 3 * task.query.x[1:]], 0), None
    )
    for mode, same in (("inductive", True), ("transductive", False)):
        predict = getattr(evaluation, f"predict_{mode}")
        one = predict(model.learner, adapted, task)[0]
        two = predict(model.learner, adapted, task._replace(query=other))[0]
        assert np.array_equal(one, two) is same


def test_the_same_seed_gives_the_same_figures():
    model = trained()
    first = kr.evaluate(model, HELD_OUT, PROTOCOL)
    second = kr.evaluate(model, HELD_OUT, PROTOCOL)
    for mode in first:
        np.testing.assert_array_equal(
            first[mode].per_episode, second[mode].per_episode
        )


def test_episodes_are_not_those_of_training():
    stream = TRAIN.episodes(PROTOCOL.spec, seed=0)
    training = next(iter(stream)).support.x[0]
    model, seen = meta_model(), []
    adapt = model.learner.adapt

    def spy(state, task):
        seen.append(task.support.x)
        return adapt(state, task)

    model.learner.adapt = spy
    model.run_eagerly = True
    kr.evaluate(model, TRAIN, PROTOCOL)
    assert seen and not any(np.array_equal(training, x) for x in seen)


def test_evaluation_inherits_the_trained_slots():
    model = trained()
    inherited = kr.evaluate(model, HELD_OUT, PROTOCOL)["inductive"]
    for variable, value in zip(
        model.inner_optimizer.variables, model.learner.fresh_slots
    ):
        variable.assign(value)
    fresh = kr.evaluate(model, HELD_OUT, PROTOCOL)["inductive"]
    assert (inherited.per_episode != fresh.per_episode).any()


def test_one_mode_may_be_asked_for():
    protocol = kr.Protocol(
        ways=3, shots=1, inner_steps=1, num_episodes=2, modes="inductive"
    )
    assert list(kr.evaluate(meta_model(), HELD_OUT, protocol)) == ["inductive"]


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"modes": ("both",)}, "`modes` must be some of"),
        ({"modes": None}, "`modes` must be some of.*None"),
        ({"modes": [["inductive"]]}, "`modes` must be some of"),
        ({"ways": 1}, "With one class every answer is right"),
        ({"num_episodes": 1}, "at least two episodes"),
        ({"queries": 0}, "at least one query example"),
        ({"inner_steps": 0}, "`inner_steps`"),
        ({"inner_batch_size": 10}, "must not be larger"),
    ],
)
def test_protocols_out_of_range_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        kr.Protocol(**{"ways": 3, "shots": 3, **changes})


@pytest.mark.parametrize(
    "protocol, text",
    [
        (kr.Protocol(ways=4, shots=1), "width 3, and ways=4"),
        (kr.Protocol(ways=3, shots=6), "shots=6, queries=1.* has 6"),
    ],
)
def test_classes_that_cannot_give_such_episodes_are_refused(protocol, text):
    with pytest.raises(ValueError, match=text):
        kr.evaluate(meta_model(), HELD_OUT, protocol)


def test_examples_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"input shape \(4,\)"):
        kr.evaluate(meta_model(), blobs(size=5), PROTOCOL)


def diverging(rate):
    model = kr.MetaModel(mlp())
    model.compile(inner_optimizer=keras.optimizers.SGD(rate), loss=LOSS)
    return model


def test_what_diverges_is_wrong_and_said(log):
    scores = kr.evaluate(diverging(1e30), HELD_OUT, PROTOCOL)
    for score in scores.values():
        assert score.mean == 0.0
        assert score.mean_before > 0.0
    assert "25 of 25 episodes ended in NaN" in messages(log)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_outputs_that_hide_it_are_wrong_too(log, jit_compile):
    """As TensorFlow's fused ReLU does, under a head that is not adapted."""
    x = keras.Input((4,))
    hidden = keras.ops.nan_to_num(keras.layers.Dense(8)(x), 0.0, 0.0, 0.0)
    network = keras.Model(x, keras.layers.Dense(3)(hidden))
    model = kr.MetaModel(network)
    model.compile(
        inner_optimizer=keras.optimizers.SGD(3e38),
        loss=LOSS,
        inner_reduction="sum",
        inner_variables="body",
        jit_compile=jit_compile,
    )
    scores = kr.evaluate(model, HELD_OUT, PROTOCOL)
    assert [score.mean for score in scores.values()] == [0.0, 0.0]
    assert "25 of 25 episodes ended in NaN" in messages(log)


def test_what_does_not_diverge_is_not_said(log):
    kr.evaluate(diverging(0.1), HELD_OUT, PROTOCOL)
    assert "NaN" not in messages(log)


@pytest.mark.parametrize(
    ("classes", "protocol", "text"),
    [
        (kr.data.Splits(TRAIN, None, HELD_OUT), PROTOCOL, r"`\.test`.*Splits"),
        (None, PROTOCOL, "ClassDataset.*NoneType"),
        (HELD_OUT.episodes(PROTOCOL.spec), PROTOCOL, "from a ClassDataset"),
        (HELD_OUT, PROTOCOL.spec, "kr.Protocol.*EpisodeSpec"),
    ],
    ids=["splits", "none", "a stream", "a spec"],
)
def test_what_is_no_classes_or_protocol_is_refused(classes, protocol, text):
    with pytest.raises(ValueError, match=text):
        kr.evaluate(meta_model(), classes, protocol)
    if classes is not None:
        with pytest.raises(ValueError, match=text):
            kr.MetaTrainer(classes, protocol)


def test_numbers_of_numpy_without_a_sign():
    protocol = kr.Protocol(
        ways=3, shots=1, inner_steps=1, num_episodes=np.uint32(3)
    )
    scores = kr.evaluate(meta_model(), HELD_OUT, protocol)
    assert scores["inductive"].num_episodes == 3
