"""Times the same work in this library, PyTorch and JAX, in one run.

Usage:
    pip install '.[bench]' && python -m benchmarks.run
    python -m benchmarks.run --work=w2 --windows=5 --output=w2.json

Every contestant is a process of its own. They take turns, window by window,
so that what else the machine does falls on all of them; the median of a
contestant's windows counts. The loss after the same meta-iterations from the
same weights must agree, or the run fails. PyTorch and JAX are optional: what
is not installed is reported as absent.
"""

import importlib.util
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata

from absl import app, flags

from benchmarks.work import WORK
from keras_reptile import files

_WORK = flags.DEFINE_enum("work", "w1", sorted(WORK), "What to time.")
_WINDOWS = flags.DEFINE_integer("windows", 5, "Turns of each.", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 6.0, "Length of a turn, about.")
_ONLY = flags.DEFINE_string("only", "", "Contestants whose names hold this.")
_OUTPUT = flags.DEFINE_string("output", None, "Where JSON goes, if anywhere.")

# Module, what it needs, and the names of its contestants.
_ENTRANTS = (
    ("with_keras_reptile", "keras_reptile", "keras-reptile, average"),
    ("with_keras_reptile", "keras_reptile", "keras-reptile, carry"),
    ("with_keras_reptile", "keras_reptile", "keras-reptile, bfloat16"),
    ("with_pytorch", "torch", "PyTorch, channels_last"),
    ("with_pytorch", "torch", "PyTorch, torch.func.vmap"),
    ("with_jax", "jax", "JAX, product, vmap, scan"),
    ("with_jax", "jax", "JAX, product, loop, scan"),
    ("with_jax", "jax", "JAX, lax.conv, unrolled"),
)
_MAML = (
    ("maml", "keras_reptile", "keras-reptile, MAML"),
    ("maml", "torch", "PyTorch, MAML, autograd"),
    ("maml", "torch", "PyTorch, MAML, torch.func"),
    ("maml", "jax", "JAX, MAML, vmap, scan"),
    ("maml", "jax", "JAX, MAML, loop, scan"),
)
_PEAK = ("peak", "tensorflow", "float32 matrix product")
# 2048^3 multiplications and additions.
_PEAK_GIGAFLOP = 17.18


class Contestant:
    """A process that runs when told to."""

    def __init__(self, module, name, work):
        self.name, self.rates = name, []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", module, name, work],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        ready = self._heard()
        self.loss = ready["loss"]
        self.seconds_to_start = ready["seconds_to_start"]
        self.turn(5)
        self._count = max(1, round(_SECONDS.value * self.rates.pop()))

    def _heard(self):
        for line in self._process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise RuntimeError(f"{self.name} ended before its turn.")

    def turn(self, count=None):
        """Runs one window and keeps its rate."""
        self._process.stdin.write(f"{count or self._count}\n")
        self._process.stdin.flush()
        self.rates.append(self._heard()["per_second"])

    def end(self):
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
    contestants = []
    entrants = _MAML if _WORK.value == "maml" else _ENTRANTS
    for module, needs, name in (*entrants, _PEAK):
        if _ONLY.value not in name and name != _PEAK[2]:
            continue
        if importlib.util.find_spec(needs) is None:
            print(f"{name}: absent, as {needs} is not installed.")
            continue
        print(f"Starting {name}...", flush=True)
        contestants.append(Contestant(module, name, _WORK.value))
    for _ in range(_WINDOWS.value):
        for contestant in contestants:
            contestant.turn()
    for contestant in contestants:
        contestant.end()
    report(contestants)


def report(contestants):
    """Prints the table, writes the JSON, and compares the losses."""
    *others, peak = contestants
    gigaflop = WORK[_WORK.value].gigaflop
    limit = statistics.median(peak.rates) * _PEAK_GIGAFLOP
    rows = {c.name: statistics.median(c.rates) for c in others}
    print(f"\n{_WORK.value}: {gigaflop:.2f} GFLOP a meta-iteration, ", end="")
    print(f"peak {limit:.0f} GFLOP/s\n")
    print(f"{'':28} {'per second':>10} {'of peak':>8} {'loss':>8} {'start':>7}")
    for c in others:
        rate = rows[c.name]
        print(
            f"{c.name:28} {rate:10.2f} {rate * gigaflop / limit:8.0%} "
            f"{c.loss:8.4f} {c.seconds_to_start:6.1f}s"
        )
    if _OUTPUT.value:
        _write(others, limit)
    # Carried slots and rounded factors are other computations. After five
    # steps of Adam, which divides by the size of what may be rounding, three
    # digits are left.
    other = ("carry", "bfloat16")
    losses = [c.loss for c in others if not c.name.endswith(other)]
    if losses and max(losses) - min(losses) > 1e-3 * max(losses):
        raise app.UsageError(f"The losses differ: {losses}.")


def _write(contestants, limit):
    packages = ("tensorflow", "keras", "torch", "jax", "numpy")
    versions = {
        name: metadata.version(name)
        for name in packages
        if importlib.util.find_spec(name)
    }
    record = {
        "work": _WORK.value,
        "peak_gigaflop_per_second": limit,
        "contestants": {
            c.name: {
                "per_second": c.rates,
                "loss": c.loss,
                "seconds_to_start": c.seconds_to_start,
            }
            for c in contestants
        },
        "machine": [platform.processor() or platform.machine()],
        "versions": {**versions, "python": platform.python_version()},
        "date": time.strftime("%Y-%m-%d"),
    }
    with files.atomic_write(_OUTPUT.value, "w") as file:
        json.dump(record, file, indent=2)


if __name__ == "__main__":
    app.run(main)
