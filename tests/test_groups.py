"""Classes in groups: episodes of one group, labels that stay."""

import pickle

import keras
import numpy as np
import pytest
from conftest import LOSS, messages

import keras_reptile as kr
from keras_reptile import fixed_labels

SPEC = kr.EpisodeSpec(ways=3, shots=2, queries=1, inner_steps=4)


def classes(group, names="abcd", each=4):
    """Examples that say of which group and class they are, and which."""
    x = [
        [group, ord(name), example] for name in names for example in range(each)
    ]
    labels = np.repeat(list(names), each)
    return kr.data.from_arrays(np.array(x, "float32"), labels)


def groups(**settings):
    parts = {f"group {g}": classes(g) for g in range(5)}
    return kr.data.from_groups(parts, **settings)


def drawn(data, spec, count):
    """Groups and classes of some episodes, shapes (count,), (count, ways)."""
    x = next(iter(data.episodes(spec, count))).support.x.numpy()
    first = x[:, :: spec.shots]
    assert (x[:, :, 0] == x[:, :1, 0]).all()  # Of one group.
    np.testing.assert_array_equal(np.repeat(first[..., 1], 2, 1), x[..., 1])
    return x[:, 0, 0].astype(int), first[..., 1].astype(int)


def test_an_episode_is_of_one_group_and_all_are_drawn_alike():
    of_group, of_class = drawn(groups(), SPEC, 500)
    assert all(len(set(row)) == 3 for row in of_class)
    for counts, expected in [
        (np.bincount(of_group), 100),
        (np.bincount(of_class[:, 0])[97:], 125),
        (np.bincount(of_class.ravel())[97:], 375),
    ]:
        # Binomial deviations of more than five sigma do not happen.
        np.testing.assert_allclose(counts, expected, atol=5 * expected**0.5)
    threes = {(g, *sorted(row)) for g, row in zip(of_group, of_class)}
    assert len(threes) == 5 * 4  # All there are.


def test_small_groups_are_drawn_as_often_as_large_ones():
    parts = {0: classes(0, "ab"), 1: classes(1, "abcdefghij")}
    spec = kr.EpisodeSpec(ways=2, shots=2, inner_steps=1)
    of_group, _ = drawn(kr.data.from_groups(parts), spec, 400)
    assert abs(of_group.sum() - 200) < 5 * 10


def test_fixed_labels_are_those_of_the_names():
    data = groups(fixed_labels=True)
    assert data.labels == list("abcd") and groups().labels is None
    spec = kr.EpisodeSpec(ways=4, shots=2, inner_steps=1)
    of_group, of_class = drawn(data, spec, 50)
    assert set(of_group) == set(range(5))
    assert (of_class == list(b"abcd")).all()
    task = data.episode(spec)
    np.testing.assert_array_equal(task.query.x[:, 1], list(b"abcd"))
    np.testing.assert_array_equal(task.query.y, range(4))


def test_groups_are_held_out_whole():
    data = groups()
    assert (data.num_groups, data.num_classes) == (5, 20)
    assert data.names[:5] == [f"group 0/{c}" for c in "abcd"] + ["group 1/a"]
    part = data.subset([3, 1])
    assert part.groups == ["group 3", "group 1"]
    assert set(part.x[:16, 0]) == {3} and set(part.x[16:, 0]) == {1}
    assert set(drawn(part, SPEC, 30)[0]) == {1, 3}
    assert part.group(0).names == list("abcd")
    np.testing.assert_array_equal(part.group(1).x, classes(1).x)
    assert groups(fixed_labels=True).subset([0]).labels == list("abcd")
    with pytest.raises(ValueError, match="each group once"):
        data.subset([1, 1])
    assert data.subset(["group 4", "group 0"]).groups == ["group 4", "group 0"]
    with pytest.raises(ValueError, match="a group that is there.*'group 5'"):
        data.subset(["group 5"])
    with pytest.raises(ValueError, match="names, or a boolean for each of 5"):
        data.subset(3)


@pytest.mark.parametrize("index", [-1, 5, "group 1", 1.0, True])
def test_a_group_that_is_not_there_is_refused(index):
    with pytest.raises(ValueError, match="`index` must be"):
        groups().group(index)


