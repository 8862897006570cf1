"""Meta-trains the paper's network on Omniglot and prints its table.

Usage:
    python -m trainers.omniglot --preset=o15 --logdir=runs/o15
    python -m trainers.omniglot --preset=o15 --logdir=runs/o15 --resume
    python -m trainers.omniglot --preset=o15 --meta_iters=3000

A preset is a row of the paper's table of hyper-parameters (Nichol, Achiam &
Schulman 2018, appendix A), and any flag given besides replaces its entry.
Both shot numbers of the paper and both ways to score are reported from one
run, since the trained weights are the same: o15 = o55 and o120 = o520.

Flags have the names of the original's (openai/supervised-reptile), so that
its commands translate one to one: --train-shots 10 is --train_shots=10.
"""

import time

import keras
from absl import app, flags

import keras_reptile as kr
from trainers import common

_FIVE_WAY = {
    "classes": 5,
    "shots": [1, 5],
    "train_shots": 10,
    "inner_batch": 10,
    "inner_iters": 5,
    "learning_rate": 1e-3,
    "meta_step": 1.0,
    "meta_step_final": 0.0,
    "meta_batch": 5,
    "meta_iters": 100_000,
    "eval_batch": 5,
    "eval_iters": 50,
    "eval_samples": 10_000,
}
_TWENTY_WAY = {
    **_FIVE_WAY,
    "classes": 20,
    "inner_batch": 20,
    "inner_iters": 10,
    "learning_rate": 5e-4,
    "meta_iters": 200_000,
    "eval_batch": 10,
}
PRESETS = {
    "o15": _FIVE_WAY,
    "o55": _FIVE_WAY,
    "o120": _TWENTY_WAY,
    "o520": _TWENTY_WAY,
}

