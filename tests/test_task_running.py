"""Tasks side by side, one after another, in parts or vectorized: the same."""

import functools

import keras
import numpy as np
import pytest
from conftest import all_values, assert_same, meta_model
from trained_model import trained

import keras_reptile as kr
from keras_reptile import lanes, task_running


@functools.cache
def plainly_trained(**settings):
    return all_values(trained(**settings))


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
    [
        ("average", True),
        ("accumulate", False),
        pytest.param("reset", False, marks=pytest.mark.slow),
    ],
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
        ("accumulate", None),
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
