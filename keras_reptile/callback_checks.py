"""What is asked of the callbacks of `fit`, and of MetaTrainer's arguments."""

import keras

from keras_reptile.integers import check_integer


def check_callbacks(x, arguments: dict) -> None:
    """Refuses callbacks by which a run would not be what it is taken for.

    Args:
        x: The episodes.
        arguments: What else was given to `fit`, by name.

    Raises:
        ValueError: That says which, and what to take in its place.
    """
    callbacks = keras.tree.flatten(arguments.get("callbacks") or [])
    trainers = [one for one in callbacks if hasattr(one, "before_fit")]
    if hasattr(x, "starting_at"):
        _refuse_backups(callbacks)
    if any(trainer.checkpoints for trainer in trainers):
        _refuse_swaps(callbacks)
    resume = any(trainer.resume for trainer in trainers)
    if resume and arguments.get("initial_epoch"):
        raise ValueError(
            "With MetaTrainer(resume=True) the epoch follows from the "
            "meta-step of the checkpoint. Received: initial_epoch="
            f"{arguments['initial_epoch']}. Leave it out."
        )


def _refuse_backups(callbacks):
    backup = keras.callbacks.BackupAndRestore
    if any(isinstance(callback, backup) for callback in callbacks):
        raise ValueError(
            "BackupAndRestore restores the weights after the episodes were "
            "chosen, and trains on the first ones again. Received: one among "
            "the callbacks. Use kr.MetaTrainer(checkpoint_dir=..., "
            "resume=True)."
        )


def _refuse_swaps(callbacks):
    swap = keras.callbacks.SwapEMAWeights
    if any(isinstance(one, swap) and one.swap_on_epoch for one in callbacks):
        raise ValueError(
            "SwapEMAWeights(swap_on_epoch=True) has averages in the place of "
            "the weights at the ends of epochs, from which a checkpoint could "
            "not be gone on from. Received: one beside a MetaTrainer with a "
            "`checkpoint_dir`. Use SwapEMAWeights(), which swaps for "
            "evaluations."
        )


def check_resumable(dataset) -> None:
    """Refuses to resume where the stream cannot start in the middle.

    Raises:
        ValueError: If the episodes are not a stream of `kr.data`.
    """
    if not hasattr(dataset, "starting_at"):
        raise ValueError(
            "To resume exactly, the episodes must start at the meta-step of "
            "the checkpoint. Received: a dataset without `starting_at`. Pass "
            "`classes.episodes(...)` itself, not a dataset made from it; tasks "
            "of a regression become one by `kr.data.from_function`. To go on "
            "with other episodes, restore `kr.checkpoints.latest(folder, "
            "model)` by `kr.checkpoints.restore`, and leave `resume` out, with "
            "another `checkpoint_dir`."
        )


def check_intervals(**numbers) -> None:
    """Refuses numbers of meta-steps, or of files, that are none.

    Args:
        **numbers: By the name of the argument; `None` is let through.

    Raises:
        ValueError: If one is no integer of at least 1.
    """
    for name, value in numbers.items():
        if value is not None:
            check_integer(name, value, 1)


def check_used(
    eval_interval, checkpoint_interval, measures: bool, writes: bool, logs: bool
) -> None:
    """Refuses intervals of what a MetaTrainer is not asked to do.

    Args:
        eval_interval: As given to it.
        checkpoint_interval: As given to it.
        measures: Whether it has anything to evaluate.
        writes: Whether it has a folder for checkpoints.
        logs: Whether it has one for scalars.

    Raises:
        ValueError: That says what belongs to the interval.
    """
    if checkpoint_interval is not None and not writes:
        raise ValueError(
            "`checkpoint_interval` belongs to a `checkpoint_dir`. Received: "
            f"checkpoint_interval={checkpoint_interval} and no folder, so "
            "that nothing would be written."
        )
    if eval_interval is not None and not (measures or writes or logs):
        raise ValueError(
            "`eval_interval` belongs to `validation` and `protocol`, to "
            "`gradient_agreement`, or to a folder of checkpoints or scalars. "
            f"Received: eval_interval={eval_interval} and none of them, so "
            "that nothing would be done."
        )


def check_begun(model, begun: bool) -> None:
    """Refuses a MetaTrainer that `MetaModel.fit` knows nothing of.

    Args:
        model: That is trained.
        begun: Whether its `fit` has called `before_fit`.

    Raises:
        ValueError: That says where it belongs.
    """
    if not begun:
        raise ValueError(
            "A MetaTrainer belongs in the list of callbacks of a "
            f"MetaModel's `fit`. Received: `fit` of {type(model).__name__}, or "
            "a CallbackList around it."
        )
