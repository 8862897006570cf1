"""What `fit` says in the log, before it runs: what may not be meant."""

import keras
import numpy as np
import tensorflow as tf
from absl import logging

from keras_reptile import held_out, settings, shapes
from keras_reptile.stateless import schedule_of

# Of a `Rescaling` that makes nearly nothing of what is between 0 and 1.
_SMALL_SCALE = 0.1
# What images of 8 bits reach at least, unless they are nearly black.
_BRIGHT = 64
# Layers that keep the units of images, or weight them.
_UNSCALED = (
    keras.layers.InputLayer,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.ZeroPadding2D,
    keras.layers.Conv2D,
    keras.layers.Dense,
)


def warn_of_arguments(x, arguments: dict, meta_step: int) -> None:
    """Says what of the arguments of `fit` does not do what it looks like.

    Args:
        x: The episodes.
        arguments: What else was given to `fit`, by name.
        meta_step: Where the model stands.
    """
    callbacks = keras.tree.flatten(arguments.get("callbacks") or [])
    _warn_of_order(callbacks)
    _warn_of_intervals(callbacks, _steps(arguments), meta_step)
    _warn_of_resumption(x, callbacks)
    both = arguments.get("validation_data") is not None
    if both and any(map(_measures, callbacks)):
        logging.warning(
            "`val_accuracy` is that of the MetaTrainer's classes, and "
            "`val_loss` and the others are of `validation_data`."
        )


def _warn_of_intervals(callbacks, steps, meta_step):
    """Says where a MetaTrainer would come to no evaluation."""
    for callback in callbacks:
        interval = getattr(callback, "measures", False) and (
            callback.eval_interval
        )
        if not interval or not 0 < steps < interval:
            continue
        if (meta_step + steps) // interval == meta_step // interval:
            logging.warning(
                "MetaTrainer(eval_interval=%d) is longer than this `fit` of "
                "%d meta-steps, in which nothing is evaluated.",
                interval,
                steps,
            )


def warn_of_width(ways: int, model, example: tuple) -> None:
    """Says so where outputs are not as wide as there are classes.

    A loss of one's own may mean it so; targets of classes seldom do.

    Args:
        ways: Classes per episode.
        model: A built model.
        example: Shape of an example.
    """
    width = shapes.output_shape(model, example)[-1:]
    # One value tells two classes apart, as under binary crossentropy.
    if width != (ways,) and not (ways == 2 and width in ((), (1,))):
        logging.warning(
            "The model's output is not as wide as the episodes have classes "
            "(%d); with labels for targets the loss would be wrong.",
            ways,
        )


def warn_of_scaling(x: np.ndarray, model) -> None:
    """Says so where a model scales down what is between 0 and 1 already.

    Args:
        x: Examples as episodes hold them.
        model: A built model.
    """
    if x.min() < 0 or x.max() > 1:
        _warn_of_bytes(x, model)
        return
    for layer in _in_order(model):
        if isinstance(layer, keras.layers.Rescaling):
            scale = np.abs(np.asarray(layer.scale, "float32")).max()
            if scale < _SMALL_SCALE:
                logging.warning(
                    "The examples are between 0 and 1, as images of uint8 are "
                    "in episodes, and layer '%s' scales them by %.3g besides. "
                    "Leave it out, or have classes of `x.astype('float32')`, "
                    "which keeps 0 to 255.",
                    layer.name,
                    scale,
                )
        elif layer.weights:
            return  # What comes after it is of other values.


def _warn_of_bytes(x, model):
    is_image = x.ndim == 5 and x.max() > _BRIGHT and 0 <= x.min()
    if not is_image or x.max() > 255 or (x != np.round(x)).any():
        return
    if not shapes.takes_integers(model) and _takes_as_they_are(model):
        logging.warning(
            "The examples are whole numbers from %.0f to %.0f, as of images, "
            "and reach the model as they are. Divide them by 255, or have "
            "classes of uint8, which are.",
            x.min(),
            x.max(),
        )


