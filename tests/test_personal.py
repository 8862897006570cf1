"""`adapt`: a plain model that knows new classes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import LOSS, all_values, assert_same, meta_model
from trained_model import support, trained

import keras_reptile as kr


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
        (X.astype(float) * 1e39, Y, {}, "finite as float32"),
        (np.ma.masked_array(X, X > 0), Y, {}, "`x` must be.*without a mask"),
        ([np.ma.masked_array(X[0], True), X[1]], Y[:2], {}, "without a mask"),
        (X, np.ma.masked_array(Y, Y > 0), {}, "`y` must be.*without a mask"),
        ((X * 10).astype("int16"), Y, {}, r"int16.*by `x.astype\('float32"),
        ((X * 10).astype("uint8"), Y, {}, "floats.*uint8.*/ 255"),
        (X, Y.astype("float32"), {}, "integer labels.*float32"),
        (X, Y + 1, {}, "from 0 to 2.*from 1 to 3"),
        (X, Y - 1, {}, "from 0 to 2.*from -1 to 1"),
        (X, Y[:-1], {}, "one label per support example"),
        (X, np.eye(3)[Y], {}, r"one-hot become integers by `y.argmax\(1\)`"),
        (X, Y[:, None], {}, r"Pass `y\[:, 0\]`"),
        ([[1.0], [1.0, 2.0]], [0, 1], {}, "`x` must be one array"),
        (X[:0], Y[:0], {}, "at least one example"),
        (X, Y, {"steps": 0}, "`steps`.*at least 1"),
        (X, Y, {"batch_size": 13}, "batch_size=13.*12"),
    ],
)
def test_adapt_refuses_what_does_not_suit(x, y, settings, text):
    with pytest.raises(ValueError, match=text):
        meta_model().adapt(x, y, **settings)


def test_targets_that_an_int32_cannot_hold_are_refused():
    model = kr.MetaModel(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    )
    model.compile(loss="mae", jit_compile=False)
    for y in (np.int64([2**31]), np.uint32([2**31]), np.int64([-(2**40)])):
        with pytest.raises(ValueError, match="what int32 can, or floats"):
            model.adapt(X[:1], y, steps=1)
    model.adapt(X[:1], np.int64([2**31 - 1]), steps=1)


def test_labels_may_be_truth_values():
    model = meta_model()
    ones = model.adapt(X, Y == 1, steps=2)
    as_integers = model.adapt(X, (Y == 1).astype(int), steps=2)
    for a, b in zip(ones.get_weights(), as_integers.get_weights()):
        np.testing.assert_array_equal(a, b)


def test_a_norm_at_two_places_is_refused():
    twice = keras.layers.BatchNormalization(name="twice")
    once = keras.layers.BatchNormalization()
    x = keras.Input((4,))
    network = keras.Model(x, keras.layers.Dense(3)(twice(once(twice(x)))))
    model = kr.MetaModel(network)
    model.compile(loss=LOSS, jit_compile=False)
    with pytest.raises(ValueError, match="Received: twice, used more than"):
        model.adapt(X, Y, steps=1)


def test_norms_of_one_name_are_two():
    x, blocks = keras.Input((4,)), []
    for _ in range(2):
        norm = keras.layers.BatchNormalization(name="norm")
        blocks.append(keras.Sequential([keras.Input((4,)), norm]))
    network = keras.Model(x, keras.layers.Dense(3)(blocks[1](blocks[0](x))))
    model = kr.MetaModel(network)
    model.compile(loss=LOSS, jit_compile=False)
    model.adapt(X, Y, steps=1)


def test_an_adaptation_that_diverges_is_said():
    model = trained()
    model.compile(
        inner_optimizer=keras.optimizers.SGD(1e30), loss=LOSS, jit_compile=False
    )
    with pytest.raises(ValueError, match="`adapt` ended in NaN.*fewer `steps`"):
        model.adapt(X, Y)
