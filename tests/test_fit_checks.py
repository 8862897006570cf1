"""What `fit` refuses, before anything of it is run."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import LOSS, SPEC, messages, meta_model, mlp
from trained_model import CLASSES, support

import keras_reptile as kr
from keras_reptile.losses import PerExampleLoss

LOSSES_OF_PROBABILITIES = [
    "binary_crossentropy",
    "binary_focal_crossentropy",
    "categorical_crossentropy",
    "categorical_focal_crossentropy",
    "sparse_categorical_crossentropy",
    keras.losses.BinaryCrossentropy,
    keras.losses.BinaryFocalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.CategoricalFocalCrossentropy,
    keras.losses.SparseCategoricalCrossentropy,
]


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
        ({"batches": ONE.batches[0]}, "Add an axis of tasks by"),
        ({"y": tf.cast(ONE.support.y, tf.float32)}, "integer labels"),
    ],
)
def test_tasks_that_do_not_suit_are_refused(changes, text):
    with pytest.raises(ValueError, match=text):
        meta_model().fit(dataset(**changes), steps_per_epoch=1, verbose=0)


def labelled(number):
    return ONE.support._replace(y=ONE.support.y + number)


ASKED = ONE._replace(query=ONE.support)


@pytest.mark.parametrize(
    "later, text",
    [
        ({"batches": ONE.batches + 9}, "`batches` must be from 0 to 11.*9 to"),
        ({"batches": ONE.batches - 1}, "`batches` must be from 0 to 11.*-1"),
        ({"support": labelled(1)}, "`support.y` must be from 0 to 2.*1 to 3"),
        ({"query": labelled(-9)}, "`query.y` must be from 0 to 2.*-9"),
        (
            {"query": ASKED.query._replace(x=ASKED.query.x * np.nan)},
            "`query.x` must be finite",
        ),
    ],
)
@pytest.mark.parametrize("steps", [1, 2])
def test_what_later_tasks_name_and_is_not_there_is_refused(later, text, steps):
    """A compiled program takes another row, or class, without a word."""
    first, later = (
        tf.data.Dataset.from_tensors(tasks)
        for tasks in (ASKED, ASKED._replace(**later))
    )
    model = meta_model(steps_per_execution=steps)
    model.fit(first.repeat(2), steps_per_epoch=2, verbose=0)
    both = first.concatenate(later)
    with pytest.raises(ValueError, match=text):
        model.fit(both, steps_per_epoch=2, verbose=0)
    with pytest.raises(ValueError, match=text):
        model.evaluate(both, steps=2, verbose=0)
    with pytest.raises(ValueError, match=text):
        model.fit(
            first.repeat(2),
            steps_per_epoch=2,
            validation_data=both,
            validation_steps=2,
            verbose=0,
        )


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64"])
def test_labels_of_a_small_dtype_may_be_of_many_classes(dtype):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(256)])
    model = kr.MetaModel(network)
    model.compile(loss=LOSS, jit_compile=False)
    support = ONE.support._replace(y=tf.cast(ONE.support.y, dtype))
    tasks = tf.data.Dataset.from_tensors(ASKED._replace(support=support))
    model.fit(tasks, verbose=0)


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
        ({"sample_weight": np.ones(3)}, "no weights.*`sample_weight`"),
        ({"validation_split": 0.2}, "held out whole.*`validation_split`"),
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


@pytest.mark.parametrize(
    "metric", [keras.metrics.AUC(name="x"), keras.metrics.F1Score(name="x")]
)
def test_a_metric_that_does_not_take_labels_is_named(metric):
    model = meta_model(metrics=[metric])
    with pytest.raises(ValueError, match=r"metric must.*'x'.*\(., 3\)"):
        model.fit(CLASSES.episodes(SPEC), steps_per_epoch=1)


def classifier(*layers):
    """A MetaModel of these layers on the blobs, with a loss by name."""
    network = keras.Sequential([keras.Input((4,)), *layers])
    model = kr.MetaModel(network)
    model.compile(loss="sparse_categorical_crossentropy", jit_compile=False)
    return model


def test_logits_are_refused_where_the_loss_expects_probabilities():
    logits = classifier(keras.layers.Dense(3, bias_initializer="ones"))
    episodes = CLASSES.episodes(SPEC)
    for call in (
        lambda: logits.fit(episodes, steps_per_epoch=1),
        lambda: logits.evaluate(episodes, steps=1),
        lambda: logits.adapt(*support().support),
        lambda: kr.evaluate(logits, CLASSES, kr.Protocol(ways=3, shots=2)),
        lambda: kr.analysis.hessian_vector_product(
            logits.learner,
            logits.initial_state(),
            *support().support,
            logits.initial_state().weights,
        ),
    ):
        with pytest.raises(ValueError, match="gives logits.*from_logits=True"):
            call()
    for layer, text in (
        (keras.layers.Dense(3, kernel_initializer="zeros"), "from 0 to 0"),
        # Above 1 and not below 0, and the other way round.
        (keras.layers.Dense(3, "softplus", bias_initializer="ones"), "from"),
        (keras.layers.Dense(3, "tanh"), "from -"),
    ):
        with pytest.raises(ValueError, match=f"outputs {text}"):
            classifier(layer).fit(episodes, steps_per_epoch=1)


class Draws(keras.layers.Layer):
    """Draws at every call, in training or not."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.generator = keras.random.SeedGenerator(0)

    def call(self, inputs):
        return inputs + keras.random.uniform((), seed=self.generator)


