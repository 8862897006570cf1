"""Accuracy against wall time, one point per whole training.

Usage:
    python -m trainers.accuracy_over_time docs/results/fast5-*.json \\
        docs/results/o15-seed*.json docs/results/o15-3000-average.json

Reads the results.json of finished runs of `trainers.omniglot`, 5-way, and
draws each of the paper's four figures over the time that the training took.
A training ends with its outer step annealed to 0, so that the accuracy in the
middle of a long one is not that of a short one: a point is a whole training,
and those of one kind (preset and length) have one colour.

Source of the dashed lines: Nichol, Achiam & Schulman 2018, Table 2. That the
original's code took 27 hours on 2 cores is of those who ran it again
(glogowski-wojciech/progressive-reptile-experiments).
"""

import json
import pathlib

from absl import flags

from trainers import common, usage
from trainers.presets import OMNIGLOT
from trainers.usage import UsageError

_PICTURE = flags.DEFINE_string(
    "picture", "accuracy_over_time.png", "Where the picture goes."
)
_PAPER = {
    ("1-shot", "inductive"): 95.39,
    ("1-shot", "transductive"): 97.68,
    ("5-shot", "inductive"): 98.90,
    ("5-shot", "transductive"): 99.48,
}
_ORIGINAL_SECONDS = 27 * 3600
_PAPERS_FLAGS = {
    "weight_decay": 1.0,
    "split": "reference",
    "validation_characters": 0,
}
# Entries of a preset that leave the training alone, or are named anyway.
_OF_EVALUATION = (
    *("shots", "eval_batch", "eval_iters", "eval_samples"),
    *("meta_iters", "inner_state"),
)


def main(argv):
    usage.refuse_flags("logdir", "resume", "seed", "strategy", "devices")
    paths = argv[1:]
    if not paths:
        raise UsageError(
            "Which runs? Give the results.json of one or more, as in: python "
            "-m trainers.accuracy_over_time runs/o15/results.json."
        )
    runs = [read(path) for path in paths]
    figure, axes = common.new_figure(2, 2, sharex=True)
    for axis, (cell, paper) in zip(axes.flat, _PAPER.items()):
        draw(axis, cell, paper, runs)
    axes[0, 0].legend(fontsize="x-small", loc="lower right")
    figure.supylabel("accuracy on the test characters, %", fontsize="medium")
    figure.supxlabel("minutes of training", fontsize="medium")
    common.save_figure(figure, _PICTURE.value)
    report(runs)
    print(f"Picture: {_PICTURE.value}.")


def read(path) -> dict:
    """What a results file says of a run: kind, minutes and four scores.

    Raises:
        UsageError: If it is not one of a 5-way run with both shots.
    """
    try:
        record = json.loads(pathlib.Path(path).read_text())
        settings, flags_ = record["settings"], record["flags"]
        if settings["classes"] != 5 or flags_["preset"] not in OMNIGLOT:
            raise ValueError(f"{settings['classes']}-way {flags_['preset']}")
        if "split" not in flags_:  # The original's preset has both data.
            raise ValueError("of mini-ImageNet")
        scores = {
            (shots, mode): [
                100 * record["scores"][shots][mode][key]
                for key in ("mean", "ci95")
            ]
            for shots, mode in _PAPER
        }
        iterations = settings["meta_iters"]
        return {
            "kind": ", ".join(
                [flags_["preset"], f"{iterations:,} meta-iterations"]
                + _others(flags_, settings)
            ),
            "seed": flags_["seed"],
            "minutes": record["training_seconds"] / 60,
            "scores": scores,
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            "Expected the results.json of finished 5-way runs of "
            f"trainers.omniglot, with 1 and 5 shots. Received: {path} "
            f"({type(error).__name__}: {error})."
        ) from None


def _others(flags_, settings):
    """What else tells trainings apart, where it is not the paper's."""
    # A flag says nothing of it where it was left to the preset.
    flags_ = flags_ | {k: settings[k] for k in settings if k == "inner_state"}
    names = ("algorithm", "inner_state", "convolution_dtype", "foml_tail")
    found = [f"{n}={flags_[n]}" for n in names if flags_.get(n) is not None]
    found += [n for n in ("foml", "replacement") if flags_.get(n)]
    found += [
        f"{name}={flags_[name]}"
        for name, paper in _PAPERS_FLAGS.items()
        if flags_.get(name, paper) != paper
    ]
    preset = OMNIGLOT[flags_["preset"]]
    found += [
        f"{name}={settings[name]}"
        for name in preset
        if name not in _OF_EVALUATION and settings[name] != preset[name]
    ]
    usual = ("inner_state=average", "algorithm=reptile")
    return [one for one in found if one not in usual]


def draw(axis, cell, paper, runs):
    """One of the four cells of the paper's table: every run, and its own."""
    for kind in dict.fromkeys(run["kind"] for run in runs):
        of_kind = [run for run in runs if run["kind"] == kind]
        axis.errorbar(
            [run["minutes"] for run in of_kind],
            [run["scores"][cell][0] for run in of_kind],
            [run["scores"][cell][1] for run in of_kind],
            fmt="o",
            markersize=4,
            label=kind,
        )
    axis.plot(_ORIGINAL_SECONDS / 60, paper, "k*", label="the original's code")
    axis.axhline(paper, color="grey", linestyle="--", linewidth=0.8)
    axis.set_xscale("log")
    axis.set_title(" ".join(cell), fontsize="medium")


def report(runs):
    """Prints the same as a table."""
    rows = [
        [
            run["kind"],
            run["seed"],
            f"{run['minutes']:.1f}",
            *(f"{m:.2f} +- {c:.2f}" for m, c in run["scores"].values()),
        ]
        for run in sorted(runs, key=lambda run: run["minutes"])
    ]
    paper = [f"{accuracy:.2f}" for accuracy in _PAPER.values()]
    rows.append(["the paper", "", f"{_ORIGINAL_SECONDS / 60:.0f}", *paper])
    header = ["training", "seed", "minutes", *(" ".join(c) for c in _PAPER)]
    common.print_table("Accuracy over time, Omniglot, 5-way", header, rows)


if __name__ == "__main__":
    usage.run(main, takes_arguments=True)
