"""The numbers of the original, met through `MetaModel.fit`.

Each meta-iteration of a trace becomes one `Task` batch whose inner batches
are the trace's, in its order; weights and moments are compared afterwards.
"""

import json
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_reptile as kr
from keras_reptile import evaluation

GOLDEN = pathlib.Path(__file__).parent / "golden"


class Trace:
    def __init__(self, name):
        self.arrays = np.load(GOLDEN / f"{name}.npz")
        self.settings = json.loads((GOLDEN / f"{name}.json").read_text())
        self.variables = [v[0] for v in self.settings["vars"]]
        self.shapes = [v[1] for v in self.settings["vars"]]

    def batches(self, part):
        """`(x, y)` of all inner batches of a step or an evaluation."""
        prefix = f"{part}/batch"
        names = sorted(
            {k[: len(prefix) + 2] for k in self.arrays if k.startswith(prefix)}
        )
        x = np.stack([self.arrays[f"{n}/x"] for n in names])
        y = np.stack([self.arrays[f"{n}/y"] for n in names])
        scale = 255 if x.dtype == np.uint8 else 1
        return (x / scale).astype("float32"), y

    def task(self, part, tasks=1):
        """The batches of a part as a `Task` batch, one row per use."""
        x, y = self.batches(part)
        steps, size = len(x) // tasks, x.shape[1]
        x = x.reshape(tasks, steps * size, *x.shape[2:])
        y = y.reshape(tasks, steps * size)
        rows = np.arange(steps * size, dtype=np.int32)
        rows = np.broadcast_to(rows.reshape(steps, size), (tasks, steps, size))
        return kr.Task(
            kr.Examples(x, y), kr.Examples(x[:, :0], y[:, :0]), rows.copy()
        )

    def initial_weights(self):
        """The formula of the traces' initial weights."""
        for j, (name, shape) in enumerate(zip(self.variables, self.shapes)):
            n = np.arange(np.prod(shape))
            wave = np.sin(0.7 * n + 0.9 * j).reshape(shape)
            if name.endswith("kernel"):
                yield wave * np.sqrt(2 / np.prod(shape[:-1]))
            else:
                yield 0.1 * wave + (1 if name.endswith("gamma") else 0)

    def compared(self, prefix):
        """Pairs of variable index and array that a trace holds."""
        adam = self.settings["opt"].startswith("adam")
        for j, name in enumerate(self.variables):
            key = f"{prefix}/{name}"
            # Under Adam the bias before batch norm walks on rounding noise.
            noise = adam and name.startswith("conv") and name.endswith("bias")
            if key in self.arrays and not noise:
                yield j, self.arrays[key]


def tiny_network(ways):
    return keras.Sequential(
        [
            keras.Input((8, 8)),
            keras.layers.Reshape((8, 8, 1)),
            keras.layers.Conv2D(4, 3, strides=2, padding="same"),
            keras.layers.BatchNormalization(epsilon=1e-3),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(ways),
        ]
    )


def from_images(network, channels):
    """The traces' images have no channel axis where there is one channel."""
    if channels > 1:
        return network
    shape = network.input_shape[1:]
    return keras.Sequential(
        [keras.Input(shape[:2]), keras.layers.Reshape(shape), network]
    )


def compiled(trace, network, jit_compile="auto", algorithm="reptile"):
    settings = trace.settings
    for variable, value in zip(
        network.trainable_variables, trace.initial_weights()
    ):
        variable.assign(value)
    if settings["opt"] == "sgd":
        inner = keras.optimizers.SGD(settings["lr"])
    else:
        inner = keras.optimizers.Adam(settings["lr"], beta_1=0, epsilon=1e-8)
    model = kr.MetaModel(network, algorithm, inner_state="carry")
    steps = kr.schedules.linear(
        *settings["meta_step"], steps=settings["meta_iters"]
    )
    model.compile(
        optimizer=keras.optimizers.SGD(steps),
        inner_optimizer=inner,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        inner_reduction="sum",
        inner_weight_decay=settings["weight_decay"],
        jit_compile=jit_compile,
    )
    return model


def fit_step(model, trace, step):
    tasks = trace.task(
        f"step{step}", trace.settings["train_kwargs"]["meta_batch_size"]
    )
    dataset = tf.data.Dataset.from_tensors(tasks)
    model.fit(dataset, steps_per_epoch=1, verbose=0)


def assert_weights(model, trace, step, atol):
    weights = model.inner_model.trainable_variables
    for j, expected in trace.compared(f"step{step}/after"):
        np.testing.assert_allclose(
            weights[j].numpy(),
            expected,
            atol=atol,
            rtol=0,
            err_msg=trace.variables[j],
        )


