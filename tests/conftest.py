"""Small problems on which every behaviour can be seen in a second."""

import gc
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
import tensorflow as tf
from absl import logging
from mini_imagenet_tree import write_tree
from tensorflow.python.framework import ops

import keras_reptile as kr
from keras_reptile import evaluation

# Each is traced and optimized apart, which takes longer than these problems;
# the programs, in processes of their own, have as many as users have.
evaluation._AT_ONCE = 2
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})

# Four devices out of one processor, for the tests of tf.distribute.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 4,
)


@pytest.fixture(autouse=True)
def _seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _forget_gradients():
    """TensorFlow keeps every `tf.custom_gradient` that was traced, and with
    it the graphs around it: 5 GB after all tests, half of whose time then
    went into looking for garbage."""
    before = set(ops.gradient_registry.list())
    yield
    for name in set(ops.gradient_registry.list()) - before:
        del ops.gradient_registry._registry[name]
    gc.collect()


@pytest.fixture
def float64():
    """Where float32's rounding would switch ReLUs whose input is nearly 0."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def log(caplog):
    """absl's log, which does not propagate to pytest by itself."""
    logging.get_absl_logger().addHandler(caplog.handler)
    yield caplog
    logging.get_absl_logger().removeHandler(caplog.handler)


def messages(log):
    return " ".join(record.getMessage() for record in log.records)


@pytest.fixture
def tree(tmp_path):
    """A small one of images, laid out as mini-ImageNet is."""
    return write_tree(tmp_path / "tree")


@pytest.fixture
def load(tmp_path):
    """The loader for trees that are not the whole of mini-ImageNet."""

    def load(data_dir, classes="any", **arguments):
        return kr.data.mini_imagenet(
            data_dir, classes=classes, cache_dir=tmp_path / "cache", **arguments
        )

    return load


@pytest.fixture(scope="session")
def strategy():
    """One for all tests: a second one in a process reuses the keys of the
    first one's collectives, and TensorFlow aborts."""
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(4)])


def blobs(num_classes=8, examples=6, size=4, seed=0):
    """Classes of points around centres, easy to tell apart."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 2, (num_classes, 1, size))
    x = centres + rng.normal(0, 0.5, (num_classes, examples, size))
    x = x.reshape(-1, size).astype("float32")
    return kr.data.ClassDataset(x, [examples] * num_classes)


def mlp(ways=3, size=4, dropout=False):
    layers = [
        keras.Input((size,)),
        keras.layers.Dense(8, activation="tanh"),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(ways),
    ]
    if dropout:
        layers.insert(2, keras.layers.Dropout(0.5))
    return keras.Sequential(layers)


def of_tokens():
    """A network of three tokens out of ten, whose gradients are sparse."""
    return keras.Sequential(
        [
            keras.Input((3,), dtype="int32"),
            keras.layers.Embedding(10, 4),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )


LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def meta_model(
    inner_state="average", dropout=False, algorithm="reptile", **settings
):
    keras.utils.set_random_seed(0)
    model = kr.MetaModel(
        mlp(dropout=dropout), algorithm, inner_state=inner_state
    )
    arguments = {
        "optimizer": keras.optimizers.SGD(0.5),
        "inner_optimizer": keras.optimizers.Adam(0.02, beta_1=0.0),
        "loss": LOSS,
        "metrics": ["accuracy"],
        # Compiling takes longer than these problems; some tests compile.
        "jit_compile": False,
    }
    model.compile(**{**arguments, **settings})
    return model


def slope_of(loss):
    """The derivative at 0 of a function of a float64 scalar."""
    step = tf.constant(1e-5, "float64")
    # Of fourth order, so that its own error is below what is asked.
    near, far = (
        (loss(k * step) - loss(-k * step)) / (2 * k * step) for k in (1.0, 2.0)
    )
    return (4 * near - far) / 3


SPEC = kr.EpisodeSpec(
    ways=3, shots=3, queries=2, inner_steps=3, inner_batch_size=4
)


def all_values(model):
    """Every number that training changes, by name."""
    from keras_reptile import checkpoints

    # The paths after the group and index differ between copies of a model.
    return {
        "/".join(name.split("/")[:2]): variable.numpy()
        for name, variable in checkpoints.variables_of(model).items()
    }


def assert_same(first, second, exact=True, rtol=1e-5):
    assert first.keys() == second.keys()
    for name in first:
        if exact:
            np.testing.assert_array_equal(first[name], second[name], name)
        else:
            np.testing.assert_allclose(
                first[name], second[name], rtol, atol=1e-6, err_msg=name
            )