def test_a_copy_of_groups_draws_the_same():
    data = groups(fixed_labels=True)
    other = pickle.loads(pickle.dumps(data))
    assert other.checksum == data.checksum and other.labels == data.labels
    spec = kr.EpisodeSpec(ways=4, shots=2)
    np.testing.assert_array_equal(
        drawn(data, spec, 9)[0], drawn(other, spec, 9)[0]
    )


def test_groups_are_part_of_the_checksum():
    apart = {g: classes(g) for g in range(2)}
    x = np.concatenate([part.x for part in apart.values()])
    as_one = {"0 and 1": kr.data.ClassDataset(x, [4] * 8)}
    checksums = {
        kr.data.ClassDataset(x, [4] * 8).checksum,
        kr.data.from_groups(as_one).checksum,
        kr.data.from_groups(apart).checksum,
        kr.data.from_groups(apart, fixed_labels=True).checksum,
    }
    assert len(checksums) == 4
    again = kr.data.from_groups(apart)
    assert again.checksum == again.checksum in checksums


@pytest.mark.parametrize(
    "parts, text",
    [
        ({}, "dict of the classes of each group.*{}"),
        ([classes(0)], "dict of the classes of each group"),
        ({"a": classes(0).x}, "ClassDataset.*ndarray for 'a'"),
        (
            {"a": classes(0), "b": kr.data.ClassDataset(np.ones((4, 2)), [4])},
            r"float32 of shape \(2,\) in group 'b'.*\(3,\) in 'a'",
        ),
        (
            {
                "a": classes(0),
                "b": kr.data.ClassDataset(np.ones((4, 3), "uint8"), [4]),
            },
            "uint8 of shape.* in group 'b', and float32",
        ),
        ({"a": groups()}, "not of groups.*GroupedClasses for 'a'.*some.group"),
    ],
)
def test_what_makes_no_groups_is_refused(parts, text):
    with pytest.raises(ValueError, match=text):
        kr.data.from_groups(parts)


def test_fixed_labels_want_the_same_classes_everywhere():
    parts = {"a": classes(0), "b": classes(1, "abde")}
    text = "2 of 2 groups lack some of a, b, c, d, e; 'a' lacks e.*subset"
    with pytest.raises(ValueError, match=text):
        kr.data.from_groups(parts, fixed_labels=True)
    chosen = ["d", "a"]
    parts = {name: part.subset(chosen) for name, part in parts.items()}
    data = kr.data.from_groups(parts, fixed_labels=True)
    assert data.labels == chosen and "['d', 'a']" in repr(data)
    of_d = data.group(1).examples(0)
    np.testing.assert_array_equal(of_d[:, 1], [ord("d")] * 4)
    parts["b"] = parts["b"].subset(["a", "d"])
    with pytest.raises(ValueError, match="another order in 'b' than in 'a'"):
        kr.data.from_groups(parts, fixed_labels=True)
    x = np.ones((4, 2))
    parts = {"a": kr.data.ClassDataset(x, [1] * 4, list("xxyz"))}
    with pytest.raises(ValueError, match="'x' more than once in group 'a'"):
        kr.data.from_groups(parts, fixed_labels=True)
    with pytest.raises(ValueError, match="True or False.*'b', 'a'"):
        kr.data.from_groups({"a": classes(0)}, fixed_labels=["b", "a"])


def test_episodes_that_a_group_cannot_give_are_refused():
    parts = {"large": classes(0), "small": classes(1, "ab")}
    data = kr.data.from_groups(parts)
    with pytest.raises(ValueError, match="ways=3, but group 'small' has 2"):
        data.episodes(SPEC)
    data = kr.data.from_groups({"large": classes(0), "few": classes(1, each=2)})
    with pytest.raises(ValueError, match="class 'few/a' has 2.*are grouped"):
        data.episodes(SPEC)
    with pytest.raises(ValueError, match="all classes.*ways=3.*Pass ways=4"):
        groups(fixed_labels=True).episodes(SPEC)


def network():
    keras.utils.set_random_seed(0)
    model = kr.MetaModel(
        keras.Sequential(
            [
                keras.Input((2,)),
                keras.layers.Dense(32, activation="tanh"),
                keras.layers.Dense(3),
            ]
        )
    )
    model.compile(
        optimizer=keras.optimizers.SGD(0.5),
        inner_optimizer=keras.optimizers.Adam(0.02, beta_1=0.0),
        loss=LOSS,
        jit_compile=False,
    )
    return model


