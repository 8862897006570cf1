"""Checkpoints: whole, checked, and of the right architecture."""

import keras
import numpy as np
import pytest
from conftest import LOSS, all_values, assert_same, meta_model, mlp

import keras_reptile as kr
from keras_reptile import checkpoints


def changed(model):
    """Other values everywhere, so that a restore has something to do."""
    for variable in checkpoints.variables_of(model).values():
        variable.assign(np.ones(variable.shape, variable.dtype) * 3)
    return model


def test_everything_comes_back(tmp_path):
    model = changed(meta_model(optimizer=keras.optimizers.Adam(0.1)))
    checkpoints.write(tmp_path / "a.npz", model, {"best": 0.5})
    other = meta_model(optimizer=keras.optimizers.Adam(0.1))
    assert checkpoints.restore(tmp_path / "a.npz", other) == {"best": 0.5}
    assert_same(all_values(model), all_values(other))


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
def test_a_truncated_file_is_found(tmp_path, kept):
    path = tmp_path / "a.npz"
    checkpoints.write(path, meta_model())
    content = path.read_bytes()
    size = int(kept * len(content)) if kept < 1 else kept
    path.write_bytes(content[:size])
    with pytest.raises(checkpoints.DamagedCheckpoint):
        checkpoints.restore(path, meta_model())


