"""The algorithms side by side on Omniglot, 5-way, on a short schedule.

Usage:
    python -m trainers.algorithms
    python -m trainers.algorithms --logdir=runs/algorithms --resume
    python -m trainers.algorithms --only=maml_1shot

Joint training, Reptile, first-order MAML with a separate tail (`foml_tail`, and
`fomaml` with settings of its own), MAML, and Reptile adapted at the head only
(ANIL), in evaluation or from the start, each for as many meta-iterations of
five tasks, in a process of its own for its peak memory. Their settings, and why
they differ, are in `algorithm_trainings.py`.

Source: Nichol, Achiam & Schulman 2018, section 6.
"""

import pathlib
import resource
import subprocess
import sys

import numpy as np
from absl import flags

import keras_reptile as kr
from trainers import (
    common,
    omniglot_folder,
    results_file,
    strategy,
    tensorboard_log,
    usage,
)
from trainers.algorithm_trainings import (
    TASKS,
    build_model,
    protocols,
    trainings,
)
from trainers.usage import UsageError

flags.adopt_module_key_flags(common)
flags.adopt_module_key_flags(omniglot_folder)

_META_ITERS = flags.DEFINE_integer(
    "meta_iters", 3_000, "Meta-iterations of each.", lower_bound=2
)
_EVAL_SAMPLES = flags.DEFINE_integer(
    "eval_samples", 1_000, "Episodes of an evaluation.", lower_bound=2
)
_ONLY = flags.DEFINE_multi_string(
    "only", [], "Trainings to carry out; may be given more than once."
)
_HERE = flags.DEFINE_boolean(
    "here", False, "Trains in this process; what the program starts itself by."
)


def main():
    known = trainings()
    names = _ONLY.value or list(known)
    if set(names) - set(known):
        raise UsageError(
            f"--only must be of {list(known)}. Received: {_ONLY.value}."
        )
    if strategy.STRATEGY.value == "multiworker" and not _HERE.value:
        raise UsageError(
            "The program starts a process for each training, and workers are "
            "to be started for one. Received: --strategy=multiworker. Give "
            "--here and one name to --only besides."
        )
    if _HERE.value and len(names) != 1:
        raise UsageError(
            "--here carries out one training. Received: --only of "
            f"{len(_ONLY.value)} names. Give one."
        )
    logdir = pathlib.Path(common.usable_logdir("algorithms"))
    if _HERE.value:
        carry_out(names[0], known[names[0]], logdir)
        return
    common.stop_on_sigterm(logdir)
    results = {name: in_own_process(name, logdir / name) for name in names}
    report(results)
    path = results_file.write(logdir, results)
    print(f"Results: {path}.")
    draw(results, logdir / "algorithms.png")


def in_own_process(name, logdir) -> dict:
    """Starts the program for one training; a finished one is read."""
    path = logdir / "results.json"
    if not path.exists():
        print(f"{name}...", flush=True)
        command = [
            *(sys.executable, "-m", "trainers.algorithms", "--here"),
            # What an interrupted one has left is for --resume to allow.
            *(f"--only={name}", f"--logdir={logdir}", "--resume"),
            f"--meta_iters={_META_ITERS.value}",
            f"--eval_samples={_EVAL_SAMPLES.value}",
            f"--seed={common.SEED.value}",
            *strategy.flags_for_a_child(),
        ]
        if omniglot_folder.DATA_DIR.value:
            command.append(f"--data_dir={omniglot_folder.DATA_DIR.value}")
        code = subprocess.run(command).returncode
        if code:  # It has said why.
            print(f"The training {name!r} ended with code {code}.")
            sys.exit(code if code == usage.EXIT_CODE else 1)
    record = results_file.parsed(path.read_bytes(), path)
    flags_then = record["flags"]
    flags_now = {
        flag: flags.FLAGS[flag].value
        for flag in ("meta_iters", "eval_samples", "seed")
    }
    for flag, value in {**flags_now, "only": [name]}.items():
        if flags_then.get(flag) != value:
            raise UsageError(
                f"{path} is of --{flag}={flags_then.get(flag)}. Expected: "
                f"--{flag}={value}. Give another --logdir."
            )
    return record


def carry_out(name, training, logdir):
    """Trains and scores in this process, and writes the results."""
    with strategy.chosen().scope():
        model = build_model(training, _META_ITERS.value, common.SEED.value)
    omniglot = kr.data.omniglot(omniglot_folder.DATA_DIR.value)
    # Of two meta-iterations or more, by which their speed can be told.
    epochs = 10 if _META_ITERS.value % 10 == 0 and _META_ITERS.value > 10 else 1
    history = model.fit(
        omniglot.train.episodes(training.spec, TASKS, common.SEED.value),
        steps_per_epoch=_META_ITERS.value // epochs,
        epochs=epochs,
        callbacks=[kr.MetaTrainer(), common.tensorboard(logdir)],
        verbose=0,
    ).history
    scores = {
        label: kr.evaluate(model, omniglot.test, protocol)
        for label, protocol in protocols(
            training, _EVAL_SAMPLES.value, common.SEED.value
        ).items()
    }
    tensorboard_log.write(
        logdir / "test",
        {
            _META_ITERS.value: {
                f"test_accuracy/{label}_{mode}": score.mean
                for label, modes in scores.items()
                for mode, score in modes.items()
            }
        },
    )
    results_file.write(
        logdir,
        {
            "meta_iters_per_second": float(
                np.median(history["meta_steps_per_second"])
            ),
            # In kilobytes, as Linux has it.
            "peak_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * 1024,
            "scores": {
                label: {
                    mode: results_file.summary(s) for mode, s in modes.items()
                }
                for label, modes in scores.items()
            },
        },
    )


def report(results):
    """Prints the table."""
    rows = []
    for name, result in results.items():
        for label, modes in result["scores"].items():
            rows.append(
                [name, label]
                + [
                    f"{100 * modes[m]['mean']:.2f} +- "
                    f"{100 * modes[m]['ci95']:.2f}"
                    for m in kr.protocol.MODES
                ]
                + [f"{result['meta_iters_per_second']:.1f}"]
                + [f"{result['peak_memory'] / 1e9:.2f}"]
            )
    common.print_table(
        f"Omniglot, 5-way, after {_META_ITERS.value} meta-iterations: "
        "accuracy in percent",
        ["training", "scored", *kr.protocol.MODES]
        + ["meta-iterations/s", "peak memory, GB"],
        rows,
    )


def draw(results, picture):
    """Draws the accuracies with their intervals, where matplotlib is."""
    try:
        figure, axes = common.new_figure(2, sharey=True)
    except UsageError as error:  # The results are written.
        common.say(error)
        return
    for axis, shots in zip(axes[0], ("1-shot", "5-shot")):
        scored = {
            name.removesuffix("_" + shots.replace("-", ""))
            + label.removeprefix(shots): modes
            for name, result in results.items()
            for label, modes in result["scores"].items()
            if label.startswith(shots)
        }
        for mode, marker in zip(kr.protocol.MODES, "os"):
            axis.errorbar(
                [100 * modes[mode]["mean"] for modes in scored.values()],
                list(scored),
                xerr=[100 * modes[mode]["ci95"] for modes in scored.values()],
                linestyle="",
                marker=marker,
                capsize=2,
                label=mode,
            )
        axis.set_xlabel(f"{shots} accuracy in percent")
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(fontsize="x-small")
    common.save_figure(figure, picture)
    common.say(f"Picture: {picture}.")


if __name__ == "__main__":
    usage.run(main)