def rest(inputs):
    """Probabilities of which the last is what is left of 1, or less."""
    first = keras.ops.softmax(inputs)[:, :2]
    left = 1 - keras.ops.sum(first, 1, keepdims=True)
    return keras.ops.concatenate([first, left * 0 - 1e-6], 1)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", rest])
def test_probabilities_are_let_through_and_the_model_left_as_it_is(activation):
    model = classifier(
        keras.layers.BatchNormalization(),
        Draws(),
        keras.layers.Dense(3, activation=activation),
    )
    before = [v.numpy() for v in model.inner_model.variables]
    assert len(before) > len(model.inner_model.weights)
    model.evaluate(CLASSES.episodes(SPEC), steps=1, verbose=0)
    for variable, value in zip(model.inner_model.variables, before):
        np.testing.assert_array_equal(variable, value)


@pytest.mark.parametrize("loss", LOSSES_OF_PROBABILITIES)
def test_every_crossentropy_says_what_it_takes(loss):
    assert PerExampleLoss(loss).takes_probabilities
    if isinstance(loss, type):
        assert PerExampleLoss(loss()).takes_probabilities
        assert not PerExampleLoss(loss(from_logits=True)).takes_probabilities


def test_other_losses_take_any_outputs():
    class Own(keras.losses.SparseCategoricalCrossentropy):
        pass  # Whose `call` may be another.

    for loss in (
        *("mse", keras.losses.KLDivergence(), Own()),
        lambda y, z: z[:, 0],
    ):
        assert not PerExampleLoss(loss).takes_probabilities


def test_arrays_are_refused_with_what_to_make_of_them():
    x, y = support().support
    model = meta_model()
    for call in (model.fit, model.evaluate):
        with pytest.raises(ValueError, match=r"from_arrays\(x, y\).episodes"):
            call(x, y)
        with pytest.raises(ValueError, match=r"ndarray.*from_arrays\(x, y\)"):
            call(x)
    with pytest.raises(ValueError, match="batch_size=3.*meta_batch_size"):
        model.fit(CLASSES.episodes(SPEC), batch_size=3, steps_per_epoch=1)
    episodes = CLASSES.episodes(SPEC)
    for name, value in (
        ("epochs", "2"),
        ("steps_per_epoch", "5"),
        ("validation_batch_size", 4),
    ):
        arguments = {"steps_per_epoch": 1, name: value}
        with pytest.raises(ValueError, match=f"{name}={value!r}"):
            model.fit(episodes, validation_data=episodes, **arguments)


def test_a_schedule_that_has_ended_is_said(log):
    outer = keras.optimizers.SGD(kr.schedules.linear(1.0, 0.0, 4))
    model, episodes = meta_model(optimizer=outer), CLASSES.episodes(SPEC)
    model.fit(episodes, steps_per_epoch=2, epochs=2, verbose=0)
    assert "schedule" not in messages(log)
    model.fit(episodes, steps_per_epoch=1, verbose=0)
    text = "at 0 at its beginning and at its end (this `fit` takes meta-steps 4"
    assert text in messages(log)
    log.clear()
    again = meta_model(
        optimizer=keras.optimizers.SGD.from_config(outer.get_config())
    )
    again.fit(episodes, steps_per_epoch=5, verbose=0)
    assert "is at 0 at its end" in messages(log)
    log.clear()
    rising = keras.optimizers.schedules.CosineDecay(
        0.0, 100, warmup_target=1.0, warmup_steps=10
    )
    model = meta_model(optimizer=keras.optimizers.SGD(rising))
    model.fit(episodes, steps_per_epoch=1, verbose=0)
    assert "schedule" not in messages(log)


def test_a_scale_for_what_is_scaled_already_is_said(log):
    x = np.arange(6 * 4 * 4, dtype="uint8").reshape(24, 4)
    y = np.repeat(np.arange(6), 4)
    spec = kr.EpisodeSpec(ways=3, shots=2, queries=1)

    def fit(x, *scale, before=()):
        first = [*before, keras.layers.Rescaling(*scale)]
        inner = keras.Sequential([*first, keras.layers.Dense(3)])
        network = keras.Sequential([keras.Input((4,)), inner])
        model = kr.MetaModel(network)
        model.compile(loss=LOSS, jit_compile=False)
        classes = kr.data.from_arrays(x, y)
        model.fit(classes.episodes(spec), steps_per_epoch=1, verbose=0)
        found = "scales them by" in messages(log)
        log.clear()
        return found

    assert fit(x, 1 / 255)
    assert fit(x, 1 / 255, before=[keras.layers.GaussianNoise(0.1)])
    assert not fit(x, 1 / 255, before=[keras.layers.Dense(4)])
    assert not fit(x, 2.0, -1.0)
    assert not fit(x.astype("float32"), 1 / 255)


