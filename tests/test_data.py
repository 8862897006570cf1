"""Classes, scribbles, and Omniglot where its data is at hand."""

import copy
import hashlib
import os
import pathlib
import types

import numpy as np
import pytest
import tensorflow as tf

import keras_reptile as kr
from keras_reptile.data import cache
from keras_reptile.data.omniglot import reference_split

TFDS = os.environ.get(
    "KERAS_REPTILE_TFDS",
    pathlib.Path(__file__).parent.parent.parent / "shared/data/tfds",
)
needs_omniglot = pytest.mark.skipif(
    not pathlib.Path(TFDS, "omniglot").is_dir(),
    reason="needs Omniglot; name its TFDS folder in KERAS_REPTILE_TFDS",
)


def sha1(parts, by=","):
    return hashlib.sha1(by.join(map(str, parts)).encode()).hexdigest()


def test_from_arrays_groups_by_label():
    x = np.arange(6, dtype="float32")[:, None]
    classes = kr.data.from_arrays(x, ["b", "a", "b", "c", "a", "b"])
    assert classes.names == ["a", "b", "c"]
    np.testing.assert_array_equal(classes.counts, [2, 3, 1])
    np.testing.assert_array_equal(classes.examples(1)[:, 0], [0, 2, 5])


def test_uint8_is_read_as_0_to_1_and_floats_as_they_are():
    spec = kr.EpisodeSpec(ways=1, shots=1)
    x = np.full((2, 3), 51)
    task = kr.data.ClassDataset(x.astype("uint8"), [2]).episode(spec)
    np.testing.assert_allclose(task.support.x, np.full((1, 3), 0.2))
    task = kr.data.ClassDataset(x.astype("float64"), [2]).episode(spec)
    np.testing.assert_array_equal(task.support.x, x[:1].astype("float32"))


GOOD = np.zeros((4, 2), "float32")


@pytest.mark.parametrize(
    "x, counts, text",
    [
        (GOOD * np.nan, [4], "NaN.*in 4 examples, the first at index 0"),
        (GOOD.astype(int), [4], "uint8.*or floats.*int64"),
        (GOOD[:, 0], [4], r"shape \(4,\)"),
        (np.array([*GOOD, None], object)[:4], [4], "4 objects.*np.stack"),
        (GOOD[:0], [], "at least one"),
        (GOOD, [3], "add up.*3, but x has 4"),
        (GOOD, [4, 0], "positive integer"),
        # Which 32 bits would take for 0 and 4.
        (GOOD, [2**32, 4], "add up.*4294967300, but x has 4"),
        (np.ma.masked_equal(GOOD, 0), [4], "8 masked values of 8"),
        (GOOD, [1.9, 2.9], "positive integer"),
        (np.full((4, 2), 1e39), [4], "finite as float32.*in 4 examples"),
    ],
)
def test_arrays_that_make_no_classes_are_refused(x, counts, text):
    with pytest.raises(ValueError, match=text):
        kr.data.ClassDataset(x, counts)


@pytest.mark.parametrize(
    "y, text",
    [
        (np.zeros(3, int), "one label per example"),
        (np.zeros((4, 1), int), "one label per example"),
        (np.zeros(4), "integers or strings.*float64"),
        ([[0], [1, 2], [3], [4]], "`y` must be one array"),
        (None, "an entry for each example.*None"),
        ([], "at least one example"),
        (np.ma.masked_equal([0, 0, 1, 1], 1), "`y`.*2 masked values of 4"),
        (
            np.array(["a", None, "b", None], object),
            "of which 2 of 4 are no strings, the first being None at 1",
        ),
    ],
)
def test_labels_that_name_no_classes_are_refused(y, text):
    with pytest.raises(ValueError, match=text):
        kr.data.from_arrays(GOOD, y)


def test_examples_of_several_shapes_are_refused():
    with pytest.raises(ValueError, match="`x` must be one array.*Resize"):
        kr.data.from_arrays([[1.0], [1.0, 2.0]], [0, 1])


