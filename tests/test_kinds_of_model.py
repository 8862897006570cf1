"""Any Keras model that is built: the ways users make them, and who is refused.

Each model goes all the way: `fit`, `evaluate`, `kr.evaluate`, `adapt`.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import SPEC, blobs, messages, mlp

import keras_reptile as kr
from keras_reptile import tokens

CLASSES = blobs(examples=10)
LABELS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, ways=3, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(8, activation="tanh")
        self.norm = keras.layers.BatchNormalization()
        self.head = keras.layers.Dense(ways)

    def call(self, x, training=None):
        return self.head(self.norm(self.hidden(x), training=training))

    def get_config(self):
        return {"ways": self.head.units}


class WithoutTraining(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(8, activation="tanh")
        self.head = keras.layers.Dense(3)

    def call(self, x):
        return self.head(self.hidden(x))


class Uncopied(Subclassed):
    def get_config(self):
        raise NotImplementedError("as Keras does for a model without one")


class OwnBatchNormalization(keras.layers.BatchNormalization):
    """A subclass that computes the same."""


class OtherBatchNormalization(keras.layers.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(2.0 * inputs, training=training, mask=mask)


def built(model, shape=(1, 4)):
    model(np.zeros(shape, "float32"))
    return model


def typed(dtype):
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(
                8,
                activation="tanh",
                dtype=dtype,
                kernel_regularizer=keras.regularizers.L2(1e-4),
            ),
            keras.layers.BatchNormalization(dtype=dtype),
            keras.layers.Dense(3, dtype=dtype),
        ]
    )


def functional_in_a_subclass():
    inputs = keras.Input((4,))
    outputs = keras.layers.Dense(3)(built(Subclassed(8))(inputs))
    return keras.Model(inputs, outputs)


def own_norm():
    hidden = keras.layers.Dense(8, activation="tanh")
    head = keras.layers.Dense(3)
    return keras.Sequential(
        [keras.Input((4,)), hidden, OwnBatchNormalization(), head]
    )


def compiled(network, **settings):
    model = kr.MetaModel(network)
    arguments = {
        "optimizer": keras.optimizers.SGD(0.5),
        "inner_optimizer": keras.optimizers.SGD(0.1),
        "loss": LABELS,
        "metrics": "accuracy",
        "jit_compile": False,
    }
    model.compile(**{**arguments, **settings})
    return model


KINDS = {
    "subclassed": lambda: built(Subclassed()),
    "nested": functional_in_a_subclass,
    "own norm": own_norm,
    "bare call": lambda: built(WithoutTraining()),
    "float64": lambda: typed("float64"),
    "mixed": lambda: typed("mixed_bfloat16"),
    "bfloat16": lambda: typed("bfloat16"),
}


def kinds_compiled():
    """Those that differ most in how they compile; the rest take minutes."""
    return quick_ones("subclassed", "own norm", "mixed")


def quick_ones(*kinds):
    slow = pytest.mark.slow
    return [pytest.param(k, marks=() if k in kinds else slow) for k in KINDS]


@pytest.mark.parametrize("kind", kinds_compiled())
def test_goes_all_the_way_compiled(kind):
    check_all_the_way(KINDS[kind](), jit_compile=True)


@pytest.mark.parametrize(
    "kind", quick_ones("nested", "bare call", "float64", "bfloat16")
)
def test_goes_all_the_way(kind):
    check_all_the_way(KINDS[kind](), jit_compile=False)


def check_all_the_way(network, jit_compile):
    model = compiled(network, jit_compile=jit_compile)
    stream = CLASSES.episodes(SPEC, meta_batch_size=2)
    history = model.fit(stream, steps_per_epoch=30, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    logs = model.evaluate(stream, steps=10, return_dict=True, verbose=0)
    assert logs["accuracy"] > 0.6
    protocol = kr.Protocol(
        ways=3, shots=3, inner_steps=5, inner_batch_size=4, num_episodes=20
    )
    scores = kr.evaluate(model, CLASSES, protocol)
    assert scores["transductive"].mean > 0.6
    task = CLASSES.episode(SPEC, 3)
    personal = model.adapt(task.support.x, task.support.y, steps=20)
    hits = personal.predict(task.query.x, verbose=0).argmax(1) == task.query.y
    assert np.mean(hits) > 0.6


def test_tokens():
    network = keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            keras.layers.Embedding(9, 4),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3),
        ]
    )
    words = np.repeat(np.arange(6), 8)[:, None] + np.zeros((1, 5))
    classes = kr.data.from_arrays(words.astype("float32"), words[:, 0] > 8)
    classes = kr.data.ClassDataset(classes.x, [8] * 6)
    model = compiled(network, inner_optimizer=keras.optimizers.Adam(0.1))
    model.fit(classes.episodes(SPEC), steps_per_epoch=10, verbose=0)
    x, y = words[::8][:3].astype("int64"), np.arange(3)
    personal = model.adapt(x, y, steps=30)
    assert (personal.predict(x, verbose=0).argmax(1) == y).all()
    with pytest.raises(ValueError, match="`x` must be of tokens from 0 to 8"):
        model.adapt(x + 7, y)
    others = kr.data.ClassDataset(classes.x + 4, [8] * 6)
    with pytest.raises(ValueError, match="support.x` must be of tokens.* to 9"):
        model.fit(others.episodes(SPEC), steps_per_epoch=1)


def token_models():
    def table():
        return keras.layers.Embedding(9, 4, name="table")

    class Own(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.table = table()

        def call(self, x):
            return self.table(x)

    x = keras.Input((5,))
    cast = keras.Model(x, table()(keras.ops.cast(x, "int32")))
    return {
        "floats": [keras.Input((5,)), table()],
        "nested": [
            keras.Input((5,), dtype="int32"),
            keras.Sequential([table()]),
        ],
        "cast": [keras.Input((5,)), cast],
        "own": [keras.Input((5,)), Own()],
    }


@pytest.mark.parametrize("kind", ["floats", "nested", "cast", "own"])
def test_tokens_are_found_out_wherever_the_table_is(kind):
    network = keras.Sequential(
        [*token_models()[kind], keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model = compiled(network)
    x, y = np.full((3, 5), 8, "float32"), np.arange(3)
    model.adapt(x, y, steps=1)
    with pytest.raises(ValueError, match="0 to 8, which the layer table kn"):
        model.adapt(x + 1, y, steps=1)


def test_a_model_that_maps_its_tokens_takes_any():
    x = keras.Input((5,), dtype="int32")
    known = keras.layers.Embedding(9, 4)(keras.ops.minimum(x, 8))
    network = keras.layers.Dense(3)(keras.layers.Flatten()(known))
    model = compiled(keras.Model(x, network))
    model.adapt(np.full((3, 5), 99), np.arange(3), steps=1)


class Hashed(keras.layers.Embedding):
    def call(self, inputs):
        return super().call(keras.ops.mod(inputs, self.input_dim))


def test_a_table_that_maps_its_tokens_takes_any():
    layers = Hashed(9, 4), keras.layers.Flatten(), keras.layers.Dense(3)
    model = compiled(keras.Sequential([keras.Input((5,)), *layers]))
    model.adapt(np.full((3, 5), 99.0), np.arange(3), steps=1)


class CountingExamples(keras.layers.Layer):
    """Keeps how many examples it is called on."""

    def call(self, inputs):
        self.called_on = {*getattr(self, "called_on", ()), inputs.shape[0]}
        return inputs


def test_tokens_are_looked_at_some_at_a_time():
    """As all examples of a meta-batch may be too many for the memory."""
    counting = CountingExamples()
    network = keras.Sequential(
        [
            keras.Input((5,)),
            counting,
            keras.layers.Embedding(9, 4),
            keras.layers.Flatten(),
        ]
    )
    x = np.zeros((70, 5), "float32")
    x[65] = 9
    with pytest.raises(ValueError, match="Received: 0 to 9"):
        tokens.check_tokens(x, network)
    assert counting.called_on == {None, 24, 23}


def test_tokens_are_looked_at_as_they_are_given():
    """Neither as 32 bits, nor forgotten where a later part fails."""
    table = keras.layers.Embedding(9, 4)
    network = keras.Sequential([keras.Input((1,), dtype="int64"), table])
    x = np.full((3, 1), 2**32 + 1)
    with pytest.raises(ValueError, match="Received: 4294967297 to 42949672"):
        tokens.check_tokens(x, network)

    class OnlyMany(keras.layers.Layer):
        def call(self, inputs):
            if inputs.shape[0] == 32:
                raise RuntimeError
            return inputs

    network = keras.Sequential([keras.Input((1,)), table, OnlyMany()])
    with pytest.raises(ValueError, match="Received: 9 to 9"):
        tokens.check_tokens(np.full((64, 1), 9.0), network)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_integers_are_not_cut_out_of_episodes_of_floats(dtype):
    """Episodes hold images of 0 to 255 as 0 to 1."""
    network = keras.Sequential(
        [
            keras.Input((5,), dtype=dtype),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Dense(3),
        ]
    )
    x = np.arange(6 * 8 * 5, dtype="uint8").reshape(-1, 5)
    images, model = kr.data.ClassDataset(x, [8] * 6), compiled(network)
    text = f"must be whole numbers, as the model's input is of {dtype}"
    with pytest.raises(ValueError, match=f"`support.x` {text}"):
        model.fit(images.episodes(SPEC), steps_per_epoch=1)
    with pytest.raises(ValueError, match=f"`classes` {text}"):
        kr.evaluate(model, images, kr.Protocol(ways=3, shots=2, queries=1))
    whole = kr.data.ClassDataset(x.astype("float32"), [8] * 6)
    model.fit(whole.episodes(SPEC), steps_per_epoch=1, verbose=0)


def test_regression():
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model = compiled(network, loss="mse", metrics=["mae"])
    x = np.linspace(-1, 1, 10, dtype="float32")[:, None]
    personal = model.adapt(x, 3 * x + 1, steps=200)
    np.testing.assert_allclose(
        personal.predict(x, verbose=0), 3 * x + 1, atol=0.01
    )
    with pytest.raises(ValueError, match="targets of shape .10, 2."):
        model.adapt(x, np.zeros((10, 2)))
    with pytest.raises(ValueError, match="`y` must be finite"):
        model.adapt(x, x * np.nan)


def test_several_inputs_or_outputs_are_refused():
    one, two = keras.Input((4,)), keras.Input((4,))
    dense = keras.layers.Dense(3)
    with pytest.raises(ValueError, match="one input.*2 inputs"):
        kr.MetaModel(keras.Model([one, two], dense(one + two)))
    with pytest.raises(ValueError, match="one output.*2 outputs"):
        kr.MetaModel(keras.Model(one, [dense(one), dense(one)]))


def test_a_layer_of_a_function_is_copied():
    network = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Lambda(lambda x: 2.0 * x),
            keras.layers.Dense(3),
        ]
    )
    task = CLASSES.episode(SPEC)
    x, y = task.support
    model = compiled(network)
    personal = model.adapt(x, y, steps=3)
    personal.trainable = False  # Which is not the model's own.
    personal = model.adapt(x, y, steps=3)
    kernel, bias = personal.get_weights()
    assert not np.array_equal(kernel, network.get_weights()[0])
    np.testing.assert_allclose(
        personal.predict(x, verbose=0), 2 * x.numpy() @ kernel + bias, 1e-5
    )


def test_a_model_that_cannot_be_copied_cannot_be_adapted(log):
    compiled(built(Subclassed(ways=3)))
    assert "able to copy" not in messages(log)
    model = compiled(built(Uncopied()))
    assert "not be able to copy the model Uncopied" in messages(log)
    task = CLASSES.episode(SPEC)
    with pytest.raises(ValueError, match="Uncopied.*get_config"):
        model.adapt(task.support.x, task.support.y)


def test_a_subclass_of_another_width_or_shape_is_refused():
    model = compiled(built(Subclassed(ways=4)))
    with pytest.raises(ValueError, match="width 4, and ways=3"):
        model.fit(CLASSES.episodes(SPEC), steps_per_epoch=1)
    model = compiled(built(Subclassed()))
    others = blobs(examples=10, size=7).episodes(SPEC)
    with pytest.raises(ValueError, match="could not be called.*shape .7,"):
        model.fit(others, steps_per_epoch=1)


def test_frozen_after_compile_is_refused():
    model = compiled(mlp())
    model.inner_model.layers[0].trainable = False
    stream = CLASSES.episodes(SPEC)
    for action in (
        lambda: model.fit(stream, steps_per_epoch=1),
        lambda: model.evaluate(stream, steps=1),
        lambda: model.adapt(np.zeros((2, 4)), [0, 1]),
    ):
        with pytest.raises(ValueError, match="6 variables at `compile` and 4"):
            action()


def test_other_shapes_may_follow_each_other():
    model = compiled(mlp())
    for steps in (2, 5):
        spec = kr.EpisodeSpec(ways=3, shots=2, inner_steps=steps)
        stream = CLASSES.episodes(spec, meta_batch_size=steps)
        model.fit(stream, steps_per_epoch=2, verbose=0)
        model.evaluate(stream, steps=2, verbose=0)


def test_what_cannot_be_lowered_is_said(log):
    network = keras.Sequential(
        [keras.Input((4,)), OtherBatchNormalization(), keras.layers.Dense(3)]
    )
    compiled(network)
    assert "moving averages" in messages(log)


def test_a_loss_of_ones_own_with_another_width_is_said(log):
    model = compiled(
        mlp(ways=4), loss=lambda y, z: LABELS.call(y, z), metrics=()
    )
    model.fit(CLASSES.episodes(SPEC), steps_per_epoch=1, verbose=0)
    assert "not as wide as the episodes have classes (3)" in messages(log)


def test_episodes_that_start_over_are_said(log):
    model = compiled(mlp())
    stream = CLASSES.episodes(SPEC).map(lambda task: task)
    model.fit(stream, steps_per_epoch=1, verbose=0)
    assert "starts at the" not in messages(log)
    model.fit(stream, steps_per_epoch=1, verbose=0)
    assert "stands at meta-step 1" in messages(log)


def test_losses_that_do_not_fit_the_outputs_are_refused():
    for loss in ("categorical_crossentropy", lambda y, z: z):
        model = compiled(mlp(), loss=loss, metrics=())
        if callable(loss):
            continue
        with pytest.raises(ValueError, match="outputs of shape .9, 3."):
            model.fit(CLASSES.episodes(SPEC), steps_per_epoch=1)


def test_a_function_that_could_not_be_found_again_is_not_saved(tmp_path):
    def mine(learner, state, task):
        return [tf.zeros_like(w) for w in state.weights], state

    model = kr.MetaModel(mlp(), algorithm=mine)
    with pytest.raises(ValueError, match="register_keras_serializable"):
        model.save(tmp_path / "model.keras")


def test_a_sum_of_several_values_is_asked_about():
    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(6), keras.layers.Reshape((3, 2))]
    )
    loss = keras.losses.MeanSquaredError(reduction="sum")
    x, y = np.zeros((4, 4), "float32"), np.zeros((4, 3, 2), "float32")
    with pytest.raises(ValueError, match="Say by `inner_reduction`"):
        compiled(network, loss=loss, metrics=[]).adapt(x, y)
    for reduction in ("sum", "mean"):
        compiled(
            network, loss=loss, metrics=[], inner_reduction=reduction
        ).adapt(x, y)


def test_metrics_that_fail_with_weights():
    metric = keras.metrics.BinaryIoU()
    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, "sigmoid")]
    )
    model = compiled(network, loss="binary_crossentropy", metrics=[metric])

    def of_several(task):
        support, query = (
            part._replace(y=tf.one_hot(part.y, 3)) for part in task[:2]
        )
        return kr.Task(support, query, task.batches)

    stream = CLASSES.episodes(SPEC, 2).map(of_several)
    logs = model.evaluate(stream, steps=2, return_dict=True, verbose=0)
    assert 0 <= logs["binary_io_u"] <= 1


def test_metrics_in_any_form():
    def half(targets, outputs):
        return tf.fill(tf.shape(targets), 0.5)

    model = compiled(mlp(), metrics=["accuracy", half, keras.metrics.Mean()])
    assert [m.name for m in model.metrics][1:3] == ["accuracy", "half"]


def test_normalization_is_handed_back_as_it_was_adapted():
    data = 5 + 3 * np.random.default_rng(0).normal(size=(50, 4))
    norm = keras.layers.Normalization()
    norm.adapt(data)
    network = keras.Sequential([keras.Input((4,)), norm, keras.layers.Dense(3)])
    model = compiled(network, inner_optimizer=keras.optimizers.SGD(1e-12))
    x = data[:3].astype("float32")
    personal = model.adapt(x, np.arange(3), steps=1)
    np.testing.assert_allclose(personal(x), network(x), atol=1e-5)


@pytest.mark.parametrize("frozen", ["hidden", "norm", "head"])
def test_frozen_layers_are_handed_back_as_they_were(frozen):
    network = built(Subclassed())
    getattr(network, frozen).trainable = False
    before = [v.numpy() for v in getattr(network, frozen).variables]
    model = compiled(network)
    task = CLASSES.episode(SPEC)
    personal = model.adapt(task.support.x, task.support.y, steps=3)
    copied = getattr(personal, frozen)
    assert not copied.trainable
    for old, new in zip(before, copied.variables):
        np.testing.assert_array_equal(old, new.numpy())
    others = model.inner_model.trainable_variables
    assert len(personal.trainable_variables) == len(others)


def test_a_copy_that_forgets_an_argument_is_refused():
    class Forgets(Subclassed):
        def get_config(self):
            return {}

    model = compiled(built(Forgets(ways=5)))
    with pytest.raises(ValueError, match="get_config.*every argument"):
        model.adapt(np.zeros((2, 4)), [0, 1])


def test_validation_by_fit_may_have_other_shapes():
    model = compiled(mlp())
    other = kr.EpisodeSpec(ways=3, shots=3, queries=2, inner_steps=5)
    history = model.fit(
        CLASSES.episodes(SPEC, meta_batch_size=2),
        steps_per_epoch=2,
        epochs=2,
        validation_data=CLASSES.episodes(other, meta_batch_size=3),
        validation_steps=2,
        verbose=0,
    ).history
    assert len(history["val_loss"]) == 2


def test_evaluation_refuses_what_fit_refuses():
    protocol = kr.Protocol(ways=3, shots=2)
    model = compiled(mlp())
    model.inner_model.layers[0].trainable = False
    with pytest.raises(ValueError, match="6 variables at `compile` and 4 now"):
        kr.evaluate(model, CLASSES, protocol)
    model = compiled(mlp(), loss="mse", metrics=())
    with pytest.raises(ValueError, match="targets of shape .3,. "):
        kr.evaluate(model, CLASSES, protocol)


def test_outputs_of_other_kinds_are_refused():
    one = keras.Input((4,))
    dense = keras.layers.Dense(3)
    with pytest.raises(ValueError, match="dictionary"):
        kr.MetaModel(keras.Model(one, {"a": dense(one)}))
    scalar = keras.Model(one, keras.ops.sum(dense(one), axis=1))
    with pytest.raises(ValueError, match="one number per example"):
        compiled(scalar, metrics=()).fit(
            CLASSES.episodes(SPEC), steps_per_epoch=1
        )


def test_one_unit_for_two_classes():
    network = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(1, activation="sigmoid")]
    )
    model = compiled(network, loss="binary_crossentropy")
    spec = kr.EpisodeSpec(ways=2, shots=3, queries=2, inner_steps=20)
    logs = model.fit(CLASSES.episodes(spec), steps_per_epoch=20, verbose=0)
    assert logs.history["accuracy"][0] > 0.8


def test_layers_that_assign_to_their_weights_are_refused():
    layer = keras.layers.SpectralNormalization(keras.layers.Dense(3))
    with pytest.raises(ValueError, match="dense.*/kernel is assigned to"):
        compiled(keras.Sequential([keras.Input((4,)), layer]))


class Counting(keras.layers.Layer):
    def build(self, shape):
        self.calls = self.add_weight(name="calls", trainable=False)

    def call(self, x, training=None):
        if training:
            self.calls.assign_add(1.0)
        return x


def test_layers_that_gather_something_are_said(log):
    layers = [keras.Input((4,)), Counting(), keras.layers.Dense(3)]
    model = compiled(keras.Sequential(layers))
    assert "counting" in messages(log) and "of one task" in messages(log)
    model.fit(CLASSES.episodes(SPEC), steps_per_epoch=1, verbose=0)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_masked_outputs_and_ignored_classes_are_refused(dtype):
    layers = [keras.layers.Embedding(9, 4, mask_zero=True, dtype=dtype)]
    layers.append(keras.layers.Dense(3, dtype=dtype))
    network = keras.Sequential([keras.Input((5,), dtype="int32"), *layers])
    learner = compiled(network).learner
    x, y = np.ones((2, 5), "int32"), np.ones((2, 5), "int32")
    with pytest.raises(ValueError, match="must not be masked"):
        learner.gradient(learner.state(), tf.constant(x), tf.constant(y))
    loss = keras.losses.SparseCategoricalCrossentropy(ignore_class=0)
    with pytest.raises(ValueError, match="of all classes.*ignore_class=0"):
        compiled(mlp(), loss=loss)


class Squared(keras.losses.Loss):
    def call(self, targets, outputs):
        return keras.ops.mean((targets - outputs) ** 2, -1)


@pytest.mark.parametrize("shapes", [((4,), (4, 1)), ((4, 1), (4,))])
@pytest.mark.parametrize("loss", [Squared(), lambda y, z: (y - z) ** 2])
def test_an_axis_of_one_value_is_added_as_keras_does(shapes, loss):
    values = [np.arange(4.0).reshape(shape) for shape in shapes]
    values = [tf.constant(v, d) for v, d in zip(values, ("int32", "float32"))]
    if callable(loss) and not isinstance(loss, Squared):
        values[0] = tf.cast(values[0], "float32")  # A function has no dtype.
    losses = kr.losses.PerExampleLoss(loss)(*values)
    np.testing.assert_array_equal(losses, [0.0] * 4)


def test_a_frozen_layer_without_weights_is_noticed():
    norm = keras.layers.BatchNormalization(center=False, scale=False)
    layers = [keras.Input((4,)), norm, keras.layers.Dense(3)]
    model = compiled(keras.Sequential(layers))
    norm.trainable = False
    with pytest.raises(ValueError, match="of batch_norm.* set since"):
        model.fit(CLASSES.episodes(SPEC), steps_per_epoch=1)


def test_averages_that_are_never_read_are_not_said(log):
    layers = [keras.layers.Reshape((2, 2)), keras.layers.LeakyReLU()]
    layers.insert(1, keras.layers.BatchNormalization(axis=1))
    layers += [keras.layers.Flatten(), keras.layers.Dense(3)]
    compiled(keras.Sequential([keras.Input((4,)), *layers]))
    assert "moving" not in messages(log)
