"""Episodes: their shape, their distinctness, their reproducibility."""

import numpy as np
import pytest
import tensorflow as tf
from conftest import blobs

import keras_reptile as kr
from keras_reptile import random_keys
from keras_reptile.episodes import draw_batches, draw_indices

draw_quickly = tf.function(draw_indices, autograph=False)
KEY = tf.constant([1, 2], tf.int64)


def spec(**changes):
    settings = {"ways": 5, "shots": 4, "queries": 3, "inner_steps": 6}
    return kr.EpisodeSpec(**{**settings, "inner_batch_size": 8, **changes})


@pytest.mark.parametrize("number", range(20))
def test_classes_and_examples_are_distinct_and_in_range(number):
    counts = np.array([7, 9, 30, 7, 8, 12, 7])
    drawn = draw_indices(counts, spec(), seed=3, episode=number)
    classes, examples = drawn.classes.numpy(), drawn.examples.numpy()
    assert len(set(classes)) == 5
    for index, row in zip(classes, examples):
        assert len(set(row)) == 7
        assert row.min() >= 0 and row.max() < counts[index]


def draw_600():
    counts, shape = tf.fill([10], 8), spec()
    numbers = tf.range(600, dtype=tf.int64)
    return [draw_quickly(counts, shape, 0, n) for n in numbers]


def test_every_class_and_example_is_drawn_equally_often():
    drawn = draw_600()
    classes = np.concatenate([d.classes for d in drawn])
    examples = np.concatenate([np.ravel(d.examples) for d in drawn])
    # Binomial deviations of more than five sigma do not happen.
    np.testing.assert_allclose(np.bincount(classes), 300, atol=5 * 150**0.5)
    expected = len(examples) / 8
    np.testing.assert_allclose(
        np.bincount(examples), expected, atol=5 * expected**0.5
    )


def test_label_says_nothing_of_the_class():
    drawn = draw_600()
    first = np.bincount([int(d.classes[0]) for d in drawn], minlength=10)
    np.testing.assert_allclose(first, 60, atol=5 * 60**0.5)


def test_cycling_batches_are_epochs_laid_end_to_end():
    stream = draw_batches(spec(inner_steps=5, inner_batch_size=8), KEY)
    stream = stream.numpy().ravel()  # Two epochs of 20 rows.
    for epoch in (stream[:20], stream[20:40]):
        assert sorted(epoch) == list(range(20))
    assert (stream[:20] != stream[20:]).any()


def test_cycling_batches_may_straddle_epochs():
    # 5 examples in batches of 3: the second takes 2 of one epoch, 1 of the
    # next, as the original's does.
    narrow = spec(ways=5, shots=1, inner_steps=5, inner_batch_size=3)
    stream = draw_batches(narrow, KEY).numpy().ravel()
    for start in (0, 5, 10):
        assert sorted(stream[start : start + 5]) == list(range(5))


def test_independent_batches_repeat_between_but_not_within():
    independent = spec(replacement=True, inner_steps=40)
    batches = draw_batches(independent, KEY).numpy()
    assert batches.shape == (40, 8)
    assert all(len(set(row)) == 8 for row in batches)
    first_epoch = batches.ravel()[:20]
    assert len(set(first_epoch)) < 20  # As an epoch would not.


def test_larger_batches_than_the_task_only_where_asked_for():
    small = {"ways": 5, "shots": 1, "inner_batch_size": 12}
    for replacement in (False, True):
        with pytest.raises(ValueError, match="replacement=" + str(replacement)):
            spec(**small, replacement=replacement)
    allowed = spec(**small, inner_steps=5, repeat_within_batch=True)
    stream = draw_batches(allowed, KEY).numpy().ravel()
    np.testing.assert_array_equal(np.bincount(stream), 12)


