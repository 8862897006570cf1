"""Omniglot by plain gradient descent, as the paper's section 6 has it.

What the programs `gradient_combinations`, `overlap` and `agreement` share:
one task per meta-iteration, gradient descent inside and outside, 5 ways.

Source: Nichol, Achiam & Schulman 2018, appendix A, table 5. The inner loss is
summed over a batch, as the original's code has it.
"""

import pathlib
import time
from typing import NamedTuple

import keras
from absl import flags

import keras_reptile as kr
from trainers import common, omniglot_folder, strategy
from trainers.usage import UsageError

flags.adopt_module_key_flags(common)
flags.adopt_module_key_flags(omniglot_folder)

LEARNING_RATE, BATCH_SIZE, OUTER_STEP, WAYS = 0.003, 25, 0.25, 5

SHORT = flags.DEFINE_boolean(
    "short", False, "A fraction of the meta-iterations and of the points."
)
META_ITERS = flags.DEFINE_integer(
    "meta_iters",
    None,
    "Meta-iterations of each run, of one task each. (default: 40,000, the "
    "paper's; 2,000 with --short)",
    lower_bound=1,
)
OUTER_STEP_SIZE = flags.DEFINE_float(
    "outer_step",
    None,
    "Outer step size at the start, annealed to 0, where it is not part of the "
    "experiment. (default: 0.25, the paper's; gradient_combinations takes 0.5 "
    "with --short)",
    lower_bound=0.0,
)
POINTS = flags.DEFINE_integer(
    "points",
    None,
    "Validations of a run; they are its curve. (default: 20, 10 with --short, "
    "and 1 where no curve is drawn)",
    lower_bound=1,
)
VALIDATION_SAMPLES = flags.DEFINE_integer(
    "validation_samples",
    None,
    "Episodes of one validation. (default: 100, 50 with --short)",
    lower_bound=2,
)
EVAL_SAMPLES = flags.DEFINE_integer(
    "eval_samples",
    None,
    "Episodes of a run's final accuracy. (default: 1,000, 500 with --short)",
    lower_bound=2,
)
_VALIDATION_CHARACTERS = 100


class Run(NamedTuple):
    """One meta-training.

    `algorithm` is as `MetaModel` takes it; `step` the outer step size at the
    start, annealed to 0. `agreement` asks for that of the gradients.
    """

    name: str
    algorithm: object
    spec: kr.EpisodeSpec
    step: float
    agreement: bool = False


def meta_iters() -> int:
    """Meta-iterations of each run.

    Raises:
        UsageError: If there is no such number of validations in them.
    """
    iterations = META_ITERS.value or (2_000 if SHORT.value else 40_000)
    if iterations % points():
        raise UsageError(
            "--meta_iters must be a multiple of --points. Received: "
            f"{iterations} and {points()}."
        )
    return iterations


def points() -> int:
    """Validations of each run."""
    return POINTS.value or (10 if SHORT.value else 20)


def validation_samples() -> int:
    """Episodes of one validation."""
    return VALIDATION_SAMPLES.value or (50 if SHORT.value else 100)


def eval_samples() -> int:
    """Episodes of a run's final accuracy."""
    return EVAL_SAMPLES.value or (500 if SHORT.value else 1_000)


def outer_step(in_short: float = OUTER_STEP) -> float:
    """The flag's outer step size, or the default of a program.

    Args:
        in_short: The default with --short.
    """
    if OUTER_STEP_SIZE.value is not None:
        return OUTER_STEP_SIZE.value
    return in_short if SHORT.value else OUTER_STEP


def load() -> kr.data.Splits:
    """Omniglot with characters held out to validate on."""
    return kr.data.omniglot(
        omniglot_folder.DATA_DIR.value,
        validation_characters=_VALIDATION_CHARACTERS,
    )


