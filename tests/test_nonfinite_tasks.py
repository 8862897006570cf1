"""Tasks whose inner loop ends in NaN or infinity."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import LOSS, SPEC, all_values, assert_same, blobs

import keras_reptile as kr
from keras_reptile.nonfinite_tasks import NonfiniteTasks

CLASSES = blobs()


def meta_model(inner_state="average", metrics="accuracy"):
    """Linear, so that nothing keeps large inputs from large steps."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.Dense(3)]
    model = kr.MetaModel(keras.Sequential(layers), inner_state=inner_state)
    model.compile(
        optimizer=keras.optimizers.SGD(0.5),
        inner_optimizer=keras.optimizers.SGD(0.02, momentum=0.5),
        loss=LOSS,
        metrics=metrics,
        jit_compile=False,
    )
    return model


def stream(failing):
    """Three tasks per meta-step; some are too large, and diverge."""
    factors = np.where(np.isin(np.arange(3), failing), 1e30, 1.0)
    factors = tf.constant(factors[:, None, None], tf.float32)

    def enlarge(task):
        support = task.support._replace(x=task.support.x * factors)
        return task._replace(support=support)

    return CLASSES.episodes(SPEC, 3, seed=1).map(enlarge)


def without(failing):
    kept = np.setdiff1d(np.arange(3), failing)
    return CLASSES.episodes(SPEC, 3, seed=1).map(
        lambda task: tf.nest.map_structure(lambda x: tf.gather(x, kept), task)
    )


def fit(model, tasks, steps=3, **arguments):
    return model.fit(tasks, steps_per_epoch=steps, verbose=0, **arguments)


@pytest.mark.parametrize("failing", [[1], [0, 2]])
@pytest.mark.parametrize(
    "inner_state", ["average", "accumulate", "reset", "carry"]
)
def test_they_are_left_out(inner_state, failing):
    with_them, alone = meta_model(inner_state), meta_model(inner_state)
    history = fit(with_them, stream(failing)).history
    expected = fit(alone, without(failing)).history
    # A mean over tasks is a sum in an order.
    assert_same(all_values(with_them), all_values(alone), exact=False)
    assert history.pop("inner/nonfinite_tasks") == [3 * len(failing)]
    assert expected.pop("inner/nonfinite_tasks") == [0]
    for name in expected:
        np.testing.assert_allclose(history[name], expected[name], 1e-5)


@pytest.mark.parametrize(
    "inner_state", ["average", "accumulate", "reset", "carry"]
)
def test_where_all_fail_nothing_changes(inner_state):
    model = meta_model(inner_state)
    before = all_values(model)
    fit(model, stream([0, 1, 2]))
    after = all_values(model)
    assert model.meta_step == 3
    for name in before:
        if name.startswith(("weights", "inner")):
            np.testing.assert_array_equal(before[name], after[name], name)


@pytest.mark.parametrize(
    "inner_state, failing",
    [("average", [1]), ("accumulate", [1]), ("accumulate", [0, 2])],
)
def test_on_several_replicas(strategy, inner_state, failing):
    alone = meta_model(inner_state)
    fit(alone, stream(failing))
    with strategy.scope():
        shared = meta_model(inner_state)
    history = fit(shared, stream(failing)).history
    assert history["inner/nonfinite_tasks"] == [3 * len(failing)]
    assert_same(all_values(alone), all_values(shared), exact=False)
    for slot in shared.inner_optimizer.variables:
        copies = strategy.experimental_local_results(slot.value)
        for copy in copies[1:]:
            np.testing.assert_array_equal(copies[0], copy)


def test_too_many_stop_the_training():
    trainer = kr.MetaTrainer(max_nonfinite=0.3)
    with pytest.raises(FloatingPointError, match="7 of 21 tasks .*meta-step 7"):
        fit(meta_model(), stream([1]), 10, callbacks=[trainer])
    fit(meta_model(), stream([1]), 10, callbacks=[kr.MetaTrainer()])


def test_too_many_stop_the_training_in_short_epochs():
    """Of two meta-steps, or six tasks, each."""
    trainer = kr.MetaTrainer(max_nonfinite=0.3)
    with pytest.raises(FloatingPointError, match="7 of 21 tasks .*meta-step 7"):
        fit(meta_model(), stream([1]), 2, epochs=9, callbacks=[trainer])


def epoch(count, failed, tasks):
    count.begin_epoch()
    count.check(failed, tasks, step=1)
    count.end_epoch()


def test_an_epoch_that_was_judged_is_forgotten():
    count = NonfiniteTasks(0.5)
    for _ in range(3):
        epoch(count, 10.0, 20)
    epoch(count, 19.0, 19)  # Too few to be judged by,
    with pytest.raises(FloatingPointError, match="20 of 20 tasks"):
        epoch(count, 1.0, 1)  # but not together.


