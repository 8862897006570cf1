"""What a loss can compare: the targets of tasks, and a model's outputs."""

import keras
import numpy as np
import tensorflow as tf

from keras_reptile import shapes
from keras_reptile.episodes import Task
from keras_reptile.model_call import training_argument

# Enough to tell logits from probabilities.
_CALLED_ON = 64
_ROUNDED = 0.01


def check_losses(tasks: Task, model, loss) -> None:
    """Refuses tasks, of NumPy arrays, whose targets the loss cannot take.

    Raises:
        ValueError: As `check_loss` and `check_probabilities` say.
    """
    for examples in (tasks.support, tasks.query):
        if examples.x.shape[1]:
            example = examples.x.shape[2:]
            check_loss(examples.y[0], example, model, loss)
    parts = [part.x for part in (tasks.support, tasks.query)]
    x = [part.reshape(-1, *part.shape[2:]) for part in parts if part.size]
    check_probabilities(np.concatenate(x), model, loss)


def check_loss(targets, example: tuple, model, loss) -> None:
    """Refuses targets that the loss cannot compare with the outputs.

    Args:
        targets: Of one task, an array of shape `(n, ...)`.
        example: The shape of an example.
        model: A built model.
        loss: A `PerExampleLoss`.

    Raises:
        ValueError: With the shapes of both.
    """
    width = shapes.output_shape(model, example)
    if None in width:
        return
    of = getattr(model, "outputs", None)
    precision = of[0].dtype if of else model.compute_dtype
    if precision != "float64":  # Half is cast before it comes to the loss.
        precision = "float32"
    outputs = np.full((len(targets), *width), 0.5, precision)
    try:
        values = loss(tf.constant(targets), tf.constant(outputs))
        problem = f"values of shape {tuple(values.shape)}"
    except Exception as error:  # A user's loss raises anything.
        values, problem = None, f"{type(error).__name__}: {error}"
    one_each = values is not None and values.shape == (len(targets),)
    if not one_each or _broadcasts(targets, outputs, loss):
        raise ValueError(
            "`loss` must compare targets with outputs and give one value per "
            f"example. Received: targets of shape {targets.shape} and dtype "
            f"{targets.dtype}, outputs of shape {outputs.shape}, and from the "
            f"loss {problem.rstrip('.')}. Shape the targets as the outputs, "
            "and give both one dtype, as by `y.astype('float32')`; or, for "
            "integer labels, choose keras.losses.SparseCategoricalCrossentropy,"
            " with from_logits=True if the model does not end in a softmax."
        )


def _broadcasts(targets, outputs, loss):
    """Whether shapes differ where Keras' losses would broadcast silently."""
    allowed = [outputs.shape]
    if outputs.shape[1:] == (1,):
        allowed.append(outputs.shape[:1])
    if outputs.ndim == 1:
        allowed.append((*outputs.shape, 1))
    return loss.is_elementwise and targets.shape not in allowed


def check_probabilities(x, model, loss) -> None:
    """Refuses outputs of any size where the loss expects probabilities.

    It would clip them, so that most have no gradient, and learn nothing.

    Args:
        x: Examples, an array of shape `(n, ...)`.
        model: A built model, which is called on a few of them and left as
            it is.
        loss: A `PerExampleLoss`.

    Raises:
        ValueError: If some are below 0 or above 1, or all of them are 0.
    """
    if not loss.takes_probabilities:
        return
    with tf.init_scope(), keras.StatelessScope():
        outputs = model(x[:_CALLED_ON], **training_argument(model, False))
        outputs = np.asarray(tf.cast(outputs, tf.float32))
    low, high = outputs.min(), outputs.max()
    # A probability may be rounded up, or what is left of 1 down.
    if low < -_ROUNDED or high > 1 + _ROUNDED or low == high == 0:
        gives = "nothing but 0" if low == high == 0 else "logits"
        raise ValueError(
            f"`loss` expects probabilities, and the model gives {gives}. "
            f"Received: outputs from {low:.3g} to {high:.3g}. Pass "
            "from_logits=True to the loss, as an object of keras.losses, or "
            "end the model with a softmax (with a sigmoid, for a binary loss)."
        )
