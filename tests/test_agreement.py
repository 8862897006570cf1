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


def sine_agreement(algorithm, steps=5):
    """On fresh waves after 1,500 meta-steps, of so many batches each."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(32, "tanh") for _ in range(2)]
    model = kr.MetaModel(
        keras.Sequential([keras.Input((1,)), *layers, keras.layers.Dense(1)]),
        algorithm,
    )
    rate = 1.0 if algorithm == "joint" else 0.2
    model.compile(
        keras.optimizers.SGD(rate),
        keras.optimizers.SGD(0.02),
        "mse",
        jit_compile=False,
        steps_per_execution=100,
    )
    spec = kr.EpisodeSpec(
        ways=1, shots=50, inner_steps=steps, inner_batch_size=10
    )
    waves = kr.data.SineWaves()
    model.fit(waves.episodes(spec), steps_per_epoch=1_500, verbose=0)
    spec = dataclasses.replace(spec, inner_steps=5)
    fresh = next(iter(waves.episodes(spec, 100, seed=1)))
    return kr.analysis.gradient_agreement(model.learner, fresh)


def test_agreement_grows_with_the_steps_and_not_under_joint_training():
    joint = sine_agreement("joint")
    few, many = sine_agreement("reptile", 2), sine_agreement("reptile", 5)
    foml = sine_agreement("foml")
    print(joint, few, many, foml)
    for measure in ("inner_product", "transfer"):
        values = [getattr(of, measure) for of in (joint, few, many)]
        assert 2 * values[0] < values[2] and values[1] < values[2]
        assert 2 * values[0] < getattr(foml, measure)


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
    for name in ("inner_product", "cosine", "transfer"):
        received = history.history[f"gradient_{name}"][-1]
        np.testing.assert_allclose(received, getattr(expected, name), rtol=1e-4)
        ((step, shown),) = scalars(tmp_path)[f"gradient_{name}"]
        assert step == 3 and shown == np.float32(received)


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
            agreement, (4 * cosine, cosine, 0.36 * cosine), atol=1e-6
        )


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