def test_within_an_epoch_the_count_is_that_so_far():
    count = NonfiniteTasks(0.5)
    for tasks in range(1, 40):
        count.check(0.5 * tasks, tasks, step=tasks)
    with pytest.raises(FloatingPointError, match="21 of 40 .*meta-step 40"):
        count.check(21.0, 40, step=40)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), None, "0.5"])
def test_a_share_is_from_0_to_1(share):
    with pytest.raises(ValueError, match="`max_nonfinite` is a share"):
        kr.MetaTrainer(max_nonfinite=share)


def test_other_metrics_leave_them_out():
    class Seen(keras.metrics.Metric):
        """Knows nothing of weights."""

        def __init__(self):
            super().__init__(name="seen")
            self.count = self.add_weight(initializer="zeros", name="count")

        def update_state(self, y_true, y_pred):
            self.count.assign_add(tf.cast(tf.size(y_true), tf.float32))

        def result(self):
            return self.count

    top = keras.metrics.SparseTopKCategoricalAccuracy(1, name="top")
    model = meta_model(metrics=[Seen(), top])
    alone = meta_model(metrics=["accuracy"])
    history = fit(model, stream([1])).history
    expected = fit(alone, without([1])).history
    assert history["seen"] == [3 * 2 * 6]
    np.testing.assert_allclose(history["top"], expected["accuracy"])


class Tasks(keras.metrics.Metric):
    """How often it was updated by something that counts."""

    def __init__(self):
        super().__init__(name="tasks")
        self.total = self.add_weight(initializer="zeros")

    def update_state(self, y, outputs, sample_weight=None):
        # Of one task: a row of queries for each way.
        keras.ops.reshape(outputs, (SPEC.ways, SPEC.queries, -1))
        weighted = sample_weight is not None
        self.total.assign_add(keras.ops.max(sample_weight) if weighted else 1)

    def result(self):
        return self.total


def of_the_batch(y, outputs):
    """Looks at the other examples of its batch; of zeros, it is NaN."""
    spread = tf.math.reduce_std(outputs, 0)
    centred = (outputs - tf.reduce_mean(outputs, 0)) * (spread / spread)
    return keras.losses.sparse_categorical_crossentropy(y, centred, True)


def test_losses_and_metrics_see_a_task_at_a_time():
    def model(metrics):
        model = meta_model(metrics=metrics)
        model.compile(
            optimizer=keras.optimizers.SGD(0.0),
            inner_optimizer=keras.optimizers.SGD(0.02),
            loss=of_the_batch,
            metrics=metrics,
            jit_compile=False,
        )
        return model

    history = fit(model([Tasks()]), stream([1])).history
    assert history["tasks"] == [3 * 2]
    by_task = [
        model(None).evaluate(tasks.take(3), return_dict=True, verbose=0)["loss"]
        for tasks in (without([1, 2]), without([0, 1]))
    ]
    np.testing.assert_allclose(history["loss"], np.mean(by_task), 1e-5)


def test_targets_of_unknown_width_are_trained_on():
    def loss(y, outputs):
        return tf.reduce_sum((y - outputs) ** 2, -1)

    model = meta_model(metrics=None)
    model.compile(loss=loss, inner_optimizer="sgd", jit_compile=False)
    tasks = next(iter(CLASSES.episodes(SPEC, 3, seed=1)))
    tasks = tf.nest.map_structure(lambda x: x.numpy(), tasks)
    support, query = (
        part._replace(y=np.eye(3, dtype="float32")[part.y])
        for part in (tasks.support, tasks.query)
    )
    tasks = kr.Task(support, query, tasks.batches)
    signature = tf.nest.map_structure(
        tf.TensorSpec.from_tensor,
        kr.Task(*(tf.nest.map_structure(tf.constant, part) for part in tasks)),
    )
    unknown = tf.TensorSpec((*query.y.shape[:2], None))
    signature = signature._replace(query=signature.query._replace(y=unknown))
    dataset = tf.data.Dataset.from_generator(
        lambda: iter([tasks] * 4), output_signature=signature
    )
    history = fit(model, dataset.repeat()).history
    assert np.isfinite(history["loss"]).all()


def test_evaluation_leaves_them_out():
    model, every = meta_model(), {"steps": 3, "return_dict": True, "verbose": 0}
    expected = model.evaluate(without([1]), **every)
    logs = model.evaluate(stream([1]), **every)
    assert logs.pop("inner/nonfinite_tasks") == 3
    assert expected.pop("inner/nonfinite_tasks") == 0
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], value, 1e-5)


def test_where_all_fail_there_is_no_loss():
    history = fit(meta_model(), stream([0, 1, 2])).history
    assert np.isnan(history["loss"]).all()
    assert np.isnan(history["inner_loss"]).all()
