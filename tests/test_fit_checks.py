"""What `fit` refuses, before anything of it is run."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SPEC, meta_model
from trained_model import CLASSES, support

import keras_reptile as kr


def test_output_of_another_width_is_refused():
    spec = kr.EpisodeSpec(ways=4, shots=2)
    with pytest.raises(ValueError, match="width 3, and ways=4"):
        meta_model().fit(CLASSES.episodes(spec), steps_per_epoch=1)


def dataset(**changes):
    task = tf.nest.map_structure(
        lambda t: tf.constant(t)[tf.newaxis], support()
    )
    parts = {
        "x": task.support.x,
        "y": task.support.y,
        "batches": task.batches,
        **changes,
    }
    examples = kr.Examples(parts["x"], parts["y"])
    tasks = kr.Task(examples, task.query, parts["batches"])
    return tf.data.Dataset.from_tensors(tasks)


def test_a_dataset_without_an_element_is_refused():
    with pytest.raises(ValueError, match="at least one meta-batch.*empty"):
        meta_model().fit(dataset().take(0))


ONE = dataset().get_single_element()


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"x": ONE.support.x[:, :, :2]}, r"support.x.*input shape \(4,\)"),
        ({"x": ONE.support.x * np.nan}, "support.x.*finite"),
        ({"y": ONE.support.y + 1}, "support.y.*from 0 to 2"),
        ({"y": ONE.support.y[:, :5]}, "agree in tasks and examples"),
        ({"batches": ONE.batches + 9}, "rows of the support set, 0 to 11"),
        ({"batches": ONE.batches[:, :0]}, "one inner step"),
        ({"batches": ONE.batches[0]}, "integers of shape"),
        ({"y": tf.cast(ONE.support.y, tf.float32)}, "integer labels"),
    ],
)
def test_tasks_that_do_not_suit_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        meta_model().fit(dataset(**changes), steps_per_epoch=1, verbose=0)


def test_other_data_is_refused():
    with pytest.raises(ValueError, match="tf.data.Dataset of Tasks.*ndarray"):
        meta_model().fit(np.zeros((3, 4)), steps_per_epoch=1)
    pairs = tf.data.Dataset.from_tensors(tuple(support().support))
    with pytest.raises(ValueError, match="kr.Task"):
        meta_model().fit(pairs, steps_per_epoch=1)
    with pytest.raises(ValueError, match="drop_remainder=True"):
        meta_model().fit(dataset().unbatch().batch(2), steps_per_epoch=1)


def test_epochs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="no end.*steps_per_epoch=None"):
        meta_model().fit(CLASSES.episodes(SPEC))
    with pytest.raises(ValueError, match="10.*not a multiple of.*=4"):
        meta_model(steps_per_execution=4).fit(
            CLASSES.episodes(SPEC), steps_per_epoch=10
        )


@pytest.mark.parametrize("steps", [0, -1, 1.5])
def test_epochs_of_no_steps_are_refused(steps):
    stream = CLASSES.episodes(SPEC)
    with pytest.raises(ValueError, match="`steps_per_epoch`.*at least 1"):
        meta_model().fit(stream, steps_per_epoch=steps)
    with pytest.raises(ValueError, match="`steps`.*at least 1"):
        meta_model().evaluate(stream, steps=steps)
    with pytest.raises(ValueError, match="`steps_per_execution`.*at least 1"):
        meta_model(steps_per_execution=steps)


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"class_weight": {0: 2.0}}, "drawn anew.*class_weight"),
        (
            {"callbacks": [keras.callbacks.BackupAndRestore("not-made")]},
            "first ones again.*kr.MetaTrainer",
        ),
        (
            {"validation_data": CLASSES.episodes(SPEC)},
            "no end.*validation_steps=None",
        ),
    ],
)
def test_arguments_that_mislead_are_refused(arguments, text):
    model = meta_model()
    with pytest.raises(ValueError, match=text):
        model.fit(CLASSES.episodes(SPEC), steps_per_epoch=1, **arguments)
    assert model.meta_step == 0


def test_an_epoch_to_begin_with_is_refused_where_a_checkpoint_says(tmp_path):
    trainer = kr.MetaTrainer(checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="from the meta-step.*initial_epoch=1"):
        meta_model().fit(
            CLASSES.episodes(SPEC),
            steps_per_epoch=1,
            epochs=2,
            initial_epoch=1,
            callbacks=[trainer],
        )


def test_single_batches_are_refused():
    for call in (meta_model().train_on_batch, meta_model().test_on_batch):
        with pytest.raises(ValueError, match="takes datasets of Tasks"):
            call(ONE)


@pytest.mark.parametrize("part", ["support", "query"])
@pytest.mark.parametrize("axis", [0, 1])
def test_tasks_of_unknown_size_are_refused(part, axis):
    def unknown(tensor):
        shape = list(tensor.shape)
        shape[axis] = None
        return tf.TensorSpec(shape, tensor.dtype)

    spec = tf.nest.map_structure(tf.type_spec_from_value, ONE)
    examples = kr.Examples(*map(unknown, getattr(ONE, part)))
    tasks = tf.data.Dataset.from_generator(
        lambda: iter([ONE]), output_signature=spec._replace(**{part: examples})
    )
    with pytest.raises(ValueError, match=rf"`{part}.x` of shape.*None"):
        meta_model().fit(tasks, steps_per_epoch=1)


def test_query_targets_that_would_be_broadcast_are_refused():
    targets = [tf.zeros((1, n, width)) for n, width in ((12, 3), (15, 1))]
    tasks = ONE._replace(
        support=ONE.support._replace(y=targets[0]),
        query=ONE.query._replace(y=targets[1]),
    )
    data = tf.data.Dataset.from_tensors(tasks)
    with pytest.raises(ValueError, match=r"targets of shape \(15, 1\)"):
        meta_model(loss="mse", metrics=()).fit(data, steps_per_epoch=1)
