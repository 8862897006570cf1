"""`fit` that goes on where a model stands.

Keras counts in epochs, and an epoch that was cut off has to be finished
before the next begins, with the episodes it would have seen.
"""

import contextlib

import keras
from absl import logging

from keras_reptile import epoch_checks


@contextlib.contextmanager
def watched(model, x, callbacks):
    """Lets a `MetaTrainer` restore before `fit`, and clean up after it.

    Args:
        model: A compiled `MetaModel`.
        x: The episodes.
        callbacks: As given to `fit`.

    Yields:
        How many meta-steps were done since this `fit` began, `None` if none
        of the callbacks resumed it.
    """
    watching = _watching(callbacks)
    try:
        done = [callback.before_fit(model, x) for callback in watching]
        # Of several the last has restored what is there now.
        yield next((d for d in reversed(done) if d is not None), None)
    finally:
        with contextlib.ExitStack() as stack:  # In reverse, and all of them.
            for callback in watching:
                stack.callback(callback.after_fit)


def _watching(callbacks):
    return [
        callback
        for callback in keras.tree.flatten(callbacks or [])
        if hasattr(callback, "before_fit")
    ]


@contextlib.contextmanager
def final_values(model, callbacks, goes_on: bool):
    """Keeps averages of the weights out of those that are trained on.

    At the end of `fit` Keras has an optimizer put averages in place of the
    weights, if it has any. A run that goes on goes on from the weights, and
    so does one that is resumed later.

    Args:
        model: A compiled `MetaModel`.
        callbacks: As given to `fit`.
        goes_on: Whether the run does, after this `fit`, if nothing stops it.
    """
    optimizer = model.optimizer
    watching, finalize = (
        _watching(callbacks),
        optimizer.finalize_variable_values,
    )

    def at_the_end(variables):
        for callback in watching:
            callback.before_final_values()
        preempted = any(callback.preempted for callback in watching)
        if not preempted and (model.stop_training or not goes_on):
            finalize(variables)

    optimizer.finalize_variable_values = at_the_end
    try:
        yield
    finally:
        del optimizer.finalize_variable_values


def stream_from_here(model, x):
    """The episodes from the model's meta-step on."""
    if hasattr(x, "starting_at") and model.meta_step:
        return x.starting_at(model.meta_step)
    return x


def fit_from_here(model, keras_fit, x, done, arguments):
    """Finishes the epoch that was cut off, then goes on to the last.

    Args:
        model: A compiled `MetaModel`, its checkpoint restored.
        keras_fit: `keras.Model.fit` of this model.
        x: A stream of `kr.data`.
        done: How many meta-steps were done since this `fit` began.
        arguments: What else was given to `fit`.

    Returns:
        The `History` of what was left to do.

    Raises:
        ValueError: If the rest of an epoch is no whole number of calls.
    """
    steps, epochs = arguments.get("steps_per_epoch"), arguments.get("epochs", 1)
    epoch, offset = divmod(done, steps)
    callbacks = keras.tree.flatten(arguments.get("callbacks") or [])
    _warn_of_memory(callbacks)
    if any(getattr(callback, "preempted", False) for callback in callbacks):
        epoch, offset = epochs, 0  # Before its first step.
    elif epoch >= epochs:
        logging.warning(
            "All %d epochs of this `fit` were finished before, and the run "
            "stands at meta-step %d: nothing is left to train. To go on, give "
            "more `epochs`, which are counted from where the run began.",
            epochs,
            model.meta_step,
        )
    epoch_checks.check_epochs(x, steps - offset, model.steps_per_execution)
    history = None
    if offset and epoch < epochs:
        rest = {
            **arguments,
            "steps_per_epoch": steps - offset,
            "initial_epoch": epoch,
            "epochs": epoch + 1,
        }
        goes_on = epoch + 1 < epochs
        history = keras_fit(stream_from_here(model, x), goes_on, **rest)
        epoch += 1
        if epoch == epochs or model.stop_training:
            return history
    arguments = {**arguments, "initial_epoch": epoch, "epochs": epochs}
    # Before the second, which may have the same object: one of the user's.
    first = history and list(history.epoch)
    second = keras_fit(stream_from_here(model, x), **arguments)
    return _joined(history, first, second)


def _warn_of_memory(callbacks):
    remembering = (
        keras.callbacks.EarlyStopping,
        keras.callbacks.LearningRateScheduler,
        keras.callbacks.ReduceLROnPlateau,
    )
    names = [
        type(c).__name__
        for c in callbacks
        if isinstance(c, remembering) or getattr(c, "save_best_only", False)
    ]
    if names:
        logging.warning(
            "The callbacks %s begin anew, as no checkpoint holds what they "
            "remember: the run may not end as if it had not been interrupted. "
            "A schedule of the outer optimizer, as of kr.schedules, does; "
            "ModelCheckpoint replaces its best, unless it is told what that "
            "was by `initial_value_threshold`.",
            ", ".join(names),
        )


def _joined(first, its_epochs, second):
    """One `History` out of two; the first may be absent."""
    if first is None:
        return second
    second.epoch = its_epochs + second.epoch
    if second is not first:
        for name, values in first.history.items():
            second.history[name] = values + second.history.get(name, [])
    return second
