"""Within-task generalisation as it grows: the theory, watched live.

Usage:
    python -m trainers.agreement --short
    python -m trainers.agreement --logdir=runs/agreement

By section 5.1, Reptile and first-order MAML raise the inner product of the
gradients of different batches of one task, so that a step on one lowers the
loss on the other, and more so with more inner steps; joint training has no
such term. The program meta-trains on Omniglot by each from the same weights
and draws inner product, cosine and transfer (`kr.analysis.gradient_agreement`)
over the meta-iterations, on the same 20 tasks for all, which are of those that
are trained on; and measures once more, at the end, on 100 tasks of characters
held out.

Source: Nichol, Achiam & Schulman 2018, section 5.1.
"""

import pathlib

from absl import flags

import keras_reptile as kr
from trainers import common, plain_descent, run_series, strategy, usage
from trainers.plain_descent import BATCH_SIZE, WAYS, Run

flags.adopt_module_key_flags(plain_descent)

_MEASURES = ("gradient_inner_product", "gradient_cosine", "gradient_transfer")


def main():
    plain_descent.meta_iters()  # Refused before anything is loaded.
    strategy.chosen()
    logdir = common.usable_logdir("agreement")
    figure, axes = common.new_figure(len(_MEASURES))
    omniglot = plain_descent.load()
    results = run_series.carry_out_all(
        "agreement", all_runs(), omniglot, omniglot.validation, logdir
    )
    for panel, measure in zip(axes[0], _MEASURES):
        for name, result in results.items():
            curve = [result["start"][measure], *result[measure]]
            curve = plain_descent.smoothed(curve)
            panel.plot([0, *result["meta_iters"]], curve, label=name)
        panel.set_title(measure.replace("_", " "))
        panel.set_xlabel("meta-iterations")
    axes[0, 0].legend(fontsize="x-small")
    picture = pathlib.Path(logdir, "agreement.png")
    common.save_figure(figure, picture)
    report(results)
    common.say(f"Picture: {picture}. Results: {logdir}/results.json.")


def all_runs() -> list:
    """Joint training, FOMAML and Reptile, on batches that do not overlap."""
    step = plain_descent.outer_step()
    return [
        Run(name, algorithm, training_spec(steps), step, agreement=True)
        for name, algorithm, steps in (
            ("joint training", "joint", 4),
            ("Reptile, 2 steps", "reptile", 2),
            ("Reptile, 4 steps", "reptile", 4),
            ("FOMAML, 4 steps", "foml", 4),
        )
    ]


def training_spec(steps) -> kr.EpisodeSpec:
    """The same tasks for all, of which so many batches are learned from."""
    return kr.EpisodeSpec(
        ways=WAYS,
        shots=4 * BATCH_SIZE // WAYS,
        queries=0,
        inner_steps=steps,
        inner_batch_size=BATCH_SIZE,
    )


def report(results):
    """Prints the measures at the start, late in training, and held out."""
    rows = []
    for name, result in results.items():
        cells = []
        for measure in _MEASURES:
            curve = result[measure]
            last = curve[-max(1, len(curve) // 4) :]
            late = sum(last) / len(last)
            start, new = (result[of][measure] for of in ("start", "held_out"))
            cells.append(f"{start:.3g} / {late:.3g} / {new:.3g}")
        accuracy = f"{100 * result['final']:.2f} +- {100 * result['ci95']:.2f}"
        rows.append([name, *cells, accuracy])
    common.print_table(
        "Agreement of two batches of one task: at the start / mean of the "
        f"last quarter of {plain_descent.meta_iters()} meta-iterations / on "
        "characters held out, at the end; and 5-way 5-shot accuracy on those",
        ["training", "inner product", "cosine", "transfer", "accuracy"],
        rows,
    )


if __name__ == "__main__":
    usage.run(main)
