"""Whether a model's Embedding layers know the tokens they are given."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from keras_reptile import own_calls
from keras_reptile.model_call import stateless_call


def check_tokens(x, model, name: str = "x") -> None:
    """Refuses tokens beyond an Embedding's table.

    XLA would take another row of it without a word. The model is called on
    the examples, as it may make tokens of them in any way.

    Args:
        x: Examples, an array of shape `(n, ...)`.
        model: A built model.
        name: Of the examples, for the message.

    Raises:
        ValueError: That names the layer and the range.
    """
    tables = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Embedding)
    ]
    if not tables or not x.size:
        return
    beyond = []

    def replacement(layer):
        def call(inputs):
            tokens, last = np.asarray(inputs), layer.input_dim - 1
            if tokens.min() < 0 or tokens.max() > last:
                beyond.append((layer, tokens))
            known = tf.clip_by_value(tf.cast(inputs, tf.int32), 0, last)
            return type(layer).call(layer, known)

        return call

    values = (
        [tf.convert_to_tensor(v) for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
        )
    )
    with contextlib.ExitStack() as stack:
        for layer in tables:
            stack.enter_context(own_calls.replaced(layer, replacement(layer)))
        try:
            stateless_call(model, *values, tf.constant(x), False)
        except Exception:  # Of the user's own call, as training will say.
            return
    for layer, tokens in beyond:
        raise ValueError(
            f"`{name}` must be of tokens from 0 to {layer.input_dim - 1}, "
            f"which the layer {layer.name} knows. Received: {tokens.min()} to "
            f"{tokens.max()}. Give it a larger `input_dim`, or map the others "
            "to tokens that it knows."
        )
