"""The paper's toy: a network that fits any sine wave from ten points.

Usage:
    python -m trainers.sine
    python -m trainers.sine --activation=relu --logdir=runs/sine_relu

Meta-trains one small network by joint training, MAML and Reptile, and shows
how each initialisation, and a random one, adapts to waves it has not seen:
the mean squared error after 0, 1, 8 and 32 steps, and the paper's Fig. 1.
The mean of all waves is 0, which is all that joint training can learn.

Source: Nichol, Achiam & Schulman 2018, section 4; the settings of Reptile
are those of the authors' demonstration.
"""

import pathlib
import time

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import keras_reptile as kr
from trainers import common, results_file, strategy, tensorboard_log, usage

for _name in ("logdir", "seed", "strategy", "devices"):
    flags.declare_key_flag(_name)

_META_ITERS = flags.DEFINE_integer(
    "meta_iters", 30_000, "Meta-iterations, of one wave each.", lower_bound=1
)
_ACTIVATION = flags.DEFINE_enum(
    "activation", "tanh", ["tanh", "relu"], "Of the two hidden layers."
)
_EVAL_SAMPLES = flags.DEFINE_integer(
    "eval_samples", 1_000, "Waves of the table.", lower_bound=2
)
_STEPS, _DRAWN_STEPS = (0, 1, 8, 32), (0, 8, 16, 24, 32)
_GRID = kr.EpisodeSpec(
    ways=1, shots=50, queries=0, inner_steps=5, inner_batch_size=10
)
# MAML's outer loss is of the whole grid, the points adapted to among others.
_TEN_POINTS = kr.EpisodeSpec(ways=1, shots=10, queries=50, inner_steps=5)
_TEST = kr.EpisodeSpec(ways=1, shots=10, queries=50, inner_steps=32)


def main():
    strategy.chosen()
    logdir = pathlib.Path(common.usable_logdir("sine", resumable=False))
    figure, axes = common.new_figure(4, sharey=True)
    results = {}
    for name, panel in zip(("random", "joint", "maml", "reptile"), axes[0]):
        start = time.perf_counter()
        model = trained(name, logdir)
        seconds = time.perf_counter() - start
        results[name] = {**measure(model), "seconds": seconds}
        errors = results[name]["mse"].items()
        tensorboard_log.write(
            logdir / name / "test",
            {steps: {"mse_after_inner_steps": mse} for steps, mse in errors},
        )
        draw(panel, name, model)
    report(results)
    common.save_figure(figure, logdir / "sine.png")
    path = results_file.write(logdir, results)
    common.say(f"Picture: {logdir / 'sine.png'}. Results: {path}.")


def network() -> keras.Model:
    """The demonstration's network, with its initial weights."""
    layers = [keras.Input((1,))]
    for fan_in, units in ((1, 64), (64, 64), (64, 1)):
        limit = fan_in**-0.5
        layers.append(
            keras.layers.Dense(
                units,
                _ACTIVATION.value if units > 1 else None,
                kernel_initializer=keras.initializers.RandomUniform(
                    -limit, limit
                ),
                bias_initializer=keras.initializers.RandomUniform(
                    -limit, limit
                ),
            )
        )
    return keras.Sequential(layers)


def build_model(algorithm) -> kr.MetaModel:
    """The network and its two optimizers."""
    # In units of weights, of one plain step, and of the gradient.
    optimizer, rate = {
        "reptile": (keras.optimizers.SGD, 0.1),
        "joint": (keras.optimizers.SGD, 1.0),
        "maml": (keras.optimizers.Adam, 1e-3),
    }[algorithm]
    model = kr.MetaModel(network(), algorithm)
    model.compile(
        optimizer=optimizer(kr.schedules.linear(rate, 0.0, _META_ITERS.value)),
        inner_optimizer=keras.optimizers.SGD(0.02),
        loss="mse",
    )
    return model


def trained(name, logdir) -> kr.MetaModel:
    """A meta-trained network, or one as it begins for `"random"`."""
    keras.utils.set_random_seed(common.SEED.value)
    with strategy.chosen().scope():
        model = build_model("reptile" if name == "random" else name)
    if name == "random":
        return model
    spec = _TEN_POINTS if name == "maml" else _GRID
    iterations = _META_ITERS.value
    epochs = 10 if iterations % 10 == 0 else 1
    steps = iterations // epochs
    model.steps_per_execution = common.steps_per_call(steps)
    common.say(f"Training by {name}...")
    model.fit(
        kr.data.SineWaves().episodes(spec, seed=common.SEED.value),
        steps_per_epoch=steps,
        epochs=epochs,
        callbacks=[common.tensorboard(logdir / name)],
        verbose=common.verbosity(),
    )
    return model


def adapted_outputs(model, tasks, steps) -> list:
    """Outputs for the queries of each task, after each number of steps."""
    learner = model.learner

    def one(task):
        state, outputs = learner.state(), []
        for first, last in zip((0, *steps), steps):
            state = learner.part(first, last).adapt(state, task)
            outputs.append(learner.predict(state, task.query.x))
        return outputs

    return tf.function(lambda: tf.vectorized_map(one, tasks))()


def measure(model) -> dict:
    """Mean squared errors, and how far from 0 the network is at first."""
    waves = kr.data.SineWaves(distinct=False)
    # A stream that no training has.
    stream = waves.episodes(_TEST, _EVAL_SAMPLES.value, common.SEED.value + 1)
    tasks = next(iter(stream))
    outputs = adapted_outputs(model, tasks, _STEPS)
    errors = [tf.reduce_mean((o - tasks.query.y) ** 2, (1, 2)) for o in outputs]
    return {
        "mse": {n: float(tf.reduce_mean(e)) for n, e in zip(_STEPS, errors)},
        "ci95": {
            n: float(1.96 * tf.math.reduce_std(e) / (len(e) - 1) ** 0.5)
            for n, e in zip(_STEPS, errors)
        },
        "mean_absolute_output": float(tf.reduce_mean(tf.abs(outputs[0]))),
    }


def draw(panel, name, model):
    """One panel of Fig. 1: a wave, ten points of it, and what is made of it."""
    waves = kr.data.SineWaves(distinct=False)
    tasks = next(iter(waves.episodes(_TEST, seed=common.SEED.value + 2)))
    x, y = (np.ravel(part) for part in tasks.query)
    order = np.argsort(x)
    panel.plot(x[order], y[order], color="tab:green", label="true")
    panel.plot(*map(np.ravel, tasks.support), "^", color="black")
    outputs = adapted_outputs(model, tasks, _DRAWN_STEPS)
    for steps, output in zip(_DRAWN_STEPS, outputs):
        panel.plot(
            x[order],
            np.ravel(output)[order],
            "--",
            color="tab:blue",
            alpha=0.2 + 0.8 * steps / max(_DRAWN_STEPS),
            label=f"{steps} steps",
        )
    panel.set_title(name)
    panel.set_ylim(-5, 5)
    panel.legend(fontsize="x-small")


def report(results):
    """Prints the table."""
    rows = [
        [name]
        + [f"{error:.3f}" for error in result["mse"].values()]
        + [f"{result['mean_absolute_output']:.3f}", f"{result['seconds']:.0f}"]
        for name, result in results.items()
    ]
    common.print_table(
        "Mean squared error on 50 points after steps on 10, "
        f"{_EVAL_SAMPLES.value} waves",
        ["initial weights by"]
        + [f"{n} steps" for n in _STEPS]
        + ["mean |f| before", "seconds"],
        rows,
    )


if __name__ == "__main__":
    usage.run(main)
