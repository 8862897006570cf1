"""How cost grows: time and memory while one thing at a time is doubled.

Usage:
    pip install '.[bench]' && python -m benchmarks.scaling
    python -m benchmarks.scaling --output=scaling.json --picture=scaling.png

Every point is a process of its own, as the peak of memory is a process'. All
begin at 5 ways, 2 shots, 5 inner steps, 5 tasks and 64 filters (16 where
filters are doubled), where an inner step takes the whole support set: 10
images, as the paper's training.
"""

import json
import math
import resource
import subprocess
import sys

import keras
import numpy as np
from absl import app, flags

import keras_reptile as kr
from benchmarks.with_keras_reptile import Watch
from keras_reptile import files

_POINT = flags.DEFINE_string("point", None, "Measures this point only; JSON.")
_SECONDS = flags.DEFINE_float("seconds", 4.0, "Measured time of a point.")
_OUTPUT = flags.DEFINE_string("output", None, "Where JSON goes, if anywhere.")
_PICTURE = flags.DEFINE_string("picture", None, "Where a PNG goes.")

_BEGIN = {"ways": 5, "shots": 2, "inner_steps": 5, "tasks": 5, "filters": 64}
_DOUBLINGS = 4
# Sixteen times 64 filters are 256 times the work: width begins lower.
_FIRST = {**_BEGIN, "filters": 16}
_WARM_UP = 3


def measure(point) -> dict:
    """Seconds of a meta-step, and megabytes of the process at most."""
    spec = kr.EpisodeSpec(
        point["ways"], point["shots"], inner_steps=point["inner_steps"]
    )
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100 * 40, 28, 28, 1), np.uint8)
    classes = kr.data.ClassDataset(images, [40] * 100)
    stream = classes.episodes(spec, meta_batch_size=point["tasks"])
    model = kr.MetaModel(
        kr.models.omniglot_cnn(point["ways"], filters=point["filters"])
    )
    model.compile(
        optimizer=keras.optimizers.SGD(1.0),
        inner_optimizer=keras.optimizers.Adam(1e-3, beta_1=0.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    seconds = _seconds(model, stream, _WARM_UP)
    count = max(3, round(_SECONDS.value / seconds))
    seconds = _seconds(model, stream, count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux has it in kilobytes, macOS in bytes.
    return {
        "seconds": seconds,
        "megabytes": peak / (2**20 if sys.platform == "darwin" else 2**10),
    }


def _seconds(model, stream, count):
    watch = Watch()
    model.fit(stream, steps_per_epoch=count, callbacks=[watch], verbose=0)
    return watch.seconds(count) / count


def measured_apart(point) -> dict:
    """`measure` in a process of its own."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.scaling"),
            f"--point={json.dumps(point)}",
            f"--seconds={_SECONDS.value}",
        ],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{point} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def slope(values, costs) -> float:
    """Of the line through the logarithms, by least squares."""
    return float(np.polyfit(np.log(values), np.log(costs), 1)[0])


def grow(name) -> dict:
    """One thing doubled `_DOUBLINGS` times, the others as they begin."""
    values = [_FIRST[name] * 2**i for i in range(_DOUBLINGS + 1)]
    costs = [measured_apart({**_BEGIN, name: value}) for value in values]
    columns = {
        "values": values,
        "milliseconds": [1e3 * cost["seconds"] for cost in costs],
        "megabytes": [cost["megabytes"] for cost in costs],
    }
    last_two = columns["milliseconds"][-2:]
    columns["slope"] = slope(values, columns["milliseconds"])
    columns["last_slope"] = math.log2(last_two[1] / last_two[0])
    print(f"\n{name}: time grows by the power {columns['slope']:.2f}, ", end="")
    print(f"at the end {columns['last_slope']:.2f}")
    for row in zip(values, columns["milliseconds"], columns["megabytes"]):
        print("{:8} {:10.1f} ms {:8.0f} MB".format(*row), flush=True)
    return columns


def draw(grown, path):
    """Time and memory against each thing, in units of where it began."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    quantities = (("milliseconds", "ms per meta-step"), ("megabytes", "MB"))
    for axis, (key, label) in zip(axes, quantities):
        for name, columns in grown.items():
            times = [v / columns["values"][0] for v in columns["values"]]
            first = columns["values"][0]
            axis.plot(
                times,
                columns[key],
                "o-",
                label=f"{name.replace('_', ' ')}, from {first}",
            )
        axis.set_xscale("log", base=2)
        axis.set_xlabel("times what it began with")
        axis.set_ylabel(label)
    axes[0].set_yscale("log", base=2)
    axes[1].set_ylim(bottom=0)
    axes[0].legend(fontsize=8)
    with files.atomic_write(path) as file:
        figure.savefig(file, dpi=110, format="png")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
    if _POINT.value:
        print(json.dumps(measure(json.loads(_POINT.value))))
        return
    grown = {name: grow(name) for name in _BEGIN}
    if _OUTPUT.value:
        with files.atomic_write(_OUTPUT.value, "w") as file:
            json.dump(grown, file, indent=2)
    if _PICTURE.value:
        draw(grown, _PICTURE.value)


if __name__ == "__main__":
    app.run(main)
