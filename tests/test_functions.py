"""Tasks of a regression that a function of one's own draws."""

import dataclasses
import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import all_values, assert_same, messages

import keras_reptile as kr
from keras_reptile.descriptions import code_of
from keras_reptile.settings import CODE, check_same, of_stream

SPEC = kr.EpisodeSpec(ways=1, shots=6, queries=4, inner_steps=3)


def curve(rng, count):
    """The example of the README."""
    x = rng.uniform(-1, 1, (count, 1))
    return x, np.sin(rng.uniform(1, 4) * x)


CURVES = kr.data.from_function(curve)


def meta_model(**settings):
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(9, "tanh"),
            keras.layers.Dense(1),
        ]
    )
    model = kr.MetaModel(network)
    arguments = {"loss": "mse", "jit_compile": False, **settings}
    model.compile(keras.optimizers.SGD(0.5), **arguments)
    return model


def test_a_task_has_what_the_function_draws():
    task = CURVES.episode(SPEC, number=5, seed=2)
    x, y = curve(np.random.default_rng([2, 0, 5, 0]), 10)
    for part, rows in ((task.support, slice(6)), (task.query, slice(6, 10))):
        np.testing.assert_array_equal(part.x, x[rows].astype("float32"))
        np.testing.assert_array_equal(part.y, y[rows].astype("float32"))
    assert task.batches.shape == (3, 6)


def test_a_stream_starts_anywhere_and_does_not_repeat_itself():
    tasks = list(CURVES.episodes(SPEC, 2, seed=1).take(3))
    for stream in (
        CURVES.episodes(SPEC, 2, seed=1, start=2),
        CURVES.episodes(SPEC, 2, seed=1).starting_at(2),
    ):
        tf.nest.map_structure(
            np.testing.assert_array_equal, tasks[2], next(iter(stream))
        )
    one = CURVES.episode(SPEC, 3, seed=1)
    np.testing.assert_array_equal(one.support.y, tasks[1].support.y[1])
    np.testing.assert_array_equal(one.batches, tasks[1].batches[1])
    firsts = {float(task.support.x[i, 0, 0]) for task in tasks for i in (0, 1)}
    other = CURVES.episode(SPEC, 3, seed=2)
    assert len(firsts | {float(other.support.x[0, 0])}) == 7


def test_curves_are_learned():
    held_out = CURVES.episodes(SPEC, 4, seed=1)
    model = meta_model(
        inner_optimizer=keras.optimizers.SGD(0.1), metrics=["mae"]
    )

    def loss():
        logs = model.evaluate(held_out, steps=25, return_dict=True, verbose=0)
        return logs["loss"]

    before = loss()
    history = model.fit(
        CURVES.episodes(SPEC, 4),
        steps_per_epoch=150,
        epochs=2,
        validation_data=held_out,
        validation_steps=25,
        callbacks=[keras.callbacks.EarlyStopping("val_mae", patience=9)],
        verbose=0,
    )
    assert loss() < 0.5 * before
    assert {"mae", "val_mae"} < set(history.history)
    np.testing.assert_allclose(history.history["val_loss"][-1], loss(), 1e-6)


def test_a_run_is_resumed_exactly(tmp_path):
    def run(epochs, folder, curves=CURVES):
        trainer = kr.MetaTrainer(checkpoint_dir=folder, resume=True)
        model = meta_model()
        model.fit(
            curves.episodes(SPEC, 2),
            steps_per_epoch=4,
            epochs=epochs,
            callbacks=[trainer],
            verbose=0,
        )
        return all_values(model)

    whole = run(3, tmp_path / "whole")
    run(2, tmp_path / "parts")
    assert_same(run(3, tmp_path / "parts"), whole)

    def other(rng, count):
        return curve(rng, count)

    with pytest.raises(ValueError, match="'tasks drawn by' is other here"):
        run(4, tmp_path / "parts", kr.data.from_function(other))


SCALES = np.arange(1.0, 5.0)
calls = 0


def scaled(x):
    return SCALES[0] * x


def measured(rng, count):
    global calls
    calls += 1
    x = rng.uniform(-1, 1, (count, 1))
    return x, scaled(x)