def test_a_flipped_bit_anywhere_is_found_or_harmless(tmp_path):
    path = tmp_path / "a.npz"
    model = meta_model()
    checkpoints.write(path, model)
    content = path.read_bytes()
    _, whole = checkpoints.read(path)
    rng = np.random.default_rng(0)
    found = 0
    for position in rng.integers(len(content), size=150):
        flipped = bytearray(content)
        flipped[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(flipped)
        try:
            _, arrays = checkpoints.read(path)
        except checkpoints.DamagedCheckpoint:
            found += 1
        else:
            # A bit of zip's own that nothing reads, such as a time.
            assert_same(arrays, whole)
    assert found > 100


def test_all_damaged_is_said_and_nothing_is_removed(tmp_path):
    for step in (1, 2):
        checkpoints.step_path(tmp_path, step).write_bytes(b"")
    with pytest.raises(ValueError, match="2, all damaged"):
        checkpoints.latest(tmp_path, meta_model())
    assert len(checkpoints.list_steps(tmp_path)) == 2


def test_another_architecture_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "a.npz"
    checkpoints.write(path, changed(meta_model()))
    other = kr.MetaModel(mlp(ways=4))
    other.compile(
        inner_optimizer=keras.optimizers.Adam(0.1),
        loss="sparse_categorical_crossentropy",
    )
    before = all_values(other)
    with pytest.raises(ValueError, match=r"\(8, 4\) here, .*\(8, 3\) there"):
        checkpoints.restore(path, other)
    assert_same(before, all_values(other))


def network(**layer):
    layer = {"activation": "tanh", **layer}
    x = inputs = keras.Input((4,))
    x = keras.layers.Dense(8, **layer)(x)
    x = keras.layers.Dropout(0.1 if len(layer) == 1 else 0.2)(x)
    model = kr.MetaModel(keras.Model(inputs, keras.layers.Dense(3)(x)))
    model.compile(inner_optimizer="adam", loss=LOSS, jit_compile=False)
    return model


@pytest.mark.parametrize(
    "layer, text",
    [
        ({"activation": "relu"}, "a layer that is .*relu.* here, .*tanh"),
        ({"dtype": "float64"}, "float64 of shape .* here, float32 of shape"),
    ],
)
def test_layers_of_equal_shapes_are_told_apart(tmp_path, layer, text):
    checkpoints.write(tmp_path / "a.npz", changed(network()))
    other = network(**layer)
    before = all_values(other)
    with pytest.raises(ValueError, match=text):
        checkpoints.restore(tmp_path / "a.npz", other)
    assert_same(before, all_values(other))


def test_what_is_of_training_may_be_another(tmp_path):
    """As where weights are only to be used."""
    model = changed(network())
    checkpoints.write(tmp_path / "a.npz", model)
    # The rate of the dropout is another one, too.
    other = network(
        kernel_initializer="zeros", kernel_regularizer=keras.regularizers.L2()
    )
    checkpoints.restore(tmp_path / "a.npz", other)
    assert_same(all_values(model), all_values(other))


class WithFunction(keras.layers.Layer):
    def get_config(self):
        return {**super().get_config(), "function": object()}

    def call(self, inputs):
        return inputs


def pooled(size, momentum):
    layers = (
        keras.layers.Conv2D(2, 3),
        keras.layers.BatchNormalization(momentum=momentum),
        # Code that is one line lower than the other's.
        keras.layers.Lambda(lambda x: x)
        if size
        else keras.layers.Lambda(lambda x: x),
        WithFunction(),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(3),
    )
    network = keras.Sequential([keras.Input((size, size, 1)), *layers])
    model = kr.MetaModel(network)
    model.compile(loss=LOSS, jit_compile=False)
    return model


def test_weights_go_where_they_compute_the_same(tmp_path):
    model, other = changed(pooled(8, 0.9)), pooled(None, 0.99)
    checkpoints.write(tmp_path / "a.npz", model)
    checkpoints.restore(tmp_path / "a.npz", other)
    assert_same(all_values(model), all_values(other))


@pytest.mark.parametrize(
    "model, text",
    [
        (mlp, "of a `kr.MetaModel`.*Received: Sequential"),
        (lambda: kr.MetaModel(mlp()), "must be compiled first"),
    ],
)
def test_what_has_no_optimizers_has_no_checkpoint(tmp_path, model, text):
    path = tmp_path / "a.npz"
    checkpoints.write(path, meta_model())
    for use in (checkpoints.restore, checkpoints.write):
        with pytest.raises(ValueError, match=text):
            use(path, model())
    with pytest.raises(ValueError, match=text):
        checkpoints.latest(tmp_path, model())
    with pytest.raises(ValueError, match=text):
        checkpoints.variables_of(model())


def test_other_files_are_named_as_such(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(2))
    with pytest.raises(checkpoints.DamagedCheckpoint, match="did not write it"):
        checkpoints.restore(tmp_path / "a.npz", meta_model())
    with pytest.raises(OSError, match="no folder for it.*absent/a.npz"):
        checkpoints.write(tmp_path / "absent" / "a.npz", meta_model())


def test_checkpoints_are_in_the_order_of_their_steps(tmp_path):
    steps = [3, 999_999_999, 1_000_000_000]
    for step in reversed(steps):
        checkpoints.step_path(tmp_path, step).touch()
    found = checkpoints.list_steps(tmp_path)
    assert [checkpoints.step_of(path) for path in found] == steps
    assert checkpoints.step_of("folder/step-000000012.npz") == 12
    with pytest.raises(ValueError, match="named by its meta-step.*best.npz"):
        checkpoints.step_of(tmp_path / "best.npz")


def test_another_optimizer_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    checkpoints.write(path, meta_model())
    other = meta_model(inner_optimizer=keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="the optimizers it was made with"):
        checkpoints.restore(path, other)


def test_what_of_the_optimizers_differs_is_said(tmp_path):
    schedule = keras.optimizers.SGD(kr.schedules.linear(1.0, 0.0, 9))
    checkpoints.write(tmp_path / "c.npz", meta_model(optimizer=schedule))
    inner = {"inner_optimizer": keras.optimizers.SGD(0.1)}
    outer = "same outer optimizer, its learning rate a number or a schedule"
    for other, text in (
        (meta_model(), outer),
        (meta_model(optimizer=schedule, **inner), "same inner optimizer"),
        (meta_model(**inner), "same outer and inner optimizer"),
    ):
        with pytest.raises(ValueError, match=text):
            checkpoints.restore(tmp_path / "c.npz", other)


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match=r"a folder.*checkpoints\.latest"):
        checkpoints.restore(tmp_path, meta_model())


def test_a_saved_model_is_no_checkpoint(tmp_path):
    model, path = meta_model(), tmp_path / "model.keras"
    model.save(path)
    with pytest.raises(ValueError, match=r"an `.npz`.*model.keras.*load_model"):
        checkpoints.restore(path, model)


def test_a_failed_write_leaves_the_file_before(tmp_path):
    from keras_reptile.files import atomic_write

    path = tmp_path / "a"
    path.write_bytes(b"before")
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_every_precision_comes_back(tmp_path, dtype):
    def model():
        layer = keras.layers.Dense(3, dtype=dtype)
        network = keras.Sequential([keras.Input((4,)), layer])
        model = kr.MetaModel(network)
        model.compile(inner_optimizer="adam", loss=LOSS, jit_compile=False)
        return model

    first = model()
    for variable in checkpoints.variables_of(first).values():
        variable.assign(np.full(variable.shape, 0.1).astype(variable.dtype))
    checkpoints.write(tmp_path / "a.npz", first)
    other = model()
    checkpoints.restore(tmp_path / "a.npz", other)
    assert_same(all_values(first), all_values(other))
