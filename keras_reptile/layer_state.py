"""Layers that change their own state when they are trained.

An inner loop has tensors in place of variables, and takes over what a layer
assigns to the buffers of a task, for that task alone. What it assigns to a
trainable weight is lost, and what it gathers in a buffer is no part of what is
learned.
"""

import keras
import tensorflow as tf
from absl import logging

from keras_reptile import shapes
from keras_reptile.asking_xla import known_to_xla
from keras_reptile.lowering import lowered
from keras_reptile.model_call import training_argument
from keras_reptile.seeds import is_seed


def check_state_of_layers(model: keras.Model, batch=None) -> None:
    """Refuses layers that assign to weights, and warns of those to buffers.

    Batch normalisation is not among them, of which `compiling` warns where its
    moving averages count, nor is dropout, whose seeds are the tasks' own.

    Args:
        model: A built model.
        batch: A `tf.TensorSpec` of what it is called on; `None` is what it was
            built with. Where that says too little, nothing is looked at.

    Raises:
        ValueError: If a layer assigns to its trainable weights in training.
    """
    batch = batch or shapes.batch_built_with(model)
    if batch is None or known_to_xla(model):  # None of which does.
        return
    assigned, others = _assigned_in_training(model, batch)
    if others:
        raise ValueError(
            "What layers keep from call to call must be variables of the "
            f"model. Received: model '{model.name}', which assigns to "
            f"{others} others when it is called in training, as `keras.random` "
            "does without a seed, and a stateful RNN: inside of the loop they "
            "would stay as they are. Give each layer a "
            "`keras.random.SeedGenerator` of its own, or leave that out."
        )
    trainable = {v.path for v in model.trainable_variables}
    weights = [v.path for v in assigned if v.path in trainable]
    if weights:
        raise ValueError(
            "Layers must leave their trainable weights to the optimizers. "
            f"Received: model '{model.name}', of which {', '.join(weights)} "
            "is assigned to when it is called in training, as "
            "SpectralNormalization does. Leave that layer out."
        )
    averages = [
        id(variable)
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.BatchNormalization)
        for variable in layer.non_trainable_variables
    ]
    buffers = [
        v.path for v in assigned if not is_seed(v) and id(v) not in averages
    ]
    if buffers:
        logging.warning(
            "What the layers gather in %s while they are trained is of one "
            "task each, and no part of what is learned.",
            ", ".join(buffers),
        )


def _assigned_in_training(model, batch):
    """Variables that a call in training assigns to, and how many others."""
    assigned, others = [], []

    def call(x):
        values = [(v, tf.convert_to_tensor(v.value)) for v in model.variables]
        scope = keras.StatelessScope(state_mapping=values)
        with scope, lowered(model, compiled=False):
            model(x, **training_argument(model, True))
        assigned.extend(
            variable
            for variable, value in values
            if scope.get_current_value(variable) is not value
        )
        known = {id(variable) for variable, _ in values}
        others.extend(key for key in scope.state_mapping if key not in known)

    try:
        tf.function(call, autograph=False).get_concrete_function(batch)
    except Exception:  # Of the user's own call, as training will say.
        return [], 0
    return assigned, len(others)