def test_an_edited_function_is_another(monkeypatch):
    """Of one name, as after an edit between two starts."""

    def code():
        stream = kr.data.from_function(measured).episodes(SPEC)
        return stream.arguments[CODE]

    before = code()
    assert calls and code() == before
    monkeypatch.setitem(globals(), "SCALES", SCALES + 1)
    assert code() != before
    monkeypatch.undo()
    assert code() == before
    now = of_stream(kr.data.from_function(measured).episodes(SPEC))
    monkeypatch.setitem(globals(), "scaled", lambda x: SCALES[0] + x)
    assert code() != before
    later = of_stream(kr.data.from_function(measured).episodes(SPEC))
    with pytest.raises(ValueError, match="code and data of what draws tasks"):
        check_same(later, now, "a.npz")
    del now[CODE]  # As in checkpoints of before.
    check_same(later, now, "a.npz")


CACHE = {}


def remembering(rng, count):
    """What it keeps of itself, and where its file is, is no setting."""
    assert __file__
    if count not in CACHE:
        CACHE[count] = np.linspace(-1, 1, count)[:, None]
    return CACHE[count], rng.uniform() * CACHE[count]


def test_what_a_function_keeps_is_no_setting():
    before = code_of(remembering)
    remembering(np.random.default_rng(0), 3)
    assert CACHE and code_of(remembering) == before == [before[0], {}]


class Compiled:
    """As of a compiler of functions, which has code and no module."""

    __code__ = measured.__code__

    def __call__(self, rng, count):
        return measured(rng, count)


@pytest.mark.parametrize(
    "draw",
    [
        functools.partial(measured),
        np.random.Generator.normal,
        print,
        Compiled(),
    ],
)
def test_every_callable_has_some_code_or_none(draw):
    assert isinstance(code_of(draw), list)


def test_errors_of_nothing_are_no_best_ones(log):
    model = meta_model(
        inner_optimizer=keras.optimizers.SGD(1e9), metrics=["mae", "r2_score"]
    )
    spec = dataclasses.replace(SPEC, inner_steps=40)
    stream = CURVES.episodes(spec, 2)
    logs = model.evaluate(stream, steps=2, return_dict=True, verbose=0)
    assert model.evaluate(stream, steps=2, verbose=0)[-1] == 4
    assert logs.pop("inner/nonfinite_tasks") == 4
    assert len(logs) == 4 and np.isnan(list(logs.values())).all()
    assert "The inner loops of 4 tasks" in messages(log)
    history = model.fit(
        stream,
        steps_per_epoch=1,
        validation_data=CURVES.episodes(spec, 2, seed=1),
        validation_steps=1,
        verbose=0,
    ).history
    assert np.isnan([history["mae"][0], history["val_mae"][0]]).all()


def test_validation_on_the_tasks_of_training_is_said(log):
    for seed in (0, 1):
        log.clear()
        meta_model().fit(
            CURVES.episodes(SPEC, 2),
            steps_per_epoch=1,
            validation_data=CURVES.episodes(SPEC, 1, seed=seed),
            validation_steps=1,
            verbose=0,
        )
        said = "of the tasks that are trained on" in messages(log)
        assert said == (seed == 0)


