"""Which sum of the inner gradients is the best meta-gradient: Fig. 3.

Usage:
    python -m trainers.gradient_combinations --short
    python -m trainers.gradient_combinations --logdir=runs/combinations
    python -m trainers.gradient_combinations --logdir=runs/combinations --resume

Ten meta-trainings on Omniglot, on 1 to 4 disjoint batches of a task: their
gradients alone (g1 is joint training, the others are first-order MAML), their
sums (Reptile) and their means. The theory of section 5.1 foretells the order:
the better one has more of AvgGradInner for its AvgGrad.

Source: Nichol, Achiam & Schulman 2018, section 6.2 and Fig. 3.
"""

import pathlib

from absl import flags

import keras_reptile as kr
from trainers import common, plain_descent, run_series, strategy, usage
from trainers.usage import UsageError

flags.adopt_module_key_flags(plain_descent)

_ONLY = flags.DEFINE_multi_string(
    "only", [], "Curves to train, such as g1+g2; may be given more than once."
)


def main():
    plain_descent.meta_iters()  # Refused before anything is loaded.
    strategy.chosen()
    runs = [run for run in all_runs() if run.name in _ONLY.value]
    if len(runs) < len(set(_ONLY.value)):
        raise UsageError(
            f"--only must be of {[run.name for run in all_runs()]}. Received: "
            f"{_ONLY.value}."
        )
    logdir = common.usable_logdir("gradient_combinations")
    figure, axes = common.new_figure(1)
    omniglot = plain_descent.load()
    done = run_series.carry_out_all(
        "gradient_combinations",
        runs or all_runs(),
        omniglot,
        omniglot.validation,
        logdir,
    )
    results = {r.name: done[r.name] for r in all_runs() if r.name in done}
    for name, result in results.items():
        draw(axes[0, 0], name, result)
    axes[0, 0].set_xlabel("meta-iterations")
    axes[0, 0].set_ylabel("validation accuracy, smoothed")
    axes[0, 0].legend(fontsize="x-small", ncols=2)
    figure.set_size_inches(7, 4.5)
    picture = pathlib.Path(logdir, "gradient_combinations.png")
    common.save_figure(figure, picture)
    report(results)
    common.say(f"Picture: {picture}. Results: {logdir}/results.json.")


def all_runs() -> list:
    """The ten curves, by the number of batches and then as Fig. 3 has them."""
    # A short schedule has to go as far.
    runs, step = [], plain_descent.outer_step(2 * plain_descent.OUTER_STEP)
    for batches in (1, 2, 3, 4):
        numbers = range(1, batches + 1)
        total = "+".join(f"g{i}" for i in numbers)
        combined = {total: [1] * batches}
        if batches > 1:
            combined[f"mean of {total}"] = [1 / batches] * batches
            combined[f"g{batches}"] = [0] * (batches - 1) + [1]
        spec = training_spec(batches)
        runs += [
            plain_descent.Run(name, kr.algorithms.combination(c), spec, step)
            for name, c in combined.items()
        ]
    return runs


def training_spec(batches) -> kr.EpisodeSpec:
    """Tasks that consist of so many batches, none of them overlapping."""
    size = plain_descent.BATCH_SIZE
    return kr.EpisodeSpec(
        ways=plain_descent.WAYS,
        shots=batches * size // plain_descent.WAYS,
        queries=0,
        inner_steps=batches,
        inner_batch_size=size,
    )


def draw(panel, name, result):
    """One curve; those of equal coefficients alike, by number of batches."""
    batches = int(name[-1])
    style = "-" if "+" in name else "--"
    style = ":" if name.startswith("mean") else style
    panel.plot(
        result["meta_iters"],
        plain_descent.smoothed(result["accuracy"]),
        style,
        color=f"C{batches - 1}",
        label=f"{name} ({100 * result['final']:.1f} %)",
    )


def report(results):
    """Prints the final accuracies."""
    rows = [
        [name, f"{100 * result['final']:.2f} +- {100 * result['ci95']:.2f}"]
        + [f"{result['seconds']:.0f}"]
        for name, result in results.items()
    ]
    common.print_table(
        f"5-way 5-shot accuracy in percent after {plain_descent.meta_iters()} "
        f"meta-iterations, {plain_descent.eval_samples()} episodes of "
        "validation characters",
        ["meta-gradient", "mean +- 95 % interval", "seconds"],
        rows,
    )


if __name__ == "__main__":
    usage.run(main)
