"""Whether gradients of batches agree: the measure, and T5 of the theory."""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SPEC, blobs, meta_model
from test_analysis import APART, classifier, learner_of
from watched_run import scalars

import keras_reptile as kr


def test_dropout_takes_nothing_of_the_transfer():
    learner, tasks = classifier(dropout=True)
    learner.optimizer.learning_rate = 0.0
    assert kr.analysis.gradient_agreement(learner, tasks).transfer == 0.0


def sine_agreement(algorithm, steps, outer_rate, meta_steps=1_500):
    """On fresh waves, of five batches each, however many are trained on."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, "tanh") for _ in range(2)]
    model = kr.MetaModel(
        keras.Sequential([keras.Input((1,)), *layers, keras.layers.Dense(1)]),
        algorithm,
    )
    model.compile(
        keras.optimizers.SGD(outer_rate),
        keras.optimizers.SGD(0.1),
        "mse",
        jit_compile=False,
        steps_per_execution=100,
    )
    spec = kr.EpisodeSpec(
        ways=1, shots=50, queries=10, inner_steps=steps, inner_batch_size=10
    )
    waves = kr.data.SineWaves()
    if meta_steps:
        stream = waves.episodes(spec)
        model.fit(stream, steps_per_epoch=meta_steps, verbose=0)
    fresh = waves.episodes(dataclasses.replace(spec, inner_steps=5), seed=1)
    return kr.analysis.gradient_agreement(model.learner, fresh, 200)


def is_above(high, low, measure):
    """Beyond both intervals."""
    gap = getattr(high, measure) - getattr(low, measure)
    return gap > sum(getattr(of, f"{measure}_ci95") for of in (high, low))


def test_agreement_grows_with_the_steps_and_not_under_joint_training():
    """T5: all take as long a way, of so many steps for each meta-step.

    MAML and its first-order form half of it; at twice their rates they diverge
    from some initial weights.
    """
    start = sine_agreement("joint", 1, 0.2, meta_steps=0)
    joint, foml, maml = (
        sine_agreement("joint", 1, 0.2),
        sine_agreement("foml", 2, 0.1),
        # In units of the gradient, which an inner step has a tenth of.
        sine_agreement("maml", 1, 0.01),
    )
    few, many = (
        sine_agreement("reptile", 2, 0.1),
        sine_agreement("reptile", 4, 0.05),
    )
    print(start, joint, few, many, foml, maml)
    for measure in ("inner_product", "cosine", "transfer"):
        assert is_above(few, joint, measure)
        assert is_above(many, few, measure)
        assert is_above(foml, joint, measure)
        assert is_above(maml, joint, measure)
    for measure in ("cosine", "transfer"):  # The product falls with the loss.
        assert is_above(few, start, measure)
    assert joint.cosine < start.cosine


def test_meta_trainer_logs_the_agreement(tmp_path):
    model = meta_model()
    stream = blobs(examples=8).episodes(APART, 2)
    trainer = kr.MetaTrainer(gradient_agreement=True, log_dir=str(tmp_path))
    history = model.fit(
        stream, steps_per_epoch=3, verbose=0, callbacks=[trainer]
    )
    tasks = [next(iter(stream.skip(i))) for i in range(10)]
    tasks = tf.nest.map_structure(lambda *x: tf.concat(x, 0), *tasks)
    expected = kr.analysis.gradient_agreement(model.learner, tasks)
    for name in kr.analysis.Agreement._fields:
        received = history.history[f"gradient_{name}"][-1]
        np.testing.assert_allclose(received, getattr(expected, name), rtol=1e-4)
        (first, before), (step, shown) = scalars(tmp_path)[f"gradient_{name}"]
        assert step == 3 and shown == np.float32(received)
        assert first == 0 and before != shown  # Where all began.


def test_agreement_of_orthogonal_and_of_equal_gradients():
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(1, use_bias=False)]
    )
    model.set_weights([np.ones((2, 1))])
    x = np.array([[[1, 0], [0, 1], [1, 0]]], "float32")
    examples = kr.Examples(x, np.zeros((1, 3, 1), "float32"))
    for second, cosine in ((1, 0.0), (2, 1.0)):
        batches = tf.constant([[[0], [second]]])
        agreement = kr.analysis.gradient_agreement(
            learner_of(model), kr.Task(examples, examples, batches)
        )
        # A gradient of 2; a step of 0.1 takes the loss from 1 to 0.64.
        np.testing.assert_allclose(
            agreement[:3], (4 * cosine, cosine, 0.36 * cosine), atol=1e-6
        )
        assert np.isnan(agreement[3:]).all()  # Of one task.


def test_tasks_need_not_be_alike():
    """As those of images of any extent."""
    learner, tasks = classifier()
    fewer = tasks._replace(
        support=kr.Examples(*(part[:, :-1] for part in tasks.support)),
        batches=tasks.batches % 3 + tf.range(3)[:, tf.newaxis] * 3,
    )
    both = [tf.data.Dataset.from_tensors(part) for part in (tasks, fewer)]
    both = [part.map(with_free_axes) for part in both]
    agreement = kr.analysis.gradient_agreement(
        learner, both[0].concatenate(both[1])
    )
    expected = [
        kr.analysis.gradient_agreement(learner, part)[:3]
        for part in (tasks, fewer)
    ]
    np.testing.assert_allclose(agreement[:3], np.mean(expected, 0), rtol=1e-5)


def with_free_axes(tasks):
    def free(part):
        return tf.ensure_shape(
            tf.py_function(lambda x: x, [part], part.dtype),
            [None] * part.shape.rank,
        )

    return tf.nest.map_structure(free, tasks)


def test_the_interval_is_that_of_the_tasks():
    learner, tasks = classifier()
    of_each = [
        kr.analysis.gradient_agreement(
            learner, tf.nest.map_structure(lambda part: part[tf.newaxis], task)
        )[:3]
        for task in kr.episodes.unstack(tasks)
    ]
    agreement = kr.analysis.gradient_agreement(learner, tasks)
    spread = 1.96 * np.std(of_each, 0, ddof=1) / np.sqrt(6)
    np.testing.assert_allclose(agreement[:3], np.mean(of_each, 0), rtol=1e-5)
    np.testing.assert_allclose(agreement[3:], spread, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"inner_steps": 1}, "two batches.*tasks of 1 batches"),
        ({"inner_batch_size": 8}, "share an example"),
    ],
)
def test_batches_that_are_not_apart_are_refused(settings, message):
    spec = dataclasses.replace(SPEC, **settings)
    tasks = next(iter(blobs().episodes(spec, 2)))
    with pytest.raises(ValueError, match=message):
        kr.analysis.gradient_agreement(classifier()[0], tasks)
