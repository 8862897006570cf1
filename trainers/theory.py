"""The coefficients of the paper's theory, measured beside those it gives.

Usage:
    python -m trainers.theory
    python -m trainers.theory --tasks=50 --logdir=runs/theory

To leading order in the inner rate `a`, the expected meta-gradient on k
batches of a task is `c0 * AvgGrad - c1 * a * AvgGradInner`. The program takes
a small network and sine waves, measures the meta-gradients of MAML, FOMAML
and Reptile at falling rates, fits both coefficients by least squares, prints
them beside the paper's, and draws what the expansion leaves over: by theory
it falls with the square of the rate, a line of slope 2.

Source: Nichol, Achiam & Schulman 2018, section 5.1.
"""

import pathlib

import keras
import numpy as np
import tensorflow as tf
from absl import flags

import keras_reptile as kr
from keras_reptile import analysis
from trainers import common, results_file, tensorboard_log, usage
from trainers.usage import UsageError

for _name in ("logdir", "seed"):
    flags.declare_key_flag(_name)

_BATCHES = flags.DEFINE_multi_integer(
    "batches",
    [2, 3, 4],
    "Batches of a task, k; may be given more than once.",
    lower_bound=2,
    upper_bound=5,
)
_TASKS = flags.DEFINE_integer(
    "tasks", 20, "Waves the expectation is over.", lower_bound=1
)
_UNITS = flags.DEFINE_integer(
    "units", 32, "Width of the two hidden layers.", lower_bound=1
)
_RATES = flags.DEFINE_multi_float(
    "rates",
    [2.0**-power for power in range(8, 14)],
    "Inner rates, at least two; the table is of the smallest. (default: "
    "1/256, halved five times)",
    lower_bound=1e-6,
    upper_bound=1.0,
)
_ALGORITHMS = ("maml", "fomaml", "reptile")
_BATCH_SIZE = 10  # Of the grid's 50 points, so that 5 batches are disjoint.


def main():
    usage.refuse_flags("strategy", "devices")  # It measures on one.
    rates = sorted(set(_RATES.value), reverse=True)
    if len(rates) < 2 or not np.isfinite(rates).all():
        raise UsageError(
            "A slope needs two or more --rates that differ. Received: "
            f"{_RATES.value}."
        )
    logdir = pathlib.Path(common.usable_logdir("theory", resumable=False))
    figure, axes = common.new_figure(len(_BATCHES.value), sharey=True)
    keras.config.set_dtype_policy("float64")
    learner = kr.Learner(network(), "mse", keras.optimizers.SGD(0.01))
    results = {}
    for batches, panel in zip(_BATCHES.value, axes[0]):
        print(f"Measuring on {batches} batches...", flush=True)
        results[batches] = measure(learner, batches, rates)
        draw(panel, batches, rates, results[batches])
    report(results, rates)
    log(results, logdir)
    common.save_figure(figure, logdir / "theory.png")
    path = results_file.write(logdir, {"rates": rates, "batches": results})
    print(f"Picture: {logdir / 'theory.png'}. Results: {path}.")


def network() -> keras.Model:
    """A smooth network, whose loss has a Taylor series everywhere."""
    keras.utils.set_random_seed(common.SEED.value)
    layers = [keras.layers.Dense(_UNITS.value, "tanh") for _ in range(2)]
    return keras.Sequential([keras.Input((1,)), *layers, keras.layers.Dense(1)])


def waves(batches) -> kr.Task:
    """Tasks in float64, each of so many disjoint batches."""
    spec = kr.EpisodeSpec(
        ways=1,
        shots=batches * _BATCH_SIZE,
        queries=0,
        inner_steps=batches,
        inner_batch_size=_BATCH_SIZE,
    )
    stream = kr.data.SineWaves().episodes(spec, _TASKS.value, common.SEED.value)
    return tf.nest.map_structure(
        lambda x: tf.cast(x, tf.float64) if x.dtype.is_floating else x,
        next(iter(stream)),
    )


def measure(learner, batches, rates) -> dict:
    """By algorithm: the paper's coefficients, the fitted and the residuals."""
    tasks = waves(batches)
    terms = analysis.estimate_terms(learner, tasks)
    results = {
        name: {
            "paper": analysis.coefficients(name, batches),
            "measured": [],
            "residual": [],
            "cosine": [],
        }
        for name in _ALGORITHMS
    }
    for rate in rates:
        measured = analysis.measure_meta_gradients(learner, tasks, rate)
        for name, result in results.items():
            gradient = _flat(measured[name])
            predicted = _flat(analysis.predict(terms, name, batches, rate))
            size = np.linalg.norm(gradient)
            left = np.linalg.norm(gradient - predicted)
            result["residual"].append(left / size)
            cosine = gradient @ predicted / size / np.linalg.norm(predicted)
            result["cosine"].append(float(cosine))
            result["measured"].append(
                analysis.fit_coefficients(terms, measured[name], rate)
            )
    for result in results.values():
        logarithms = np.log(rates), np.log(result["residual"])
        result["slope"] = float(np.polyfit(*logarithms, 1)[0])
    return results


def _flat(vector):
    return np.concatenate([np.ravel(part) for part in vector])


def draw(panel, batches, rates, results):
    """The residuals of one number of batches over the rate."""
    for name, result in results.items():
        label = f"{name}, slope {result['slope']:.2f}"
        panel.loglog(rates, result["residual"], "o-", label=label)
    square = np.square(rates) / rates[0] ** 2
    largest = max(result["residual"][0] for result in results.values())
    panel.loglog(rates, largest * square, "--", color="gray", label="slope 2")
    panel.minorticks_off()
    panel.set_xticks(rates[::2], [f"{rate:.2g}" for rate in rates[::2]])
    panel.set_title(f"{batches} batches")
    panel.set_xlabel("inner rate")
    panel.set_ylabel("relative residual")
    panel.legend(fontsize="x-small")


def log(results, logdir):
    """Writes what was fitted at the smallest rate, for k as the step."""
    for name in _ALGORITHMS:
        by_step = {}
        for batches, by_name in results.items():
            result = by_name[name]
            numbers = {"slope_of_residual": result["slope"]}
            pairs = {"paper": result["paper"], "fit": result["measured"][-1]}
            for kind, (c0, c1) in pairs.items():
                numbers[f"average_gradient/{kind}"] = c0
                numbers[f"average_gradient_inner/{kind}"] = c1
            by_step[batches] = numbers
        tensorboard_log.write(logdir / name, by_step)


def report(results, rates):
    """Prints the table at the smallest rate."""
    rows = []
    for batches, by_name in results.items():
        for name, result in by_name.items():
            (p0, p1), (c0, c1) = result["paper"], result["measured"][-1]
            rows.append(
                [batches, name, f"{p0:g}", f"{c0:.4f}", f"{p1:g}", f"{c1:.4f}"]
                + [f"{result['residual'][-1]:.1e}", f"{result['slope']:.2f}"]
                + [f"{result['cosine'][-1]:.6f}"]
            )
    common.print_table(
        f"Meta-gradients at an inner rate of {rates[-1]:.2g}, "
        f"{_TASKS.value} waves",
        ["batches", "algorithm", "AvgGrad", "measured"]
        + ["AvgGradInner", "measured", "residual", "slope", "cosine"],
        rows,
    )


if __name__ == "__main__":
    usage.run(main)