def build_model(run: Run) -> kr.MetaModel:
    """The paper's network under plain gradient descent."""
    keras.utils.set_random_seed(common.SEED.value)
    model = kr.MetaModel(kr.models.omniglot_cnn(WAYS), run.algorithm)
    model.compile(
        optimizer=keras.optimizers.SGD(
            kr.schedules.linear(run.step, 0.0, meta_iters())
        ),
        inner_optimizer=keras.optimizers.SGD(LEARNING_RATE),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        inner_reduction="sum",
        steps_per_execution=common.steps_per_call(meta_iters() // points()),
    )
    return model


def protocol(episodes) -> kr.Protocol:
    """Five steps on all 25 support examples, each query on its own."""
    return kr.Protocol(
        ways=WAYS,
        shots=5,
        inner_steps=5,
        inner_batch_size=BATCH_SIZE,
        modes=("inductive",),
        num_episodes=episodes,
        seed=common.SEED.value,
    )


def carry_out(run: Run, omniglot, classes, logdir) -> dict:
    """Trains once, and scores.

    Args:
        run: What to train.
        omniglot: From `load`.
        classes: Those of the final accuracy.
        logdir: The program's folder; TensorBoard's logs go below it.

    Returns:
        What the results file holds: `meta_iters` and `accuracy`, the curve
        on validation characters (of the same episodes at each point); the
        measures of `kr.analysis.gradient_agreement` where they are asked for,
        on the first tasks that are trained on, and by the same names
        `start`, on these before training, and `held_out`, on other
        characters after it; `final` and `ci95`; `seconds` of training.
    """
    common.say(f"{run.name}...")
    with strategy.chosen().scope():
        model = build_model(run)
    agreement = {}
    if run.agreement:
        agreement["start"] = agreement_of(model, run, omniglot.train, 20)
    start = time.perf_counter()
    history = _trained(model, run, omniglot, pathlib.Path(logdir, run.name))
    seconds = time.perf_counter() - start
    if run.agreement:
        agreement["held_out"] = agreement_of(model, run, classes, 100)
    final = kr.evaluate(model, classes, protocol(eval_samples()))["inductive"]
    keras.backend.clear_session()
    common.say(f"  {common.percent(final)} % after {seconds:.0f} s")
    measures = {k: v for k, v in history.items() if k.startswith("gradient_")}
    steps = meta_iters() // points()
    return {
        "meta_iters": [steps * (i + 1) for i in range(points())],
        "accuracy": history["val_accuracy"],
        **measures,
        **agreement,
        "final": final.mean,
        "ci95": final.ci95,
        "seconds": seconds,
    }


def _trained(model, run, omniglot, logdir):
    """The history of a training, by name."""
    trainer = kr.MetaTrainer(
        omniglot.validation,
        protocol(validation_samples()),
        gradient_agreement=run.agreement,
    )
    return model.fit(
        omniglot.train.episodes(run.spec, seed=common.SEED.value),
        steps_per_epoch=meta_iters() // points(),
        epochs=points(),
        callbacks=[trainer, common.tensorboard(logdir)],
        verbose=0,
    ).history


def agreement_of(model, run: Run, classes, num_tasks: int) -> dict:
    """`kr.analysis.gradient_agreement` by the names that MetaTrainer logs.

    Args:
        model: From `build_model`.
        run: What it is made of.
        classes: Those of the tasks.
        num_tasks: How many, the first of the stream.
    """
    stream = classes.episodes(run.spec, seed=common.SEED.value)
    measured = kr.analysis.gradient_agreement(model.learner, stream, num_tasks)
    return {f"gradient_{key}": v for key, v in measured._asdict().items()}


def smoothed(curve, width: int = 5) -> list:
    """The mean of each point and of those around it, as many on each side."""
    half = width // 2
    means = []
    for i in range(len(curve)):
        reach = min(half, i, len(curve) - 1 - i)
        around = curve[i - reach : i + reach + 1]
        means.append(sum(around) / len(around))
    return means
