"""What `fit` refuses, before anything of it is run."""

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