def machines(count, fixed_labels):
    """Three conditions of machines that are each off by something of its own.

    Across machines the conditions overlap: a machine's own examples tell.
    """
    parts = {}
    rng = np.random.default_rng(0)
    for number in range(count):
        offset = rng.normal(size=(1, 1, 2)) * [2.0, 0.5]
        centres = np.array([[[0, 0]], [[1, 1]], [[2, 0]]])
        x = centres + offset + rng.normal(size=(3, 8, 2)) / 10
        x = x.reshape(-1, 2).astype("float32")
        parts[number] = kr.data.ClassDataset(x, [8] * 3, ["0", "1", "2"])
    return kr.data.from_groups(parts, fixed_labels)


@pytest.mark.parametrize("fixed_labels", [False, True])
def test_a_new_group_is_learned_from_a_few_examples(fixed_labels, tmp_path):
    data = machines(60, fixed_labels)
    train, held_out = data.subset(range(40)), data.subset(range(40, 60))
    model = network()
    trainer = kr.MetaTrainer(
        held_out,
        kr.Protocol(ways=3, shots=2, inner_steps=10, num_episodes=60),
        checkpoint_dir=str(tmp_path),
    )
    history = model.fit(
        train.episodes(SPEC, meta_batch_size=4),
        steps_per_epoch=150,
        callbacks=[trainer],
        verbose=0,
    ).history
    assert history["val_accuracy"][-1] > 0.8
    before = history["val_accuracy_before"][-1]
    # Labels that stay are known in part without any example.
    assert (0.45 < before < 0.8) if fixed_labels else before < 0.45


@pytest.mark.parametrize(
    "order, fixed", [([2, 0, 1], True), ([0, 1, 2], False)]
)
def test_other_labels_than_those_learned_are_not_evaluated(order, fixed):
    train = machines(3, fixed_labels=True)
    parts = {g: train.group(g).subset(order) for g in range(3)}
    other = kr.data.from_groups(parts, fixed)
    model, stream = network(), train.episodes(SPEC)
    protocol = kr.Protocol(ways=3, shots=2, num_episodes=2)
    text = (
        "the same in another order, as '2' in the place of '0'"
        if fixed
        else "labels that are not fixed, in the place of 0, 1, 2"
    )
    with pytest.raises(ValueError, match=text):
        trainer = kr.MetaTrainer(other, protocol)
        model.fit(stream, steps_per_epoch=1, callbacks=[trainer])
    assert model.meta_step == 0  # Before training.
    with pytest.raises(ValueError, match=text):
        model.fit(
            stream,
            steps_per_epoch=1,
            validation_data=other.episodes(SPEC),
            validation_steps=1,
        )
    # Labels in the order drawn suit what has no other.
    model.fit(
        other.episodes(SPEC) if not fixed else stream,
        steps_per_epoch=1,
        validation_data=train.subset([1]).episodes(SPEC),
        validation_steps=1,
        verbose=0,
    )


def other_order(data):
    parts = {g: data.group(g).subset([2, 0, 1]) for g in range(data.num_groups)}
    return kr.data.from_groups(parts, fixed_labels=True)


def fitted(data, **arguments):
    model = network()
    model.fit(data.episodes(SPEC), steps_per_epoch=1, verbose=0, **arguments)
    return model


def test_a_model_knows_the_labels_it_has_learned(tmp_path):
    train = machines(3, fixed_labels=True)
    other = other_order(train)
    protocol = kr.Protocol(ways=3, shots=2, inner_steps=2, num_episodes=2)
    kr.evaluate(network(), other, protocol)  # It has learned none.
    model = fitted(train)
    kr.checkpoints.write(tmp_path / "c.npz", model)
    model.save(tmp_path / "model.keras")
    restored = network()
    kr.checkpoints.restore(tmp_path / "c.npz", restored)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for same in (model, restored, loaded):
        assert pickle.loads(pickle.dumps(same.labels)) == ["0", "1", "2"]
        kr.evaluate(same, train.subset([0]), protocol)
        for classes in (other, train.group(0)):
            with pytest.raises(ValueError, match="must be those"):
                kr.evaluate(same, classes, protocol)
            with pytest.raises(ValueError, match="must be those"):
                same.evaluate(classes.episodes(SPEC), steps=1)
    model.labels = None
    kr.evaluate(model, other, protocol)
    kr.checkpoints.write(tmp_path / "none.npz", model)
    kr.checkpoints.restore(tmp_path / "none.npz", restored)
    assert restored.labels is None