def test_no_batch_size_is_the_whole_support_set():
    batches = draw_batches(spec(inner_batch_size=None), KEY).numpy()
    assert batches.shape == (6, 20)
    assert all(sorted(row) == list(range(20)) for row in batches)


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"ways": 0}, "`ways`.*at least 1.*ways=0"),
        ({"shots": 1.5}, "`shots`.*integer.*1.5"),
        ({"queries": -1}, "`queries`.*at least 0"),
        ({"inner_steps": 0}, "`inner_steps`.*at least 1.*tail.*on top of"),
        ({"shots": 0}, "`shots`.*at least 1.*tail's shots are `queries`"),
        ({"inner_batch_size": 0}, "`inner_batch_size`.*at least 1"),
        ({"ways": True}, "`ways`.*integer"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        spec(**changes)


def first(dataset, number):
    return [tf.nest.map_structure(np.asarray, e) for e in dataset.take(number)]


def assert_equal(one, other):
    tf.nest.map_structure(np.testing.assert_array_equal, one, other)


def test_a_stream_starts_anywhere():
    classes = blobs(examples=8)
    whole = first(classes.episodes(spec(), 2, seed=5), 6)
    assert_equal(
        first(classes.episodes(spec(), 2, seed=5, start=4), 2), whole[4:]
    )
    stream = classes.episodes(spec(), 2, seed=5)
    assert_equal(first(stream.starting_at(3), 3), whole[3:])


def test_a_stream_leaves_no_thread_to_wait_for():
    """tf.data's tuning sleeps for a minute, and `fit` for the rest of it."""
    stream = blobs(8, 7).episodes(spec(), 2)
    later = stream.starting_at(3)
    some = stream.of_positions(np.array([[0, 1]]))
    for dataset in (stream, later, some, stream.take(2)):
        assert dataset.options().autotune.enabled is False


def test_episodes_do_not_depend_on_the_meta_batch_size():
    classes = blobs(examples=8)
    by_two = first(classes.episodes(spec(), 2, seed=5), 3)
    by_three = first(classes.episodes(spec(), 3, seed=5), 2)
    for field in range(5):
        np.testing.assert_array_equal(
            np.concatenate([tf.nest.flatten(e)[field] for e in by_two]),
            np.concatenate([tf.nest.flatten(e)[field] for e in by_three]),
        )


def test_other_seeds_give_other_episodes():
    classes = blobs(examples=8)
    one, other = (first(classes.episodes(spec(), 1, s), 1)[0] for s in (0, 1))
    assert (one.support.x != other.support.x).any()


def test_support_and_query_are_disjoint_and_labelled():
    x = np.arange(8 * 9, dtype="float32").reshape(-1, 1)
    classes = kr.data.ClassDataset(x, [9] * 8)
    task = classes.episode(spec(), number=4)
    support, query = task.support.x.numpy(), task.query.x.numpy()
    assert not set(support.ravel()) & set(query.ravel())
    for examples in (task.support, task.query):
        classes_of = examples.x.numpy().ravel() // 9
        labels = examples.y.numpy()
        assert labels.min() == 0 and labels.max() == 4
        # One class per label, one label per class.
        assert len(set(zip(classes_of, labels))) == 5


@pytest.mark.parametrize("key", [[0, 0], [3, 5], [-7, 2**40]])
def test_integers_are_those_of_tensorflows_own_function(key):
    key = tf.constant(key, tf.int64)
    np.testing.assert_array_equal(
        random_keys.random_integers(key, (3, 4), tf.int32),
        tf.random.stateless_uniform(
            (3, 4), key, None, None, dtype=tf.int32, alg="philox"
        ),
    )
    np.testing.assert_array_equal(
        random_keys.fold_in(key, 9),
        tf.random.fold_in(key, tf.constant(9, tf.int64), alg="philox"),
    )


def test_integers_of_numpy_do_not_wrap_around():
    narrow = kr.EpisodeSpec(*np.uint8([20, 20, 0, 50, 5]))
    assert narrow.support_size == 400 and narrow == kr.EpisodeSpec(
        20, 20, 0, 50, 5
    )
    assert kr.Protocol(5, 1, seed=np.uint64(3)).seed + 1 == 4
    classes = blobs()
    shape = spec(ways=3, shots=2, queries=1, inner_batch_size=2)
    streams = [
        classes.episodes(shape, size, start=start)
        for size, start in ((5, 200), (np.uint8(5), np.uint8(200)))
    ]
    first, second = (next(iter(stream)) for stream in streams)
    np.testing.assert_array_equal(first.support.x, second.support.x)


def test_a_stream_beyond_all_numbers_is_refused():
    shape = spec(ways=3, shots=2, queries=1, inner_batch_size=2)
    with pytest.raises(ValueError, match="63 bits.*another `seed`"):
        blobs().episodes(shape, 5, start=2**61)


@pytest.mark.parametrize("replacement", [False, True])
def test_a_spec_draws_the_batches_of_its_own_streams(replacement):
    shape = spec(replacement=replacement)
    task = blobs(examples=9).episode(shape, 7, seed=3)
    np.testing.assert_array_equal(task.batches, shape.batches(7, seed=3))
    assert (shape.batches(8, seed=3) != task.batches).numpy().any()
    numbers = tf.data.Dataset.range(8).map(shape.batches)
    np.testing.assert_array_equal(list(numbers)[7], shape.batches(7))


@pytest.mark.parametrize(
    "number, seed, text",
    [
        (1.7, 0, "`number` must be an integer"),
        ("3", 0, "`number` must be an integer"),
        (None, 0, "`number` must be an integer"),
        (2**63, 0, "less than"),
        (-1, 0, "at least 0"),
        (0, -1, "`seed` must be an integer of at least 0"),
        (tf.constant(1.7), 0, "scalar tensor of integers.*float32"),
        (tf.constant([1, 2]), 0, r"scalar tensor of integers.*\(2,\)"),
    ],
)
def test_what_numbers_no_batches_is_refused(number, seed, text):
    with pytest.raises(ValueError, match=text):
        spec().batches(number, seed)


def test_what_is_not_allowed_is_not_drawn(monkeypatch):
    # All as small as random integers get.
    monkeypatch.setattr(
        random_keys,
        "random_integers",
        lambda key, shape, dtype: tf.fill(shape, tf.int32.min),
    )
    monkeypatch.setattr(random_keys, "fold_in", lambda key, _: key)
    allowed = [[False, True, False, True]]
    drawn = random_keys.distinct(KEY, 0, (1, 4), 2, allowed)
    np.testing.assert_array_equal(drawn, [[1, 3]])