@pytest.mark.parametrize("jit_compile", [True, False])
@pytest.mark.parametrize("name", ["reptile_adam", "reptile_sgd"])
def test_weights_of_tiny_networks(name, jit_compile):
    trace = Trace(name)
    model = compiled(trace, tiny_network(3), jit_compile)
    for j, expected in trace.compared("init"):
        weight = model.inner_model.trainable_variables[j].numpy()
        np.testing.assert_allclose(weight, expected, atol=1e-6)
    for step in range(trace.settings["meta_iters"]):
        fit_step(model, trace, step)
        assert_weights(model, trace, step, atol=2e-6)


def test_foml_with_a_shared_tail():
    trace = Trace("foml_shared_sgd")
    model = compiled(trace, tiny_network(3), algorithm="foml")
    for step in range(trace.settings["meta_iters"]):
        fit_step(model, trace, step)
        assert_weights(model, trace, step, atol=2e-6)


def tasks_with_tail(trace, step):
    """The trace's batches of 5, 5, 5 and 3 as tasks with a query set of 3."""
    arrays = {
        axis: [trace.arrays[f"step{step}/batch{k:02}/{axis}"] for k in range(8)]
        for axis in "xy"
    }
    support, query = (
        kr.Examples(*(pick(arrays[axis]) for axis in "xy"))
        for pick in (
            lambda b: np.stack([np.concatenate(b[t : t + 3]) for t in (0, 4)]),
            lambda b: np.stack([b[3], b[7]]),
        )
    )
    rows = np.arange(15, dtype=np.int32).reshape(3, 5)
    return kr.Task(support, query, np.stack([rows, rows]))


def test_foml_with_a_separate_tail():
    trace = Trace("foml_tail1_sgd")
    model = compiled(trace, tiny_network(3), algorithm="foml_tail")
    for step in range(trace.settings["meta_iters"]):
        dataset = tf.data.Dataset.from_tensors(tasks_with_tail(trace, step))
        model.fit(dataset, steps_per_epoch=1, verbose=0)
        assert_weights(model, trace, step, atol=2e-6)


def test_second_moments_of_adam():
    trace = Trace("reptile_adam")
    model = compiled(trace, tiny_network(3))
    velocities = [
        v for v in model.inner_optimizer.variables if "velocity" in v.path
    ]
    for step in range(trace.settings["meta_iters"]):
        fit_step(model, trace, step)
        for j, expected in trace.compared(f"step{step}/adam_v"):
            np.testing.assert_allclose(
                velocities[j].numpy(), expected, atol=2e-6
            )
    # Two tasks of four inner steps in each meta-iteration.
    assert int(model.inner_optimizer.iterations) == 8 * (step + 1)


@pytest.mark.parametrize("mode", ["transductive", "inductive"])
def test_logits_of_evaluation(mode):
    trace = Trace("reptile_adam")
    model = compiled(trace, tiny_network(3))
    for step in range(trace.settings["meta_iters"]):
        fit_step(model, trace, step)
    number = ["transductive", "inductive"].index(mode)
    part = f"eval{number}"
    state = model.initial_state()
    task = tf.nest.map_structure(lambda t: tf.constant(t[0]), trace.task(part))
    adapted = model.learner.adapt(state, task)
    if mode == "transductive":
        query = trace.arrays[f"{part}/forward0/x"]
        expected = trace.arrays[f"{part}/forward0/logits"]
    else:
        forwards = [f"{part}/forward{i}" for i in range(3)]
        query = np.stack([trace.arrays[f"{f}/x"][-1] for f in forwards])
        expected = np.stack([trace.arrays[f"{f}/logits"][-1] for f in forwards])
        # The support set as the original passed it, before each query.
        support = trace.arrays[f"{forwards[0]}/x"][:-1]
        task = task._replace(support=kr.Examples(support, None))
    task = task._replace(query=kr.Examples(tf.constant(query), None))
    predict = getattr(evaluation, f"predict_{mode}")
    logits = predict(model.learner, adapted, task)
    # The weights are met to 3e-7; a logit sums 64 of them.
    np.testing.assert_allclose(logits, expected, atol=1e-5, rtol=0)


def test_omniglot_network():
    trace = Trace("omniglotmodel_5way_sgd")
    network = from_images(kr.models.omniglot_cnn(5), channels=1)
    model = compiled(trace, network)
    fit_step(model, trace, 0)
    assert_weights(model, trace, 0, atol=1e-5)
    x, _ = trace.batches("step0")
    state = model.initial_state()
    np.testing.assert_allclose(
        model.learner.predict(state, x[0]),
        trace.arrays["step0/probe_logits"],
        atol=1e-4,
    )
    fit_step(model, trace, 1)
    assert_weights(model, trace, 1, atol=5e-5)


def test_mini_imagenet_network():
    trace = Trace("miniimagenetmodel_5way_adam")
    model = compiled(trace, kr.models.mini_imagenet_cnn(5))
    fit_step(model, trace, 0)
    assert_weights(model, trace, 0, atol=1e-5)