LAYERS = keras.layers
BEFORE = {
    "nothing": (lambda x: x, True),
    "a convolution": (LAYERS.Conv2D(2, 1), True),
    "rescaled": (LAYERS.Rescaling(1 / 255), False),
    "normalised": (LAYERS.BatchNormalization(), False),
    "divided": (lambda x: x / 255.0, False),
    "of a function": (LAYERS.Lambda(lambda x: x / 255.0), False),
}


def warns_of_bytes(x, before, log):
    inputs = keras.Input(x.shape[1:], dtype=x.dtype)
    outputs = LAYERS.Dense(3)(LAYERS.Flatten()(before(inputs)))
    model = kr.MetaModel(keras.Model(inputs, outputs))
    model.compile(loss=LOSS, jit_compile=False)
    classes = kr.data.from_arrays(x, np.repeat(np.arange(6), 4))
    spec = kr.EpisodeSpec(ways=3, shots=2)
    model.fit(classes.episodes(spec), steps_per_epoch=1, verbose=0)
    found = "Divide them by 255" in messages(log)
    log.clear()
    return found


def test_images_that_are_not_scaled_are_said(log):
    x = np.arange(24 * 8).reshape(24, 4, 2, 1) % 200
    for before, expected in BEFORE.values():
        assert warns_of_bytes(x.astype("float32"), before, log) == expected
    for other in (x + 0.5, x % 50, x - 100.0, x * 2.0, x[..., 0]):
        other = other.astype("float32")
        assert not warns_of_bytes(other, BEFORE["nothing"][0], log)


def test_a_width_of_one_is_for_two_classes(log):
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model = kr.MetaModel(network)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(loss=loss, jit_compile=False)
    for ways, said in ((2, False), (3, True)):
        spec = kr.EpisodeSpec(ways=ways, shots=2)
        model.fit(CLASSES.episodes(spec), steps_per_epoch=1, verbose=0)
        assert ("not as wide as the episodes" in messages(log)) == said
    protocol = kr.Protocol(ways=2, shots=1, num_episodes=2)
    with pytest.raises(ValueError, match="2 units, and compile with Sparse"):
        kr.evaluate(model, CLASSES, protocol)


def test_what_is_not_adapted_predicts_nothing():
    x = np.zeros((2, 4), "float32")
    model = classifier(
        keras.layers.BatchNormalization(name="norm"), keras.layers.Dense(3)
    )
    for predict in (model.predict, model.predict_on_batch):
        with pytest.raises(ValueError, match="`predict` of a model with norm"):
            predict(x)
    model.inner_model.get_layer("norm").trainable = False
    assert model.predict(x, 1, 0).shape == (2, 3)
    assert model.predict_on_batch(x).shape == (2, 3)


def test_nothing_is_asked_of_a_model_before_compile():
    model = kr.MetaModel(classifier(keras.layers.Dense(3)).inner_model)
    protocol = kr.Protocol(ways=3, shots=1, num_episodes=2)
    for call in (
        lambda: model.meta_step,
        lambda: kr.evaluate(model, CLASSES, protocol),
    ):
        with pytest.raises(ValueError, match="must be compiled first"):
            call()
    assert not hasattr(model, "meta_step")
    with pytest.raises(ValueError, match="Wrap its `inner_model`"):
        kr.MetaModel(model)


def test_arguments_in_the_order_of_keras_are_refused():
    model = kr.MetaModel(mlp())
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    with pytest.raises(ValueError, match="second argument.*inner optimizer"):
        model.compile("adam", loss, ["accuracy"])
    for name in ("loss", "metrics"):
        with pytest.raises(ValueError, match=f"one output.*`{name}` as a dict"):
            model.compile(**{"loss": loss, name: {"dense": "accuracy"}})


def test_validation_on_what_is_trained_on_is_said(log):
    def fit(validation_data):
        log.clear()
        model = meta_model()
        model.fit(
            trained_on.episodes(SPEC),
            steps_per_epoch=1,
            validation_data=validation_data,
            validation_steps=1,
            verbose=0,
        )
        return "of the classes that are trained on" in messages(log)

    half = CLASSES.num_classes // 2
    trained_on = CLASSES.subset(range(half))
    others = CLASSES.subset(range(half, CLASSES.num_classes))
    assert fit(trained_on.episodes(SPEC, seed=1))
    assert fit(CLASSES.subset(range(half - 1, half + 2)).episodes(SPEC))
    assert not fit(others.episodes(SPEC))
