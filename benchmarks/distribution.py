"""What sharing out the tasks costs: replicas and workers on the same cores.

Usage:
    taskset -c 0,1 python -m benchmarks.distribution --output=distribution.json

The paper's 5-way network, an inner loop of 5 steps of 10 images; 1 to 16 tasks
per replica. One process, two devices made of its processor, and two workers do
the same work on the same cores, so that what is lost is overhead and not
waiting for a slower machine; the workers have one core each, as
`trainers.launch` has it. The reduction of as many bytes is timed alone
besides; beside it stands the share of a meta-step that is lost to all of what
two replicas bring.

Then the arithmetic of larger machines: a model and no measurement.
"""

import json
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import keras_reptile as kr
from benchmarks.with_keras_reptile import Watch
from keras_reptile import distribution, files, workers
from trainers import launch, strategy, supervisor

_POINT = flags.DEFINE_integer("point", None, "Measures one point; JSON.")
_TASKS = flags.DEFINE_multi_integer(
    "tasks", [1, 2, 4, 8, 16], "Tasks per replica.", lower_bound=1
)
_SECONDS = flags.DEFINE_float("seconds", 5.0, "Measured time of a point.")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Times all is measured.")
_OUTPUT = flags.DEFINE_string("output", None, "Where JSON goes, if anywhere.")

REPLICAS = 2
KINDS = ("one process", "two devices", "two workers")
# Of the model: one way, as their makers state them for a machine's links and
# for a network card of 100 Gbit/s, and what a message takes besides.
MACHINES = {
    "8 GPUs in one machine, NVLink": (8, 300e9, 5e-6),
    "8 GPUs in one machine, PCIe": (8, 25e9, 10e-6),
    "64 hosts, 100 Gbit/s": (64, 12.5e9, 30e-6),
    "64 hosts, 10 Gbit/s": (64, 1.25e9, 50e-6),
}