def _takes_as_they_are(model):
    """Whether weights come first, of a layer that is known, unscaled."""
    # Which has operations, such as a division, among the layers.
    for layer in getattr(model, "operations", None) or _in_order(model):
        if not isinstance(layer, _UNSCALED):
            return False
        if layer.weights:
            return True
    return False


def _in_order(model):
    """The layers of a model, and of those inside of it, first to last."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _in_order(layer)
        else:
            yield layer


def _warn_of_order(callbacks):
    """Says which callbacks do not see what a MetaTrainer measures.

    Keras hands the logs on from one to the next, in the order given.
    """
    measuring = [i for i, one in enumerate(callbacks) if _measures(one)]
    for callback in callbacks[: max(measuring, default=0)]:
        monitor = getattr(callback, "monitor", None)
        waits = isinstance(monitor, str) and monitor.startswith("val_accuracy")
        if waits or isinstance(callback, keras.callbacks.TensorBoard):
            logging.warning(
                "The callback %s comes before the MetaTrainer, and does not "
                "see the accuracies that this puts into the logs. Put the "
                "MetaTrainer before it.",
                type(callback).__name__,
            )


def _warn_of_resumption(x, callbacks):
    """Says so where checkpoints are written that no `fit` goes on from."""
    writes = any(
        getattr(one, "checkpoints", False) is True for one in callbacks
    )
    if writes and not hasattr(x, "starting_at"):
        logging.warning(
            "The episodes cannot start in the middle, so that this run cannot "
            "be resumed exactly. `classes.episodes(...)` itself can, and so "
            "can those of `kr.data.from_function`."
        )


def _measures(callback):
    return hasattr(callback, "before_fit") and callback.measures


def warn_of_zero_rate(arguments: dict, optimizer, meta_step: int) -> None:
    """Says so where the outer schedule is at 0 before `fit` ends.

    Args:
        arguments: What was given to `fit` besides the episodes, by name.
        optimizer: The outer optimizer.
        meta_step: Where the model stands.
    """
    schedule, steps = schedule_of(optimizer), _steps(arguments)
    if schedule is None or steps < 1:
        return
    first, last, after = (
        float(schedule(tf.constant(meta_step + step, tf.int64)))
        for step in (0, steps - 1, steps)
    )
    if last == after == 0.0:  # And not where it only begins to rise.
        part = "its end" if first else "its beginning and at its end"
        logging.warning(
            "The outer optimizer's schedule is at 0 at %s (this `fit` takes "
            "meta-steps %d to %d), where nothing is learned. Train for fewer "
            "meta-steps, or `compile` with a longer schedule.",
            part,
            meta_step,
            meta_step + steps - 1,
        )


def warn_of_same_tasks(x, validation_data) -> None:
    """Says so where a stream is validated on that is trained on.

    Args:
        x: The episodes.
        validation_data: As given to `fit`.
    """
    held_out.warn_of_training_classes(
        getattr(x, "classes", None),
        getattr(validation_data, "classes", None),
        "`validation_data`",
    )
    ours, theirs = map(settings.of_stream, (x, validation_data))
    for of_stream in (ours, theirs):
        for name in ("start", "meta_batch_size", "episodes"):
            of_stream.pop(name, None)
    if ours and ours == theirs and settings.CHECKSUM not in ours:
        logging.warning(
            "`validation_data` is of the tasks that are trained on. Give it "
            "another `seed`."
        )


def warn_of_failed(logs: dict) -> None:
    """Says so where inner loops failed, and are in no other figure.

    Args:
        logs: Of an evaluation, by name.
    """
    if failed := logs.get("inner/nonfinite_tasks", 0):
        logging.warning(
            "The inner loops of %d tasks of an evaluation ended in NaN or "
            "infinity; loss and metrics are of the others. Lower the learning "
            "rate of the inner optimizer, or the `inner_steps` of EpisodeSpec.",
            failed,
        )


def _steps(arguments):
    """Meta-steps of a `fit`; 0 where Keras is not told."""
    epochs = arguments.get("epochs", 1) - arguments.get("initial_epoch", 0)
    return (arguments.get("steps_per_epoch") or 0) * epochs
