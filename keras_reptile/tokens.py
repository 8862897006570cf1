"""Whether a model's Embedding layers know the tokens they are given."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from keras_reptile import own_calls
from keras_reptile.model_call import stateless_call

_AT_ONCE = 32


def check_tokens(x, model, name: str = "x") -> None:
    """Refuses tokens beyond an Embedding's table.

    XLA would take another row of it without a word. The model is called on
    the examples, as it may make tokens of them in any way; on some at a time,
    as there may be more of them than in any inner batch.

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
        # One's own may map its tokens before it looks them up.
        if getattr(type(layer), "call", None) is keras.layers.Embedding.call
        and own_calls.as_its_class(layer)
    ]
    if not tables or not x.size:
        return
    given = {}

    def replacement(layer):
        def call(inputs):
            tokens, last = np.asarray(inputs), layer.input_dim - 1
            given.setdefault(layer, []).append(tokens)
            known = np.clip(tokens, 0, last).astype("int32")
            return type(layer).call(layer, tf.constant(known))

        return call

    values = [
        [tf.convert_to_tensor(v) for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
        )
    ]
    with contextlib.ExitStack() as stack:
        for layer in tables:
            stack.enter_context(own_calls.replaced(layer, replacement(layer)))
        for part in np.array_split(x, -(-len(x) // _AT_ONCE)):
            try:
                stateless_call(model, *values, tf.constant(part), False)
            except Exception:  # Of the user's own call, as training will say.
                break
    for layer, parts in given.items():
        least = int(min(tokens.min() for tokens in parts))
        most = int(max(tokens.max() for tokens in parts))
        if least >= 0 and most < layer.input_dim:
            continue
        raise ValueError(
            f"`{name}` must be of tokens from 0 to {layer.input_dim - 1}, "
            f"which the layer {layer.name} knows. Received: {least} to {most}. "
            "Give it a larger `input_dim`, or map the others to tokens that it "
            "knows."
        )