_PRESET = flags.DEFINE_enum(
    "preset", "o15", sorted(PRESETS), "Row of the paper's table to start from."
)
flags.DEFINE_integer(
    "classes", None, "Ways: classes per episode.", lower_bound=2
)
flags.DEFINE_multi_integer(
    "shots", None, "Shots at evaluation; may be given more than once."
)
flags.DEFINE_integer(
    "train_shots",
    None,
    "Shots in training; 0 takes the first of --shots.",
    lower_bound=0,
)
flags.DEFINE_integer(
    "inner_batch", None, "Examples per inner step.", lower_bound=1
)
flags.DEFINE_integer(
    "inner_iters", None, "Inner steps in training.", lower_bound=1
)
_REPLACEMENT = flags.DEFINE_boolean(
    "replacement", False, "Draws every inner batch independently."
)
flags.DEFINE_float(
    "learning_rate", None, "Of the inner optimizer.", lower_bound=0.0
)
flags.DEFINE_float(
    "meta_step", None, "Outer step size of the first meta-iteration."
)
flags.DEFINE_float(
    "meta_step_final", None, "Outer step size it is annealed to, linearly."
)
flags.DEFINE_integer(
    "meta_batch", None, "Tasks per meta-iteration.", lower_bound=1
)
flags.DEFINE_integer("meta_iters", None, "Meta-iterations.", lower_bound=1)
flags.DEFINE_integer(
    "eval_batch", None, "Examples per inner step at evaluation.", lower_bound=1
)
flags.DEFINE_integer(
    "eval_iters", None, "Inner steps at evaluation.", lower_bound=1
)
flags.DEFINE_integer(
    "eval_samples", None, "Episodes of the final evaluation.", lower_bound=2
)
_EVAL_INTERVAL = flags.DEFINE_integer(
    "eval_interval",
    1_000,
    "Meta-iterations per epoch: between checkpoints, lines of the log and, "
    "with --validation_characters, evaluations.",
    lower_bound=1,
)
_VALIDATION_SAMPLES = flags.DEFINE_integer(
    "validation_samples", 200, "Episodes of one validation.", lower_bound=2
)
_VALIDATION_CHARACTERS = flags.DEFINE_integer(
    "validation_characters",
    0,
    "Characters taken out of the training ones to validate on; the paper's "
    "presets train on all of them.",
    lower_bound=0,
)
_WEIGHT_DECAY = flags.DEFINE_float(
    "weight_decay", 1.0, "Factor on the weights before each inner step."
)
_TRANSDUCTIVE = flags.DEFINE_boolean(
    "transductive",
    False,
    "Validates in transductive mode; the final table has both modes anyway.",
)
_SGD = flags.DEFINE_boolean(
    "sgd", False, "Gradient descent inside, in place of Adam without momentum."
)
_INNER_STATE = flags.DEFINE_enum(
    "inner_state",
    "average",
    kr.meta_model.INNER_STATES,
    "What becomes of the inner optimizer's slots after a meta-iteration; the "
    "original carries them from task to task.",
)
_SPLIT = flags.DEFINE_enum(
    "split",
    "reference",
    ["reference", "tfds"],
    "The original's 1,200 / 423 characters, or background / evaluation.",
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Expected flags only, got {argv[1:]}.")
    settings = {**PRESETS[_PRESET.value], **_given_flags()}
    iterations, interval = settings["meta_iters"], _EVAL_INTERVAL.value
    if iterations > interval and iterations % interval:
        raise app.UsageError(
            "--meta_iters must be a multiple of --eval_interval, or smaller. "
            f"Received: {iterations} and {interval}."
        )
    logdir = common.LOGDIR.value or f"runs/{_PRESET.value}"
    omniglot = kr.data.omniglot(
        common.DATA_DIR.value, _SPLIT.value, _VALIDATION_CHARACTERS.value
    )
    model = build_model(settings)
    trainer = train(model, omniglot, settings, logdir)
    scores, seconds = evaluate(model, omniglot.test, settings)
    report(scores, logdir, settings, trainer.seconds, seconds)


def _given_flags():
    """The preset's entries that were given on the command line."""
    values = {name: flags.FLAGS[name].value for name in _FIVE_WAY}
    return {name: v for name, v in values.items() if v is not None}


def build_model(settings) -> kr.MetaModel:
    """The paper's network and its two optimizers."""
    keras.utils.set_random_seed(common.SEED.value)
    if _SGD.value:
        inner = keras.optimizers.SGD(settings["learning_rate"])
    else:
        inner = keras.optimizers.Adam(
            settings["learning_rate"], beta_1=0.0, beta_2=0.999, epsilon=1e-8
        )
    outer = kr.schedules.linear(
        settings["meta_step"],
        settings["meta_step_final"],
        settings["meta_iters"],
    )
    model = kr.MetaModel(
        kr.models.omniglot_cnn(settings["classes"]),
        inner_state=_INNER_STATE.value,
    )
    model.compile(
        optimizer=keras.optimizers.SGD(outer),
        inner_optimizer=inner,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        inner_reduction="sum",
        inner_weight_decay=_WEIGHT_DECAY.value,
    )
    return model


def protocol(settings, shots, episodes) -> kr.Protocol:
    """How few-shot accuracy is measured at a number of shots."""
    first = "transductive" if _TRANSDUCTIVE.value else "inductive"
    modes = sorted(kr.evaluation.MODES, key=lambda mode: mode != first)
    return kr.Protocol(
        ways=settings["classes"],
        shots=shots,
        inner_steps=settings["eval_iters"],
        inner_batch_size=settings["eval_batch"],
        replacement=_REPLACEMENT.value,
        modes=tuple(modes),
        num_episodes=episodes,
        seed=common.SEED.value,
    )


def train(model, omniglot, settings, logdir) -> kr.MetaTrainer:
    """Meta-trains for `meta_iters`, in epochs of `eval_interval`."""
    shots = settings["shots"]
    spec = kr.EpisodeSpec(
        ways=settings["classes"],
        shots=settings["train_shots"] or shots[0],
        inner_steps=settings["inner_iters"],
        inner_batch_size=settings["inner_batch"],
        replacement=_REPLACEMENT.value,
    )
    validation = omniglot.validation
    trainer = kr.MetaTrainer(
        validation=validation,
        protocol=validation
        and protocol(settings, shots[0], _VALIDATION_SAMPLES.value),
        checkpoint_dir=logdir,
        resume=common.RESUME.value,
        log_dir=f"{logdir}/meta_steps",
    )
    stream = omniglot.train.episodes(
        spec, settings["meta_batch"], common.SEED.value
    )
    steps = min(_EVAL_INTERVAL.value, settings["meta_iters"])
    model.fit(
        stream,
        steps_per_epoch=steps,
        epochs=settings["meta_iters"] // steps,
        callbacks=[trainer, common.tensorboard(logdir)],
        verbose=common.verbosity(),
    )
    return trainer


def evaluate(model, test, settings):
    """Scores by shots and mode on the test characters, and the seconds."""
    start, scores = time.perf_counter(), {}
    for shots in settings["shots"]:
        print(f"Evaluating, {shots}-shot...", flush=True)
        scores[shots] = kr.evaluate(
            model, test, protocol(settings, shots, settings["eval_samples"])
        )
    return scores, time.perf_counter() - start


def report(scores, logdir, settings, training_seconds, evaluation_seconds):
    """Prints the table and writes it beside the checkpoints."""
    rows = [
        [f"{shots}-shot", mode, common.percent(score), score.num_episodes]
        for shots, modes in scores.items()
        for mode, score in sorted(modes.items())
    ]
    common.print_table(
        f"Omniglot, {settings['classes']}-way, after "
        f"{settings['meta_iters']} meta-iterations: accuracy in percent",
        ["shots", "mode", "mean +- 95 % interval", "episodes"],
        rows,
    )
    print(
        f"Training took {training_seconds:.0f} s, evaluation "
        f"{evaluation_seconds:.0f} s."
    )
    path = common.write_results(
        logdir,
        {
            "settings": settings,
            "training_seconds": training_seconds,
            "evaluation_seconds": evaluation_seconds,
            "scores": {
                f"{shots}-shot": {
                    mode: common.summary(score) for mode, score in modes.items()
                }
                for shots, modes in scores.items()
            },
        },
    )
    print(f"Results: {path}. Watch with: tensorboard --logdir {logdir}")


if __name__ == "__main__":
    app.run(main)
