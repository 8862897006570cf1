"""What has no contestant in the table: evaluation, overhead, input.

Usage:
    python -m benchmarks.alone --output=alone.json

- Episodes per second of the final evaluation, 50 inner steps, inductive.
- The overhead of a meta-iteration: the sine network's, 1 task of 5 steps on
  10 points, in `fit` with `steps_per_execution`, less the same compiled
  program called again and again inside one TensorFlow function.
- The share of a w1 meta-iteration that drawing its episodes takes.
"""

import json
import statistics
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import keras_reptile as kr
from benchmarks import with_keras_reptile
from benchmarks.with_keras_reptile import Watch
from benchmarks.work import WORK, episodes
from keras_reptile import files
from keras_reptile.episodes import Examples, Task, unstack

_OUTPUT = flags.DEFINE_string("output", None, "Where JSON goes, if anywhere.")
_EPISODES = flags.DEFINE_integer(
    "episodes", 200, "Of each evaluation.", lower_bound=2
)
_ITERATIONS = 5_000


def evaluation(ways, inner_batch) -> float:
    """Episodes per second, 1-shot; the best of two after one to compile."""
    model = kr.MetaModel(kr.models.omniglot_cnn(ways))
    model.compile(
        optimizer=keras.optimizers.SGD(1.0),
        inner_optimizer=keras.optimizers.Adam(1e-3, beta_1=0.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        inner_reduction="sum",
    )
    protocol = kr.Protocol(
        ways,
        shots=1,
        inner_steps=50,
        inner_batch_size=inner_batch,
        modes="inductive",
        num_episodes=_EPISODES.value,
    )
    classes, seconds = kr.data.scribbles(60, seed=0), []
    for _ in range(3):
        start = time.perf_counter()
        kr.evaluate(model, classes, protocol)
        seconds.append(time.perf_counter() - start)
    return _EPISODES.value / min(seconds[1:])


def sine_model() -> tuple[kr.MetaModel, tf.data.Dataset]:
    """The paper's sine network, and one task again and again."""
    network = keras.Sequential(
        [
            keras.Input((1,)),
            keras.layers.Dense(64, "tanh"),
            keras.layers.Dense(64, "tanh"),
            keras.layers.Dense(1),
        ]
    )
    model = kr.MetaModel(network)
    model.compile(
        optimizer=keras.optimizers.SGD(0.1),
        inner_optimizer=keras.optimizers.SGD(0.02),
        loss="mse",
        steps_per_execution=100,
    )
    rng = np.random.default_rng(0)
    x = rng.uniform(-5, 5, (1, 50, 1)).astype("float32")
    points = Examples(x, np.sin(x))
    batches = np.arange(50, dtype="int32").reshape(1, 5, 10)
    task = Task(points, Examples(x[:, :0], x[:, :0]), batches)
    return model, tf.data.Dataset.from_tensors(task).repeat()


def sine_overhead() -> dict:
    """Milliseconds of a meta-iteration, and of computing alone."""
    model, tasks = sine_model()
    watch = Watch()
    model.fit(tasks, steps_per_epoch=500, verbose=0)
    model.fit(tasks, steps_per_epoch=_ITERATIONS, callbacks=[watch], verbose=0)
    batches = _ITERATIONS // model.steps_per_execution
    in_fit = watch.seconds(batches) / _ITERATIONS

    learner, state = model.learner, model.initial_state()
    task = unstack(next(iter(tasks)))[0]
    one = tf.function(
        lambda state: model.algorithm(learner, state, task)[1],
        jit_compile=True,
        autograph=False,
    )

    @tf.function(autograph=False)
    def again_and_again(count):
        return tf.while_loop(
            lambda i, _: i < count, lambda i, s: (i + 1, one(s)), (0, state)
        )

    again_and_again(tf.constant(500))
    start = time.perf_counter()
    again_and_again(tf.constant(_ITERATIONS))
    computing = (time.perf_counter() - start) / _ITERATIONS
    return {
        "in fit": 1e3 * in_fit,
        "computing": 1e3 * computing,
        "overhead": 1e3 * (in_fit - computing),
    }


def drawing_share() -> float:
    """Drawing a meta-batch of w1 over a meta-iteration, one then the other.

    They overlap in training, so that this is the most that can be waited.
    """
    work = WORK["w1"]
    run = with_keras_reptile.prepare(work, "average")
    run(20)
    run(100)
    drawn = []
    for _ in episodes(work).take(500):
        drawn.append(time.perf_counter())
    return statistics.median(np.diff(drawn)) / (run.seconds / 100)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
    figures = {
        "evaluation, 5-way 1-shot, episodes/s": evaluation(5, 5),
        "evaluation, 20-way 1-shot, episodes/s": evaluation(20, 10),
        "drawing, share of a w1 meta-iteration": drawing_share(),
    }
    for name, value in sine_overhead().items():
        figures[f"sine meta-iteration, {name}, ms"] = value
    for name, value in figures.items():
        print(f"{name:42} {value:8.3f}")
    if _OUTPUT.value:
        with files.atomic_write(_OUTPUT.value, "w") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    app.run(main)
