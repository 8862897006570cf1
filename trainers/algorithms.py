"""The algorithms side by side on Omniglot, 5-way, on a short schedule.

Usage:
    python -m trainers.algorithms
    python -m trainers.algorithms --logdir=runs/algorithms --resume
    python -m trainers.algorithms --only=maml_1shot

Joint training, Reptile, first-order MAML with a separate tail, MAML, and
Reptile adapted at the head only (ANIL), each for as many meta-iterations of
five tasks, in a process of its own for its peak memory.

Joint training and Reptile have the paper's settings (o15). First-order MAML
has them too, with five shots more for its tail. MAML's meta-gradient is a
gradient of the loss and not a way gone by weights, so that it takes an outer
Adam; it learns to do with few, large steps, so that its inner loop is plain
gradient descent of a larger rate on the whole support set; and it is trained
on as many shots as it is asked for, so that there are two of it.

Source: Nichol, Achiam & Schulman 2018, section 6; Finn, Abbeel & Levine 2017,
arXiv:1703.03400; Raghu et al. 2020, arXiv:1909.09157.
"""

import dataclasses
import json
import pathlib
import resource
import subprocess
import sys

import keras
from absl import flags

import keras_reptile as kr
from trainers import common, omniglot_folder, results_file, strategy, usage
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
_TASKS = 5
_SUM = {"inner_reduction": "sum"}


@dataclasses.dataclass(frozen=True)
class Training:
    """One way to meta-train, and how what it learned is adapted.

    `scored` are, by label, the shots and the variables adapted at evaluation.
    """

    algorithm: str
    spec: kr.EpisodeSpec
    outer: tuple  # The optimizer's name and its first learning rate.
    inner: keras.optimizers.Optimizer
    scored: dict
    eval_steps: int = 50
    eval_batch: int | None = 5
    settings: dict = dataclasses.field(default_factory=dict)


def trainings() -> dict[str, Training]:
    """All of them by name."""
    adam = keras.optimizers.Adam(1e-3, beta_1=0.0, beta_2=0.999, epsilon=1e-8)
    paper = kr.EpisodeSpec(5, 10, 0, inner_steps=5, inner_batch_size=10)
    tail = kr.EpisodeSpec(5, 10, 5, inner_steps=4, inner_batch_size=10)
    both = {"1-shot": (1, None), "5-shot": (5, None)}
    head = {"1-shot, head": (1, "head"), "5-shot, head": (5, "head")}
    found = {
        "joint": Training("joint", paper, ("SGD", 1.0), adam, both),
        "reptile": Training(
            "reptile", paper, ("SGD", 1.0), adam, {**both, **head}
        ),
        "fomaml": Training("foml_tail", tail, ("SGD", 1.0), adam, both),
    }
    found = {
        name: dataclasses.replace(training, settings=_SUM)
        for name, training in found.items()
    }
    for shots in (1, 5):
        found[f"maml_{shots}shot"] = Training(
            "maml",
            kr.EpisodeSpec(5, shots, 10, inner_steps=3),
            ("Adam", 2e-3),
            keras.optimizers.SGD(0.2),
            {f"{shots}-shot": (shots, None)},
            eval_steps=10,
            eval_batch=None,
        )
    return found


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
    record = json.loads(path.read_text())
    flags_then = record["flags"]
    flags_now = {
        flag: flags.FLAGS[flag].value
        for flag in ("meta_iters", "eval_samples", "seed")
    }
    for flag, value in {**flags_now, "only": [name]}.items():
        if flags_then[flag] != value:
            raise UsageError(
                f"{path} is of --{flag}={flags_then[flag]}. Expected: "
                f"--{flag}={value}. Give another --logdir."
            )
    return record


def carry_out(name, training, logdir):
    """Trains and scores in this process, and writes the results."""
    with strategy.chosen().scope():
        model = build_model(training)
    omniglot = kr.data.omniglot(omniglot_folder.DATA_DIR.value)
    history = model.fit(
        omniglot.train.episodes(training.spec, _TASKS, common.SEED.value),
        steps_per_epoch=_META_ITERS.value,
        callbacks=[kr.MetaTrainer(), common.tensorboard(logdir)],
        verbose=0,
    ).history
    scores = {
        label: kr.evaluate(model, omniglot.test, protocol(training, *what))
        for label, what in training.scored.items()
    }
    results_file.write(
        logdir,
        {
            "meta_iters_per_second": history["meta_steps_per_second"][-1],
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


def build_model(training) -> kr.MetaModel:
    """The paper's network and both optimizers."""
    keras.utils.set_random_seed(common.SEED.value)
    model = kr.MetaModel(kr.models.omniglot_cnn(5), training.algorithm)
    name, rate = training.outer
    schedule = kr.schedules.linear(rate, 0.0, _META_ITERS.value)
    model.compile(
        optimizer=getattr(keras.optimizers, name)(schedule),
        inner_optimizer=training.inner,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        **training.settings,
    )
    return model


def protocol(training, shots, inner_variables) -> kr.Protocol:
    """How a training is scored, in both modes."""
    return kr.Protocol(
        ways=5,
        shots=shots,
        inner_steps=training.eval_steps,
        inner_batch_size=training.eval_batch,
        num_episodes=_EVAL_SAMPLES.value,
        seed=common.SEED.value,
        inner_variables=inner_variables,
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
                    for m in kr.evaluation.MODES
                ]
                + [f"{result['meta_iters_per_second']:.1f}"]
                + [f"{result['peak_memory'] / 1e9:.2f}"]
            )
    common.print_table(
        f"Omniglot, 5-way, after {_META_ITERS.value} meta-iterations: "
        "accuracy in percent",
        ["training", "scored", *kr.evaluation.MODES]
        + ["meta-iterations/s", "peak memory, GB"],
        rows,
    )


if __name__ == "__main__":
    usage.run(main)
