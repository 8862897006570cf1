"""One of several workers; `test_many_workers.py` starts it.

Usage, with TF_CONFIG for workers, or without for replicas:
    python tests/run_worker.py REPLICAS FOLDER PART...
"""

import dataclasses
import functools
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_reptile as kr
from keras_reptile import evaluation, workers

# So that the tracing of it does not take most of the time.
evaluation._AT_ONCE = 2
SPEC = kr.EpisodeSpec(
    ways=3, shots=3, queries=2, inner_steps=3, inner_batch_size=4
)
PROTOCOL = kr.Protocol(ways=3, shots=2, inner_steps=3, num_episodes=7, seed=4)
STEPS, EPOCHS = 50, 2


def classes():
    """Points around centres, easy to tell apart."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 2, (8, 1, 4))
    x = centres + rng.normal(0, 0.5, (8, 6, 4))
    x = x.reshape(-1, 4).astype(keras.config.floatx())
    return kr.data.ClassDataset(x, [6] * 8)


def in_(dtype):
    """Has a part carried out in a precision.

    In float64, as an inner Adam makes a thousand times as much of float32's
    rounding within 100 meta-steps.
    """

    def decorate(part):
        @functools.wraps(part)
        def carried_out(folder):
            before = keras.config.floatx()
            keras.config.set_floatx(dtype)
            keras.config.set_dtype_policy(dtype)
            try:
                return part(folder)
            finally:
                keras.config.set_floatx(before)
                keras.config.set_dtype_policy(before)

        return carried_out

    return decorate


def meta_model(inner_optimizer=None, **settings):
    """A small one with batch normalisation and slots, without kinks."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((4,)),
        # A bias there has a gradient of nothing but rounding.
        keras.layers.Dense(8, activation="tanh", use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(3),
    ]
    model = kr.MetaModel(keras.Sequential(layers))
    model.compile(
        optimizer=keras.optimizers.SGD(0.5),
        inner_optimizer=inner_optimizer
        or keras.optimizers.Adam(0.02, beta_1=0.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,
        **settings,
    )
    return model


def train(folder=None, tasks=3, resume=False, epochs=EPOCHS, log_dir=None):
    """100 meta-steps; the model, and the logs of the last epoch."""
    model, points = meta_model(steps_per_execution=2), classes()
    callbacks = [
        kr.MetaTrainer(
            points,
            PROTOCOL,
            checkpoint_dir=folder,
            resume=resume,
            log_dir=log_dir,
        )
    ]
    # Keras' own would write on every worker.
    if log_dir is not None and workers.is_chief(tf.distribute.get_strategy()):
        callbacks.append(keras.callbacks.TensorBoard(log_dir))
    history = model.fit(
        points.episodes(SPEC, meta_batch_size=tasks, seed=1),
        steps_per_epoch=STEPS,
        epochs=epochs,
        callbacks=callbacks,
        validation_data=points.episodes(SPEC, 2, seed=9).take(4),
        verbose=0,
    ).history
    logs = {
        key: values[-1]
        for key, values in history.items()
        if key != "meta_steps_per_second"
    }
    return model, logs


def numbers_of(model, logs) -> dict:
    """All that is to be equal, as arrays by name."""
    values = {
        "weights": [v.numpy() for v in model.inner_model.variables],
        "slots": [v.numpy() for v in model.inner_optimizer.variables],
    }
    values = {f"{k}/{i}": v for k in values for i, v in enumerate(values[k])}
    return values | {f"logs/{key}": value for key, value in logs.items()}


@in_("float64")
def whole(folder):
    """A run from its beginning to its end."""
    return numbers_of(*train(folder, log_dir=folder))


@in_("float64")
def resumed(folder):
    """What others began is finished."""
    return numbers_of(*train(folder, resume=True))


@in_("float64")
def begun(folder):
    """For others to finish."""
    return numbers_of(*train(folder, epochs=1))


@in_("float64")
def one_idle(folder):
    """Two tasks for three workers."""
    return numbers_of(*train(tasks=2))


@in_("float32")
def single(folder):
    """In the precision that models have, of what keeps rounding small."""
    # In 100 meta-steps it makes 1e-5 at most of a difference of 1e-6 in the
    # first weights. Adam makes 1e-2 of it, on one device.
    model = meta_model(keras.optimizers.SGD(0.05, momentum=0.9))
    stream = classes().episodes(SPEC, meta_batch_size=3, seed=1)
    model.fit(stream, steps_per_epoch=STEPS * EPOCHS, verbose=0)
    return numbers_of(model, {})


def keras_own(folder):
    """What `fit` comes to with Keras' own method in place of ours."""
    model = meta_model()
    model._maybe_symbolic_build = functools.partial(
        keras.Model._maybe_symbolic_build, model
    )
    try:
        stream = classes().episodes(SPEC, meta_batch_size=3, seed=1)
        model.fit(stream, steps_per_epoch=1, verbose=0)
    except ValueError as error:
        return {"error": str(error)}
    return {"error": ""}


def _fit(
    seed=1, epochs=1, data=None, elements=None, validation_seed=9, **of_trainer
):
    data = classes() if data is None else data
    callbacks = []
    if of_trainer:
        validation = of_trainer.pop("validation", classes())
        callbacks = [kr.MetaTrainer(validation, PROTOCOL, **of_trainer)]
    stream = data.episodes(SPEC, meta_batch_size=2, seed=seed)
    meta_model().fit(
        stream if elements is None else stream.take(elements),
        steps_per_epoch=1 if elements is None else None,
        epochs=epochs,
        callbacks=callbacks,
        validation_data=data.episodes(SPEC, seed=validation_seed),
        validation_steps=1,
        verbose=0,
    )


def _evaluate(seed=4):
    protocol = dataclasses.replace(PROTOCOL, seed=seed)
    kr.evaluate(meta_model(), classes(), protocol)


def _evaluate_stream(seed=9, steps=1):
    stream = classes().episodes(SPEC, meta_batch_size=2, seed=seed)
    meta_model().evaluate(stream, steps=steps, verbose=0)


_DATA = "checksum of the data"
_PROTOCOL = "protocol of the evaluations"
# What the second worker alone is given, and how that is named.
DISAGREEMENTS = [
    (_fit, {"seed": 2}, "seed"),
    (_fit, {"data": classes().subset([1, 0, *range(2, 8)])}, _DATA),
    (_fit, {"validation_seed": 8}, "validation_data: seed"),
    (
        functools.partial(_fit, elements=1),
        {"elements": 2},
        "number of elements",
    ),
    (_fit, {"epochs": 2}, "epochs"),
    (_fit, {"eval_interval": 1}, "number of MetaTrainers"),
    (functools.partial(_fit, keep=1), {"eval_interval": 1}, "eval_interval"),
    (
        functools.partial(_fit, keep=1),
        {"validation": classes().subset(range(4))},
        f"validation: {_PROTOCOL}: {_DATA}",
    ),
    (_evaluate, {"seed": 5}, f"{_PROTOCOL}: seed"),
    (_evaluate_stream, {"seed": 8}, "seed"),
    (_evaluate_stream, {"steps": 2}, "steps"),
]


def _fit_to_function(cache):
    """Of which each worker remembers something else."""

    def curve(rng, count):
        x = rng.uniform(-1, 1, (count, 4))
        cache[len(cache)] = x
        return x, x[:, :1]

    keras.utils.set_random_seed(0)
    model = kr.MetaModel(
        keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    )
    model.compile(keras.optimizers.SGD(0.5), keras.optimizers.SGD(0.1), "mse")
    spec = kr.EpisodeSpec(ways=1, shots=3, queries=2, inner_steps=2)
    curves = kr.data.from_function(curve)
    model.fit(curves.episodes(spec, 2), steps_per_epoch=1, verbose=0)
    model.evaluate(curves.episodes(spec, 2, seed=1), steps=1, verbose=0)


def disagreeing(folder):
    """What each worker is told where the second is given something else."""
    context = tf.distribute.get_strategy()
    messages = []
    # None is told anything of this.
    _fit_to_function({} if workers.is_chief(context) else {"path": "/"})
    for function, otherwise, _ in DISAGREEMENTS:
        try:
            function(**{} if workers.is_chief(context) else otherwise)
            messages.append("")
        except ValueError as error:
            messages.append(str(error))
    return {"messages": messages}


PARTS = {
    part.__name__: part
    for part in (
        *(whole, resumed, begun, one_idle, single, keras_own),
        disagreeing,
    )
}


def strategy_of(replicas):
    """Of workers where TF_CONFIG names them, else of so many devices."""
    if "TF_CONFIG" in os.environ:
        return tf.distribute.MultiWorkerMirroredStrategy()
    cpu = tf.config.list_physical_devices("CPU")[0]
    devices = [tf.config.LogicalDeviceConfiguration()] * replicas
    tf.config.set_logical_device_configuration(cpu, devices)
    names = [f"CPU:{i}" for i in range(replicas)]
    return tf.distribute.MirroredStrategy(names)


def main(replicas, folder, *parts):
    """Carries out parts, and writes what came of each on this worker."""
    strategy = strategy_of(int(replicas))
    worker = getattr(strategy.cluster_resolver, "task_id", None) or 0
    for part in parts:
        with strategy.scope():
            results = PARTS[part](pathlib.Path(folder, part))
        np.savez(f"{folder}/{part}-{worker}.npz", **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
