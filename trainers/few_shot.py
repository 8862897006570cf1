"""What the paper's experiments on images share: flags, training and table.

A program has a network, a data set and presets (`trainers.presets`); from
the flags on, it is this.
"""

import time

import keras
from absl import flags

import keras_reptile as kr
from trainers import common, curves, presets, score_table, strategy
from trainers.usage import UsageError

_REPLACEMENT = flags.DEFINE_boolean(
    "replacement", False, "Draws every inner batch independently."
)
_EVAL_INTERVAL = flags.DEFINE_integer(
    "eval_interval",
    1_000,
    "Meta-iterations per epoch: between checkpoints, lines of the log and, "
    "where there are classes to validate on, evaluations.",
    lower_bound=1,
)
_VALIDATION_SAMPLES = flags.DEFINE_integer(
    "validation_samples", 200, "Episodes of one validation.", lower_bound=2
)
_WEIGHT_DECAY = flags.DEFINE_float(
    "weight_decay", 1.0, "Factor on the weights before each inner step."
)
_TRANSDUCTIVE = flags.DEFINE_boolean(
    "transductive",
    False,
    "Validates in transductive mode; the final table has both modes anyway.",
)
_CONVOLUTION_DTYPE = flags.DEFINE_enum(
    "convolution_dtype",
    None,
    ["bfloat16"],
    "Rounds the factors of the convolutions' products to it: faster on "
    "processors that multiply bfloat16. (default: the model's own precision)",
)


def chosen(table: dict) -> dict:
    """The settings of the chosen preset and of the command line.

    Args:
        table: The program's presets.

    Raises:
        UsageError: If they contradict each other.
    """
    replicas = strategy.chosen().num_replicas_in_sync
    settings = presets.chosen(table)
    if settings["inner_state"] == "carry" and replicas > 1:
        raise UsageError(
            "--inner_state=carry, which some presets have, passes the slots "
            "from task to task, so that the tasks cannot be shared out among "
            f"devices. Received: --preset={flags.FLAGS.preset}, {replicas} "
            f"replicas by --strategy={strategy.STRATEGY.value}. "
            "Give --inner_state=average or accumulate, or --strategy=none."
        )
    iterations, interval = settings["meta_iters"], _EVAL_INTERVAL.value
    if iterations > interval and iterations % interval:
        raise UsageError(
            "--meta_iters must be a multiple of --eval_interval, or smaller. "
            f"Received: {iterations} and {interval}."
        )
    return settings


def run(title, network, splits, settings, logdir) -> None:
    """Meta-trains on one split, validates on the next, reports on the last.

    Args:
        title: The data's name, for the table.
        network: From a number of ways to a model, as in `kr.models`.
        splits: A `kr.data.Splits`; its validation may be `None`.
        settings: As `chosen` returns them.
        logdir: Where all that is written goes.
    """
    spec = training_spec(settings, min(splits.train.counts))
    with strategy.chosen().scope():
        model = build_model(network, settings)
    for shots in settings["shots"]:  # Before hours are spent on training.
        final = protocol(settings, shots, settings["eval_samples"])
        kr.evaluation.check_protocol(model, splits.test, final)
    trainer = train(model, splits, settings, spec, logdir)
    if trainer.preempted:
        common.stop(logdir)
    scores, seconds = evaluate(model, splits.test, settings)
    score_table.report(
        title, scores, logdir, settings, trainer.seconds, seconds
    )
    score_table.log(scores, logdir, settings["meta_iters"])
    if strategy.is_chief():
        curves.draw(logdir)


def build_model(network, settings) -> kr.MetaModel:
    """The network and its two optimizers."""
    keras.utils.set_random_seed(common.SEED.value)
    if settings["sgd"]:
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
        network(settings["classes"]),
        settings["algorithm"],
        inner_state=settings["inner_state"],
    )
    kinds = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}
    model.compile(
        optimizer=kinds[settings["outer_optimizer"]](outer),
        inner_optimizer=inner,
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        inner_reduction=settings["inner_reduction"],
        inner_weight_decay=_WEIGHT_DECAY.value,
        # mini-ImageNet's network, which is not compiled otherwise, has to be.
        jit_compile=True if _CONVOLUTION_DTYPE.value else "auto",
        convolution_dtype=_CONVOLUTION_DTYPE.value,
    )
    return model


def protocol(settings, shots, episodes) -> kr.Protocol:
    """How few-shot accuracy is measured at a number of shots."""
    first = "transductive" if _TRANSDUCTIVE.value else "inductive"
    modes = sorted(kr.protocol.MODES, key=lambda mode: mode != first)
    return kr.Protocol(
        ways=settings["classes"],
        shots=shots,
        inner_steps=settings["eval_iters"],
        inner_batch_size=settings["eval_batch"],
        replacement=_REPLACEMENT.value,
        repeat_within_batch=_repeats(settings, "eval_batch", shots),
        modes=tuple(modes),
        num_episodes=episodes,
        seed=common.SEED.value,
    )


def _repeats(settings, batch, shots):
    """Whether a batch holds examples twice, as the original's then does."""
    size = settings[batch] or 0  # `None` is the whole support set.
    return size > settings["classes"] * shots and not _REPLACEMENT.value


def training_spec(settings, examples_per_class) -> kr.EpisodeSpec:
    """The episodes of training.

    Raises:
        UsageError: If there are no such episodes.
    """
    # A tail is a query set, and the step on it the algorithm's own.
    tail, drawn = settings["tail"], settings["train_shots"]
    queries = settings["queries"]
    if queries is None:  # For the log only, and there may be none left.
        queries = min(1, max(0, examples_per_class - drawn))
    own_step = settings["algorithm"] == "foml_tail"
    try:
        return kr.EpisodeSpec(
            ways=settings["classes"],
            shots=drawn - tail,
            queries=queries,
            inner_steps=settings["inner_iters"] - own_step,
            inner_batch_size=settings["inner_batch"],
            replacement=_REPLACEMENT.value,
            repeat_within_batch=_repeats(settings, "inner_batch", drawn - tail),
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def train(model, splits, settings, spec, logdir) -> kr.MetaTrainer:
    """Meta-trains for `meta_iters`, in epochs of `eval_interval`."""
    validation = splits.validation
    trainer = kr.MetaTrainer(
        validation=validation,
        protocol=validation
        and protocol(settings, settings["shots"][0], _VALIDATION_SAMPLES.value),
        checkpoint_dir=logdir,
        resume=common.RESUME.value,
        log_dir=f"{logdir}/meta_steps",
    )
    stream = splits.train.episodes(
        spec, settings["meta_batch"], common.SEED.value
    )
    steps = steps_per_epoch(settings)
    model.fit(
        stream,
        steps_per_epoch=steps,
        epochs=settings["meta_iters"] // steps,
        callbacks=[trainer, common.tensorboard(logdir)],
        verbose=common.verbosity(),
    )
    return trainer


def steps_per_epoch(settings) -> int:
    """Meta-iterations from one line of the log to the next."""
    return min(_EVAL_INTERVAL.value, settings["meta_iters"])


def evaluate(model, test, settings):
    """Scores by shots and mode on the test classes, and the seconds."""
    start, scores = time.perf_counter(), {}
    for shots in settings["shots"]:
        common.say(f"Evaluating, {shots}-shot...")
        scores[shots] = kr.evaluate(
            model, test, protocol(settings, shots, settings["eval_samples"])
        )
    return scores, time.perf_counter() - start