def test_what_a_further_fit_learns_of_labels():
    train = machines(3, fixed_labels=True)
    model = fitted(train)
    # What its labels mean is not known.
    own = train.episodes(SPEC).map(lambda task: task)
    model.fit(own, steps_per_epoch=1, verbose=0)
    assert model.labels == ["0", "1", "2"]
    with pytest.raises(ValueError, match="another order.*part.subset"):
        model.fit(other_order(train).episodes(SPEC), steps_per_epoch=1)
    model.fit(train.group(0).episodes(SPEC), steps_per_epoch=1, verbose=0)
    assert model.labels is None
    with pytest.raises(TypeError, match="epocs"):
        model.fit(train.episodes(SPEC), steps_per_epoch=1, epocs=2)
    assert model.labels is None  # Nothing was learned.


def test_a_resumed_run_knows_its_labels(tmp_path):
    train = machines(3, fixed_labels=True)
    folder = {"checkpoint_dir": str(tmp_path)}
    fitted(train, callbacks=[kr.MetaTrainer(**folder)])
    trainer = kr.MetaTrainer(**folder, resume=True)
    # All of it was done before.
    assert fitted(train, callbacks=[trainer]).labels == ["0", "1", "2"]
    trainer = kr.MetaTrainer(**folder, resume=True)
    with pytest.raises(ValueError, match="settings it was started with"):
        fitted(other_order(train), callbacks=[trainer])


def test_many_labels_are_known_by_name():
    names = [f"name {k}" for k in range(1_500)]
    x = np.random.default_rng(0).normal(size=(1_500, 2))
    part = kr.data.ClassDataset(x, [1] * 1_500, names)
    data = kr.data.from_groups({"a": part}, fixed_labels=True)
    assert (
        fixed_labels.of_stream(data.stream(kr.EpisodeSpec(1_500, 1, 0), 1, 0))
        == names
    )


@pytest.mark.parametrize("labels", ["abc", ["a", 1], ["a", "a"], 5])
def test_labels_that_are_no_names_are_refused(labels):
    with pytest.raises(ValueError, match="all of them distinct"):
        network().labels = labels


def test_adapt_takes_names_and_says_which_are_missing(caplog):
    train = machines(3, fixed_labels=True)
    x, y = train.group(0).x, np.repeat([0, 1, 2], 8)
    with pytest.raises(ValueError, match="`y` must be numbers"):
        network().adapt(x, y.astype(str), steps=1)
    model = fitted(train)
    by_number = model.adapt(x, y, steps=3)
    by_name = model.adapt(x, y.astype(str).astype(object), steps=3)
    of_bytes = model.adapt(x, y.astype(bytes), steps=3)
    assert "no examples" not in messages(caplog)
    np.testing.assert_array_equal(by_number(x), by_name(x))
    np.testing.assert_array_equal(by_number(x), of_bytes(x))
    model.adapt(x[8:16], ["1"] * 8, steps=1)
    assert "no examples of 0, 2" in messages(caplog)
    with pytest.raises(ValueError, match="on, 0, 1, 2.*Received: worn besides"):
        model.adapt(x[:2], ["1", "worn"])
    with pytest.raises(ValueError, match=r"shape \(24, 1\)"):
        model.adapt(x, y.astype(str)[:, np.newaxis])
    # Numbers for names, of which integers could be either.
    model.labels = ["1", "2", "3"]
    with pytest.raises(ValueError, match=r"1, 2, 3.*either.*y.astype\(str\)"):
        model.adapt(x, y, steps=1)
    third = model.adapt(x, (y + 1).astype(str), steps=3)
    np.testing.assert_array_equal(by_number(x), third(x))
    model.labels = ["a", "b", "c"]
    np.testing.assert_array_equal(by_number(x), model.adapt(x, y, steps=3)(x))
