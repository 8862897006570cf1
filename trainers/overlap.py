"""What happens when the last batch has been seen before: Fig. 4.

Usage:
    python -m trainers.overlap --short
    python -m trainers.overlap --logdir=runs/overlap
    python -m trainers.overlap --logdir=runs/overlap --resume

First-order MAML wants its last batch to be new: a gradient on examples just
learned says little. Four methods on tasks of 100 examples, against the number
of inner steps, the batch size, and the outer step size with full batches:
Reptile, first-order MAML with a separate tail, and with a shared tail, drawn
by cycling or with replacement. Beside the accuracy stands the fraction of the
last batch that was used before.

Source: Nichol, Achiam & Schulman 2018, section 6.3 and Fig. 4. The paper's
rates for it are not published with the code; these are those of Fig. 3.
"""

import pathlib

import numpy as np
from absl import flags

import keras_reptile as kr
from trainers import common, plain_descent, run_series, strategy, usage
from trainers.plain_descent import BATCH_SIZE, WAYS, Run

flags.adopt_module_key_flags(plain_descent)
flags.set_default(plain_descent.POINTS, 1)

METHODS = (
    "Reptile",
    "FOMAML, separate tail",
    "FOMAML, shared tail (cycling)",
    "FOMAML, shared tail (replacement)",
)
_SHOTS, _TAIL_SHOTS, _STEPS = 20, 5, 4
_FULL = _SHOTS * WAYS
# By panel: the values of a full and of a short run.
_PANELS = {
    "inner steps": (range(2, 11), (2, 4, 5, 6, 8)),
    "batch size": ((10, 25, 50, 75, 100), (10, 25, 50, 100)),
    "outer step size": ((0.05, 0.1, 0.25, 0.5, 1.0), (0.1, 0.25, 1.0)),
}


def main():
    plain_descent.meta_iters()  # Refused before anything is loaded.
    strategy.chosen()
    logdir = common.usable_logdir("overlap")
    figure, axes = common.new_figure(len(_PANELS), sharey=True)
    omniglot = plain_descent.load()
    runs = {}
    for panel in _PANELS:
        for method in METHODS:
            for value in values(panel):
                run = run_of(method, **settings_of(panel, value))
                runs[run.name] = run
    results = run_series.carry_out_all(
        "overlap",
        runs.values(),
        omniglot,
        omniglot.test,
        logdir,
        facts=lambda run: {"overlap": overlap_of(run)},
    )
    for axis, panel in zip(axes[0], _PANELS):
        draw(axis, panel, results)
        report(panel, results)
    axes[0, 0].legend(fontsize="x-small")
    picture = pathlib.Path(logdir, "overlap.png")
    common.save_figure(figure, picture)
    common.say(f"Picture: {picture}. Results: {logdir}/results.json.")


def values(panel):
    """The values along the axis of a panel."""
    return _PANELS[panel][plain_descent.SHORT.value]


def settings_of(panel, value) -> dict:
    """What a point of a panel is trained with."""
    if panel == "inner steps":
        return {"steps": value, "batch_size": BATCH_SIZE}
    if panel == "batch size":
        return {"steps": _STEPS, "batch_size": value}
    return {"steps": _STEPS, "batch_size": _FULL, "outer_step": value}


def run_of(method, steps, batch_size, outer_step=None) -> Run:
    """One meta-training; its name says all that it is made of."""
    if outer_step is None:
        outer_step = plain_descent.outer_step()
    separate = method == METHODS[1]
    shots = _SHOTS - _TAIL_SHOTS * separate
    spec = kr.EpisodeSpec(
        ways=WAYS,
        shots=shots,
        queries=_TAIL_SHOTS * separate,
        inner_steps=steps - separate,
        inner_batch_size=min(batch_size, shots * WAYS),
        replacement="replacement" in method,
    )
    shared = "reptile" if method == METHODS[0] else "foml"
    name = f"{method}, {steps} steps of {batch_size}, outer {outer_step:g}"
    return Run(name, "foml_tail" if separate else shared, spec, outer_step)


def overlap_of(run) -> float:
    """The part of the last batch that was used before, over 200 tasks."""
    counts, seed = [_SHOTS] * WAYS, common.SEED.value
    drawn = [
        kr.episodes.draw_indices(counts, run.spec, seed, task)
        for task in range(200)
    ]
    if run.algorithm == "foml_tail":
        return _overlap_of_tails(drawn, run.spec.shots)
    return kr.analysis.batch_overlap([task.batches for task in drawn])


def _overlap_of_tails(drawn, shots):
    """Of query examples, which the last step takes, with support examples."""
    pairs = [np.split(row, [shots]) for task in drawn for row in task.examples]
    return float(np.mean([np.isin(tail, support) for support, tail in pairs]))


def draw(axis, panel, results):
    """One panel of Fig. 4."""
    for method, marker in zip(METHODS, "osv^"):
        names = [
            run_of(method, **settings_of(panel, value)).name
            for value in values(panel)
        ]
        axis.errorbar(
            list(values(panel)),
            [results[name]["final"] for name in names],
            [results[name]["ci95"] for name in names],
            marker=marker,
            label=method,
        )
    axis.set_xlabel(panel)
    axis.set_ylabel("test accuracy")


def report(panel, results):
    """Prints the accuracies of a panel, and the overlaps."""
    rows = []
    for method in METHODS:
        for value in values(panel):
            name = run_of(method, **settings_of(panel, value)).name
            result = results[name]
            rows.append(
                [method, value, f"{100 * result['overlap']:.0f}"]
                + [f"{100 * result['final']:.2f} +- {100 * result['ci95']:.2f}"]
            )
    common.print_table(
        f"5-way 5-shot test accuracy in percent against {panel}, after "
        f"{plain_descent.meta_iters()} meta-iterations",
        ["method", panel, "% of last batch used before", "accuracy"],
        rows,
    )


if __name__ == "__main__":
    usage.run(main)