@pytest.mark.parametrize("names", [5, ["one"], ["one", "two", "three"]])
def test_names_that_are_not_one_for_each_class_are_refused(names):
    with pytest.raises(ValueError, match="list of 2 names"):
        kr.data.ClassDataset(GOOD, [2, 2], names)


@pytest.mark.parametrize(
    "spec, arguments, text",
    [
        ({"ways": 9}, {}, "ways=9, but the dataset has 2 classes"),
        ({"shots": 2}, {}, "shots=2, queries=1, but class '0' has 2"),
        ({}, {"meta_batch_size": 0}, "meta_batch_size=0"),
        ({}, {"start": -1}, "start=-1"),
        ({}, {"seed": 0.5}, "seed.*0.5"),
        ({}, {"seed": 2**63}, r"less than 2\*\*63"),
        ({}, {"meta_batch_size": "five"}, "'five'"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_refused(spec, arguments, text):
    classes = kr.data.ClassDataset(GOOD, [2, 2])
    spec = kr.EpisodeSpec(**{"ways": 2, "shots": 1, **spec})
    with pytest.raises(ValueError, match=text):
        classes.episodes(spec, **arguments)


@pytest.mark.parametrize("data", ["classes", "waves"])
def test_what_is_no_spec_is_refused(data):
    data = {
        "classes": kr.data.ClassDataset(GOOD, [2, 2]),
        "waves": kr.data.SineWaves(),
    }[data]
    for refused in (data.episodes, data.episode):
        with pytest.raises(ValueError, match="`kr.EpisodeSpec`.*None"):
            refused(None)


@pytest.mark.parametrize(
    "function, text",
    [
        (lambda: kr.data.scribbles(2.0), "num_classes=2.0"),
        (lambda: kr.data.scribbles(2, seed=None), "seed=None"),
        (lambda: kr.data.SineWaves(None), "points=None"),
        (lambda: kr.data.SineWaves(1), "at least 2.*points=1"),
        (lambda: kr.data.from_arrays(3, [1]), "an entry for each.*int, 3"),
        (lambda: kr.Protocol(ways=2, shots=1, num_episodes=1), "num_episodes"),
        (lambda: kr.Protocol(ways=2, shots=1, seed="x"), "seed='x'"),
        (lambda: kr.Protocol(ways=2, shots=1, queries=0), "queries=0"),
    ],
)
def test_numbers_that_are_none_are_refused(function, text):
    with pytest.raises(ValueError, match=text):
        function()


def test_a_copy_has_a_checksum_of_its_own():
    classes = kr.data.ClassDataset(GOOD, [2, 2])
    before = classes.checksum
    other = copy.copy(classes)
    assert other.checksum == before
    other = copy.copy(classes)
    other.x = GOOD + 1
    assert other.checksum != before == classes.checksum


def test_a_class_comes_once():
    classes = kr.data.ClassDataset(GOOD, [2, 1, 1])
    assert classes.subset([2, 0]).names == ["2", "0"]
    with pytest.raises(ValueError, match=r"each class once.*\[0, 1, 0\]"):
        classes.subset([0, 1, 0])
    with pytest.raises(ValueError, match=r"int64 of shape \(1, 2\)"):
        classes.subset([[0, 1]])


def test_classes_are_chosen_by_name():
    classes = kr.data.ClassDataset(GOOD, [2, 1, 1], ["a", "b", "b"])
    assert classes.subset(np.array(["a"])).names == ["a"]
    with pytest.raises(ValueError, match=r"a class that is there.*\['c'\]"):
        classes.subset(["a", "c"])
    with pytest.raises(ValueError, match="'b', which several have"):
        classes.subset(["a", "b"])
    with pytest.raises(ValueError, match="at least one class"):
        classes.subset([])


def test_scribbles_are_a_function_of_seed_and_class():
    few, many = kr.data.scribbles(3, seed=5), kr.data.scribbles(6, seed=5)
    np.testing.assert_array_equal(few.x, many.x[: len(few.x)])
    other = kr.data.scribbles(3, seed=6)
    assert (few.x != other.x).any()


def test_scribbles_look_like_drawings():
    classes = kr.data.scribbles(50)
    assert classes.x.shape == (1000, 28, 28, 1)
    light = classes.x.astype(float) / 255
    # Ink on a light ground, as Omniglot's mean of 0.92, and no blank page.
    assert 0.85 < light.mean() < 0.96
    assert light.reshape(1000, -1).min(1).max() < 0.4
    assert len({image.tobytes() for image in classes.x}) == 1000
    grey = (light > 0.1) & (light < 0.9)
    assert grey.mean() > 0.02  # Anti-aliased.


def test_drawings_of_a_class_are_nearer_than_those_of_others():
    x = kr.data.scribbles(40).x.reshape(40, 20, -1) / 255.0
    means = x[:, :10].mean(1)
    distance = ((x[:, 10:, None] - means) ** 2).sum(-1)
    accuracy = (distance.argmin(-1) == np.arange(40)[:, None]).mean()
    # Well above chance, 1 in 40; far from solved by the pixels alone.
    assert 0.2 < accuracy < 0.9


def test_scribbles_out_of_range_are_refused():
    for arguments in ((0,), (1, -1), (1, 0, 0), (1.5,)):
        with pytest.raises(ValueError, match="integer of at least"):
            kr.data.scribbles(*arguments)


def test_the_cache_survives_a_damaged_file(tmp_path):
    cache.store("a", {"x": np.arange(5)}, tmp_path)
    shapes = {"x": (5,)}
    loaded = cache.load("a", tmp_path, shapes)
    np.testing.assert_array_equal(loaded["x"], range(5))
    assert cache.load("a", tmp_path, {"x": (6,)}) is None
    path = tmp_path / "a.npz"
    path.write_bytes(path.read_bytes()[:50])
    assert cache.load("a", tmp_path, shapes) is None
    assert cache.load("absent", tmp_path, shapes) is None


def test_the_reference_split():
    train, test = reference_split()
    assert sha1(train) == "8c5c8808c030a58cbe95078aa028fa1e093951f6"
    assert sha1(test) == "f24ba3df53ab6b4ed7d0ad589d2dec38df82d7d3"


def test_absent_omniglot_names_both_remedies(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def load(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr(tfds, "load", load)
    with pytest.raises(ValueError, match="network.*or copy a prepared folder"):
        kr.data.omniglot(tmp_path, cache_dir=tmp_path)


def test_damaged_omniglot_names_the_folder(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    path = tmp_path / "omniglot.tfrecord"
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(bytes(100))
    path.write_bytes(path.read_bytes()[:50])
    alphabet = types.SimpleNamespace(names=["Greek"])
    info = types.SimpleNamespace(
        features={"alphabet": alphabet}, data_dir="/tfds/omniglot/3.0.0"
    )
    dataset = tf.data.TFRecordDataset(str(path))
    monkeypatch.setattr(tfds, "load", lambda *args, **kwargs: (dataset, info))
    text = "/tfds/omniglot/3.0.0, which cannot.*remove that folder.*DataLoss"
    with pytest.raises(ValueError, match=text):
        kr.data.omniglot(tmp_path, cache_dir=tmp_path)


@pytest.fixture(scope="module")
def omniglot_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@needs_omniglot
def test_omniglot_is_the_originals(omniglot_cache):
    splits = kr.data.omniglot(TFDS, cache_dir=omniglot_cache)
    assert splits.train.num_classes == 4800
    assert splits.validation is None
    assert splits.test.num_classes == 423
    names = [name.rsplit("/", 1)[0] for name in splits.train.names[:1200]]
    expected = "778dee25d3d5b05fdc739f47b0210d4944d0d08e"
    assert sha1(names, by="\n") == expected
    assert set(np.unique(splits.train.x)) == {0, 255}
    assert 0.9 < splits.train.x.mean() / 255 < 0.94
    # The second quarter of the classes is the first, turned.
    first, turned = (splits.train.examples(i)[0, ..., 0] for i in (0, 1200))
    np.testing.assert_array_equal(np.rot90(first), turned)
    again = kr.data.omniglot(None, cache_dir=omniglot_cache)
    np.testing.assert_array_equal(again.test.x, splits.test.x)


@needs_omniglot
def test_other_splits_of_omniglot(omniglot_cache):
    held_out = kr.data.omniglot(
        TFDS, validation_characters=100, cache_dir=omniglot_cache
    )
    assert held_out.train.num_classes == 4400
    assert held_out.validation.num_classes == 100
    trained_on = {name.rsplit("/", 1)[0] for name in held_out.train.names}
    assert not trained_on & set(held_out.validation.names)
    assert not trained_on & set(held_out.test.names)
    tfds = kr.data.omniglot(
        TFDS, split="tfds", rotations=False, cache_dir=omniglot_cache
    )
    assert (tfds.train.num_classes, tfds.test.num_classes) == (964, 659)
    with pytest.raises(ValueError, match="must leave some"):
        kr.data.omniglot(
            TFDS, validation_characters=1200, cache_dir=omniglot_cache
        )
    with pytest.raises(ValueError, match='"reference"'):
        kr.data.omniglot(TFDS, split="test")


@needs_omniglot
def test_alphabets_are_groups(omniglot_cache):
    splits = kr.data.omniglot(
        TFDS, split="tfds", rotations=False, cache_dir=omniglot_cache
    )
    alphabet = np.array([name.split("/")[0] for name in splits.test.names])
    data = kr.data.from_groups(
        {
            name: splits.test.subset(alphabet == name)
            for name in np.unique(alphabet)
        }
    )
    assert data.num_groups == 20  # Which have 20 characters at least.
    spec = kr.EpisodeSpec(ways=20, shots=1)
    for tasks in data.episodes(spec).take(3):
        drawn = tasks.support.x[0].numpy()
        found = [
            all(
                (data.group(g).x / 255 == x).all((1, 2, 3)).any() for x in drawn
            )
            for g in range(20)
        ]
        assert sum(found) == 1


def test_streams_are_made_once_and_copies_have_their_own():
    classes = kr.data.scribbles(6, seed=0)
    spec = kr.EpisodeSpec(ways=3, shots=1)
    stream = classes.episodes(spec, 2, seed=5)
    assert classes.episodes(spec, 2, seed=5) is stream
    assert classes.episodes(spec, 2, seed=6) is not stream
    for seed in range(10, 20):  # More than are kept.
        classes.episodes(spec, 2, seed=seed)
    again = classes.episodes(spec, 2, seed=5)
    copied = copy.deepcopy(classes).episodes(spec, 2, seed=5)
    assert stream is not again and copied is not again
    for other in (again, copied):
        for a, b in zip(stream.take(2), other.take(2)):
            np.testing.assert_array_equal(a.support.x, b.support.x)

    @tf.function
    def in_a_graph():
        return next(iter(classes.episodes(spec, 2, seed=7))).support.x

    expected = next(iter(classes.episodes(spec, 2, seed=7))).support.x
    np.testing.assert_array_equal(in_a_graph(), expected)


def test_labels_may_be_a_column_of_names():
    x = np.zeros((3, 1), "float32")
    for labels in (
        np.array(["b", "a", "b"], object),
        np.array([b"b", b"a", b"b"]),
    ):
        assert kr.data.from_arrays(x, labels).names == ["a", "b"]
    with pytest.raises(ValueError, match="y.astype.str"):
        kr.data.from_arrays(x, np.array(["b", None, "b"], object))


def test_scribbles_of_one_seed_are_of_no_other():
    with pytest.raises(ValueError, match=r"less than 2\*\*32"):
        kr.data.scribbles(1, seed=2**32)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"validation_characters": 0.1}, "`validation_characters`"),
        ({"validation_characters": "100"}, "`validation_characters`"),
        ({"validation_characters": -1}, "`validation_characters`"),
        ({"seed": None}, "`seed`"),
        ({"seed": -1}, "`seed`"),
        ({"seed": 1.5}, "`seed`"),
    ],
)
def test_omniglot_out_of_range_is_refused(tmp_path, arguments, text):
    with pytest.raises(ValueError, match=f"{text} must be an integer"):
        kr.data.omniglot(str(tmp_path), cache_dir=tmp_path, **arguments)
