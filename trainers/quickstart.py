"""Learns to learn invented characters, in a minute and no download.

Usage:
    python -m trainers.quickstart
    python -m trainers.quickstart --meta_iters=5000 --logdir=runs/longer

Meta-trains a small network on scribbles with Reptile, then shows it
characters it has never seen, one or five drawings of each, and compares it
with the same network trained from scratch on the same drawings.
"""

import keras
from absl import flags

import keras_reptile as kr
from trainers import common, results_file, strategy, usage

for _name in ("logdir", "seed", "resume", "strategy", "devices"):
    flags.declare_key_flag(_name)

_META_ITERS = flags.DEFINE_integer(
    "meta_iters", 500, "Meta-iterations.", lower_bound=1
)
_EVAL_SAMPLES = flags.DEFINE_integer(
    "eval_samples", 60, "Episodes of each evaluation.", lower_bound=2
)
_TRAIN_CLASSES = flags.DEFINE_integer(
    "train_classes", 500, "Characters to train on.", lower_bound=5
)
_WAYS, _SHOTS = 5, (1, 5)


def main():
    devices = strategy.chosen()
    logdir = common.usable_logdir("quickstart")
    common.stop_on_sigterm(logdir)
    train = kr.data.scribbles(_TRAIN_CLASSES.value, seed=0)
    validation = kr.data.scribbles(50, seed=1)
    test = kr.data.scribbles(100, seed=2)

    with devices.scope():
        model = build_model()
    trainer = kr.MetaTrainer(
        validation,
        protocol(shots=1, episodes=30),
        checkpoint_dir=logdir,
        resume=common.RESUME.value,
        log_dir=f"{logdir}/meta_steps",
    )
    common.say("Training from scratch on each support set, to compare with...")
    scratch = evaluate(model, test)
    spec = kr.EpisodeSpec(
        ways=_WAYS, shots=10, inner_steps=5, inner_batch_size=10
    )
    epochs = 1 if _META_ITERS.value % 5 else 5
    model.fit(
        train.episodes(spec, meta_batch_size=5, seed=common.SEED.value),
        steps_per_epoch=_META_ITERS.value // epochs,
        epochs=epochs,
        callbacks=[trainer, common.tensorboard(logdir)],
        verbose=common.verbosity(),
    )
    if trainer.preempted:
        common.stop(logdir)
    common.say("Evaluating on characters it has never seen...")
    reptile = evaluate(model, test)
    report(scratch, reptile, logdir, trainer.seconds)


def build_model() -> kr.MetaModel:
    """The paper's network at half its width, and the paper's optimizers."""
    keras.utils.set_random_seed(common.SEED.value)
    model = kr.MetaModel(kr.models.omniglot_cnn(_WAYS, filters=32))
    outer = kr.schedules.linear(1.0, 0.0, steps=_META_ITERS.value)
    model.compile(
        optimizer=keras.optimizers.SGD(outer),
        inner_optimizer=keras.optimizers.Adam(1e-3, beta_1=0.0, epsilon=1e-8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        inner_reduction="sum",
    )
    return model


def protocol(shots, episodes) -> kr.Protocol:
    """50 steps on the drawings given, each question asked by itself."""
    return kr.Protocol(
        ways=_WAYS,
        shots=shots,
        inner_batch_size=5,
        modes="inductive",
        num_episodes=episodes,
        seed=common.SEED.value,
    )


def evaluate(model, test) -> dict:
    """Scores by number of shots."""
    return {
        shots: kr.evaluate(model, test, protocol(shots, _EVAL_SAMPLES.value))[
            "inductive"
        ]
        for shots in _SHOTS
    }


def report(scratch, reptile, logdir, seconds):
    """Prints the table and writes it beside the checkpoints."""
    rows = [
        [
            f"{shots}-shot",
            f"{100 * reptile[shots].mean_before:.1f}",
            common.percent(scratch[shots]),
            common.percent(reptile[shots]),
        ]
        for shots in _SHOTS
    ]
    common.print_table(
        f"{_WAYS} characters never seen before: accuracy in percent, "
        f"{_EVAL_SAMPLES.value} episodes",
        ["", "before adaptation", "trained from scratch", "Reptile, adapted"],
        rows,
    )
    results = {
        name: {f"{n}-shot": results_file.summary(s) for n, s in scores.items()}
        for name, scores in (("scratch", scratch), ("reptile", reptile))
    }
    path = results_file.write(logdir, {**results, "training_seconds": seconds})
    common.say(f"Training took {seconds:.0f} s. Results: {path}.")
    common.say(f"Watch with: tensorboard --logdir {logdir}")


if __name__ == "__main__":
    usage.run(main)