@pytest.mark.parametrize(
    "drawn, text",
    [
        (lambda x: x, "tuple.*Received: ndarray"),
        (lambda x: (x, x[1:]), r"`y` of shape \(9, 1\)"),
        (lambda x: (x, x[0, 0]), r"`y` of shape \(\)"),
        (lambda x: (x.astype(str), x), "`x` of shape.*dtype <U"),
        (lambda x: (x / 0, x), "NaN or infinity in `x`"),
        (lambda x: (x, x * 1e39), "NaN or infinity in `y`"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_what_is_no_examples_is_refused(drawn, text):
    tasks = kr.data.from_function(
        lambda rng, count: drawn(rng.uniform(1, 2, (count, 1)))
    )
    with pytest.raises(ValueError, match=text):
        tasks.episodes(SPEC)
    with pytest.raises(ValueError, match=text):
        tasks.episode(SPEC)


def later(wrong):
    """A function that draws another thing from the second task on."""
    first = np.random.default_rng([0, 0, 0, 0]).uniform(-1, 1)

    def draw(rng, count):
        x, y = curve(rng, count)
        return (x, y) if x[0, 0] == first else wrong(x, y)

    return kr.data.from_function(draw)


def fails(x, y):
    raise RuntimeError("the sensor was off >> on")


@pytest.mark.parametrize(
    "wrong, text",
    [
        (fails, "Task [1-9] of seed 0.*RuntimeError: the sensor was off"),
        (lambda x, y: (x, y * np.nan), "Task [1-9] of.*NaN or infinity in `y`"),
        (lambda x, y: (x, y[:, 0]), r"one shape.*\(10,\).*\(10, 1\)\] before"),
    ],
)
def test_what_goes_wrong_later_is_said_in_our_words(wrong, text):
    tasks = later(wrong)
    one, four = (tasks.episodes(SPEC, size) for size in (1, 4))
    watched = [kr.MetaTrainer(gradient_agreement=True)]
    model = meta_model()
    for call in (
        lambda: model.fit(one, steps_per_epoch=9, verbose=0),
        lambda: model.evaluate(one, steps=9, verbose=0),
        lambda: model.fit(four, steps_per_epoch=9, verbose=0),
        lambda: model.evaluate(four, steps=9, verbose=0),
        lambda: model.fit(one, steps_per_epoch=1, callbacks=watched),
        lambda: kr.analysis.gradient_agreement(model.learner, four),
    ):
        with pytest.raises(ValueError, match=text) as error:
            call()
        assert "node" not in str(error.value)
        assert "keras_reptile" not in str(error.value)


def test_one_array_may_be_used_again():
    array = np.zeros((2, 2_000, 1), "float32")

    def draw(rng, count):
        array[:] = rng.uniform(size=array.shape)
        return array[0], array[1]

    tasks = kr.data.from_function(draw)
    spec = kr.EpisodeSpec(ways=1, shots=1_000, queries=1_000, inner_steps=1)
    twice = [list(tasks.episodes(spec, 8).take(20)) for _ in range(2)]
    tf.nest.map_structure(np.testing.assert_array_equal, *twice)


def test_chance_of_another_source_is_refused():
    tasks = kr.data.from_function(
        lambda rng, count: (np.random.rand(count, 1), np.zeros(count))
    )
    with pytest.raises(ValueError, match="two tasks for one.*`rng`"):
        tasks.episodes(SPEC)


def test_no_two_tasks_have_the_same_words():
    seeds = (0, 1, 2**32, 2**32 + 1, 2**62)
    firsts = [
        float(CURVES.episode(SPEC, number, seed).support.x[0, 0])
        for number in (0, 1, 2**32)
        for seed in seeds
    ]
    assert len(set(firsts)) == 15


def settings_of(draw):
    return kr.data.from_function(draw).episodes(SPEC).arguments


def test_a_function_is_told_by_what_it_is_made_of():
    class Waves:
        def __init__(self, amplitude):
            self.amplitude = amplitude

        def draw(self, rng, count):
            x, y = curve(rng, count)
            return x, self.amplitude * y

        __call__ = draw

    for of in (lambda a: Waves(a).draw, Waves):
        assert settings_of(of(1.0)) == settings_of(of(1.0))
        assert settings_of(of(1.0)) != settings_of(of(2.0))

    def recorded(factor):
        curves = [factor * np.ones(100) * i for i in range(2_000)]
        return lambda rng, count: (
            np.zeros(count),
            curves[rng.integers(2_000)][:count],
        )

    one, other = settings_of(recorded(1.0)), settings_of(recorded(2.0))
    assert one != other
    assert len(str(one)) < 1_000


def test_what_is_no_function_or_has_classes_is_refused():
    with pytest.raises(ValueError, match=r"function \(rng, count\).*array"):
        kr.data.from_function(np.zeros(3))
    spec = kr.EpisodeSpec(ways=2, shots=1)
    for draw in (CURVES.episodes, CURVES.episode):
        with pytest.raises(ValueError, match="ways=2"):
            draw(spec)
    with pytest.raises(ValueError, match="`seed` must be"):
        CURVES.episodes(SPEC, seed=-1)


class Several(keras.metrics.Metric):
    """Keras logs what is in a dict by its own names, after all others."""

    def __init__(self):
        super().__init__(name="several")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.count.assign_add(1.0)

    def result(self):
        return {"z": self.count.value * tf.ones(2)}


def test_a_metric_may_have_several_results(log):
    model = meta_model(metrics=[Several()])
    stream = CURVES.episodes(SPEC, 2)
    logs = model.evaluate(stream, steps=2, return_dict=True, verbose=0)
    np.testing.assert_array_equal(logs["z"], [4, 4])
    assert len(model.evaluate(stream, steps=2, verbose=0)) == 4
    assert "inner loops" not in messages(log)
    model = meta_model(inner_optimizer=keras.optimizers.SGD(1e9))
    spec = dataclasses.replace(SPEC, inner_steps=40, queries=0)
    model.evaluate(CURVES.episodes(spec, 2), steps=1, verbose=0)
    assert "The inner loops of 2 tasks" in messages(log)
