"""Sine waves as episodes."""

import keras
import numpy as np
import pytest

import keras_reptile as kr

SPEC = kr.EpisodeSpec(
    ways=1, shots=50, queries=10, inner_steps=5, inner_batch_size=10
)


def test_a_task_is_one_wave_over_the_grid():
    (x, y), query, batches = kr.data.SineWaves().episode(SPEC)
    np.testing.assert_allclose(np.sort(x[:, 0]), np.linspace(-5, 5, 50), 1e-5)
    assert len(np.unique(query.x)) == 10
    assert sorted(np.ravel(batches)) == list(range(50))
    # y = a sin(b) cos(x) + a cos(b) sin(x), and so are the queries.
    basis = np.concatenate([np.cos(x), np.sin(x)], 1)
    (p, q), *_ = np.linalg.lstsq(basis, np.ravel(y), rcond=None)
    assert 0.1 <= np.hypot(p, q) <= 5
    for points in (kr.Examples(x, y), query):
        expected = p * np.cos(points.x) + q * np.sin(points.x)
        np.testing.assert_allclose(points.y, expected, atol=1e-5)


def test_waves_spread_as_the_paper_says():
    tasks = next(iter(kr.data.SineWaves().episodes(SPEC, 2_000)))
    values = np.asarray(tasks.support.y)
    # E[a**2] / 2, of a uniform over [0.1, 5]; 0.1 is three standard errors.
    mean_square = (5**3 - 0.1**3) / (3 * 4.9) / 2
    assert abs((values**2).mean() - mean_square) < 0.3
    assert abs(values.mean()) < 0.1
    amplitude = np.abs(values).max((1, 2))
    assert amplitude.min() < 0.2 and 4.9 < amplitude.max() <= 5


def test_points_drawn_independently_may_be_the_same():
    spec = kr.EpisodeSpec(ways=1, shots=10, queries=0)
    independent, distinct = (
        next(iter(kr.data.SineWaves(distinct=d).episodes(spec, 200))).support.x
        for d in (False, True)
    )
    counts = [len(np.unique(x)) for x in independent]
    # 50 * (1 - 0.98**10)
    assert abs(np.mean(counts) - 9.14) < 0.2
    assert all(len(np.unique(x)) == 10 for x in distinct)


def test_a_stream_starts_anywhere():
    waves = kr.data.SineWaves()
    third = list(waves.episodes(SPEC, 2, seed=1).take(3))[-1]
    started = next(iter(waves.episodes(SPEC, 2, seed=1, start=2)))
    resumed = next(iter(waves.episodes(SPEC, 2, seed=1).starting_at(2)))
    for task in (started, resumed):
        np.testing.assert_array_equal(third.support.y, task.support.y)
    np.testing.assert_array_equal(
        waves.episode(SPEC, 4, seed=1).support.y, third.support.y[0]
    )


def test_what_is_no_stream_of_waves_is_refused():
    waves = kr.data.SineWaves()
    with pytest.raises(ValueError, match="ways=2"):
        waves.episodes(kr.EpisodeSpec(ways=2, shots=1))
    with pytest.raises(ValueError, match="shots=51.*grid of 50"):
        waves.episode(kr.EpisodeSpec(ways=1, shots=51))
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        waves.episodes(SPEC, seed=-1)
    with pytest.raises(ValueError, match="points=1"):
        kr.data.SineWaves(points=1)


def test_waves_are_learned_and_resumed(tmp_path):
    def fitted(epochs, resume=False):
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(32, "tanh") for _ in range(2)]
        network = keras.Sequential(
            [keras.Input((1,)), *layers, keras.layers.Dense(1)]
        )
        model = kr.MetaModel(network)
        model.compile(
            optimizer=keras.optimizers.SGD(0.3),
            inner_optimizer=keras.optimizers.SGD(0.02),
            loss="mse",
            jit_compile=False,
            steps_per_execution=100,
        )
        trainer = kr.MetaTrainer(checkpoint_dir=tmp_path, resume=resume)
        stream = kr.data.SineWaves().episodes(SPEC)
        history = model.fit(
            stream,
            steps_per_epoch=500,
            epochs=epochs,
            callbacks=[trainer],
            verbose=0,
        )
        return network.get_weights(), history.history

    fitted(2)
    resumed, _ = fitted(6, resume=True)
    for path in tmp_path.glob("*.npz"):
        path.unlink()
    whole, history = fitted(6)
    assert history["inner_loss"][-1] < 0.8 * history["inner_loss"][0]
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("other", [{"points": 51}, {"distinct": False}])
def test_a_run_is_not_resumed_on_other_waves(other):
    from keras_reptile import settings

    streams = [
        settings.of_stream(kr.data.SineWaves(**given).episodes(SPEC))
        for given in ({}, other)
    ]
    with pytest.raises(ValueError, match=f"'{[*other][0]}' is"):
        settings.check_same(*streams, "a.npz")
    streams[1].pop([*other][0])  # As a checkpoint of before.
    settings.check_same(*streams, "a.npz")