def build_model() -> kr.MetaModel:
    """The paper's network and optimizers."""
    keras.utils.set_random_seed(0)
    model = kr.MetaModel(kr.models.omniglot_cnn(5))
    model.compile(
        optimizer=keras.optimizers.SGD(1.0),
        inner_optimizer=keras.optimizers.Adam(1e-3, beta_1=0.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        inner_reduction="sum",
    )
    return model


def bytes_reduced(model) -> int:
    """Of a meta-step: the meta-gradient and the inner slots."""
    shared = model.inner_model.trainable_variables + [
        v for v in model.inner_optimizer.variables if "float" in v.dtype
    ]
    return sum(4 * int(np.prod(v.shape)) for v in shared)


def measure(tasks: int) -> dict:
    """Seconds of a meta-step, and of the reduction in it alone."""
    here = strategy.chosen()
    with here.scope():
        model = build_model()
    images = np.random.default_rng(0).integers(
        0, 256, (100 * 20, 28, 28, 1), np.uint8
    )
    classes = kr.data.ClassDataset(images, [20] * 100)
    spec = kr.EpisodeSpec(5, 10, 0, inner_steps=5, inner_batch_size=10)
    stream = classes.episodes(spec, meta_batch_size=REPLICAS * tasks)
    # The same on all workers, who step together.
    steps = _steps(here, _seconds(model, stream, 3))
    return {
        "seconds": _seconds(model, stream, steps),
        "reduction": _reduction(here, bytes_reduced(model)),
        "question": _question(here),
        "bytes": bytes_reduced(model),
    }


def _seconds(model, stream, count):
    watch = Watch()
    model.fit(stream, steps_per_epoch=count, callbacks=[watch], verbose=0)
    return watch.seconds(count) / count


def _steps(here, seconds):
    def slowest():
        context = tf.distribute.get_replica_context()
        return context.all_reduce("SUM", tf.constant(seconds))

    total = here.run(tf.function(slowest))
    mean = float(here.experimental_local_results(total)[0])
    mean /= here.num_replicas_in_sync
    return max(3, round(_SECONDS.value / mean))


def _reduction(here, size, times=50):
    """Seconds of one reduction of so many bytes, with nothing beside it."""
    if here.num_replicas_in_sync == 1:
        return 0.0

    @tf.function
    def reduce():
        values = tf.ones((size // 4,))
        return here.run(distribution.sum_over_replicas, args=([values],))

    reduce()
    start = time.perf_counter()
    for _ in range(times):
        result = reduce()
    here.experimental_local_results(result[0])[0].numpy()
    return (time.perf_counter() - start) / times


def _question(here, times=50):
    """Seconds of MetaTrainer's, after each call: was a worker told to stop?"""
    workers.any_worker(here, False)
    start = time.perf_counter()
    for _ in range(times):
        workers.any_worker(here, False)
    return (time.perf_counter() - start) / times


def measured_apart(kind, tasks) -> dict:
    """`measure` in processes of its own."""
    command = [sys.executable, "-m", "benchmarks.distribution"]
    command += [f"--point={tasks}", f"--seconds={_SECONDS.value}"]
    count = 2 if kind == "two workers" else 1
    environments = launch.environments(count) if count > 1 else [None]
    command += {
        "one process": [],
        "two devices": ["--strategy=mirrored", f"--devices={REPLICAS}"],
        "two workers": ["--strategy=multiworker"],
    }[kind]
    lines = []
    started = supervisor.Supervisor(
        lambda restarts: [(command, e) for e in environments],
        restarts=0,
        grace=10.0,
        write=lines.append,
        pin_cores=True,
    )
    if started.run():
        raise RuntimeError(f"{kind} failed:\n" + "\n".join(lines[-40:]))
    said = [x.partition("] ")[2] for x in lines if x.startswith("[worker 0]")]
    return json.loads(said[-1])


def compared(tasks) -> dict:
    """All kinds in turn, `rounds` times; the fastest of each, by kind."""
    rounds = [
        {kind: measured_apart(kind, tasks) for kind in KINDS}
        for _ in range(_ROUNDS.value)
    ]
    best = {
        kind: min((r[kind] for r in rounds), key=lambda p: p["seconds"])
        for kind in KINDS
    }
    alone = best[KINDS[0]]["seconds"]
    for kind, point in best.items():
        point["all_seconds"] = [r[kind]["seconds"] for r in rounds]
        point["overhead"] = point["seconds"] / alone - 1
        point["share_of_reduction"] = point["reduction"] / point["seconds"]
    return best


def ring_seconds(size, replicas, bandwidth, latency) -> float:
    """A ring all-reduce: 2 (n - 1) messages of an n-th, one after another.

    Args:
        size: Bytes.
        replicas: How many there are.
        bandwidth: Of a link, in bytes per second.
        latency: Of a message, in seconds.
    """
    return 2 * (replicas - 1) * (size / replicas / bandwidth + latency)


def model_of_machines(size, seconds_per_task) -> dict:
    """By machine and tasks per replica, the share of communication."""
    return {
        name: {
            "seconds": ring_seconds(size, *machine),
            "share": {
                tasks: ring_seconds(size, *machine)
                / (ring_seconds(size, *machine) + tasks * seconds_per_task)
                for tasks in _TASKS.value
            },
        }
        for name, machine in MACHINES.items()
    }


def report(results):
    """Prints what was measured, and the model."""
    for tasks, kinds in results["measured"].items():
        for kind, p in kinds.items():
            print(
                f"{tasks:3} tasks per replica, {kind}: "
                f"{1e3 * p['seconds']:8.1f} ms per meta-step, "
                f"{100 * p['overhead']:+6.1f} %, reduction alone "
                f"{1e3 * p['reduction']:.2f} ms, MetaTrainer's question "
                f"{1e3 * p['question']:.2f} ms"
            )
    for text, machines in results["model, not measured"].items():
        for name, machine in machines.items():
            shares = ", ".join(
                f"{100 * share:.1f} % at {tasks}"
                for tasks, share in machine["share"].items()
            )
            print(f"model, {text}: {name}: {shares} tasks per replica")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
    if _POINT.value is not None:
        print(json.dumps(measure(_POINT.value)), flush=True)
        return
    measured = {tasks: compared(tasks) for tasks in _TASKS.value}
    last = measured[max(_TASKS.value)][KINDS[0]]
    of_core = last["seconds"] / max(_TASKS.value)
    results = {
        "measured": measured,
        "model, not measured": {
            "a task as fast as here": model_of_machines(last["bytes"], of_core),
            "a task a hundred times as fast": model_of_machines(
                last["bytes"], of_core / 100
            ),
        },
    }
    report(results)
    if _OUTPUT.value:
        with files.atomic_write(_OUTPUT.value, "w") as file:
            json.dump(results, file, indent=2)


if __name__ == "__main__":
    app.run(main)
