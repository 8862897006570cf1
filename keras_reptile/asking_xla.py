"""Whether XLA can compile a model, and which layers are in the way."""

import re

import keras
import tensorflow as tf

from keras_reptile import lowering, shapes
from keras_reptile.layer_scopes import layers_of, numbered
from keras_reptile.model_call import stateless_call

# By name, of Keras' own. Others are asked for, up to a second before the first
# meta-step.
_KNOWN_TO_XLA = {
    *("Functional", "Sequential", "InputLayer", "Dense", "Conv2D", "Reshape"),
    *("BatchNormalization", "Activation", "ReLU", "Dropout", "Flatten"),
}


def refused_by_xla(model: keras.Model, batch=None) -> str | None:
    """What of a model XLA has no kernel for.

    Asks XLA for its program of the gradient and the outputs of one batch,
    before any of it is compiled: some tenths of a second.

    Args:
        model: A built model.
        batch: A `tf.TensorSpec` of what it is called on; `None` is what it was
            built with.

    Returns:
        Names of layers, or XLA's own words where they name none; `None` if
        all can be compiled, or the model does not say what shape it takes.
    """
    batch = batch or shapes.batch_built_with(model)
    if batch is None:
        return None

    variables = model.trainable_variables + model.non_trainable_variables
    trainable = len(model.trainable_variables)

    def gradient(x, *values):
        weights, buffers = values[:trainable], values[trainable:]
        with (
            tf.GradientTape() as tape,
            lowering.lowered(model),
            numbered(model),
        ):
            tape.watch(weights)
            outputs, *_ = stateless_call(model, weights, buffers, x, True)
            predicted, *_ = stateless_call(model, weights, buffers, x, False)
        return tape.gradient(outputs, weights), predicted

    function = tf.function(gradient, jit_compile=True, autograph=False)
    specs = [tf.TensorSpec(v.shape, v.dtype) for v in variables]
    return asked_of_xla(model, function, batch, *specs)


def asked_of_xla(model: keras.Model, function, *arguments) -> str | None:
    """What XLA refuses of a function; as `refused_by_xla` returns it.

    Args:
        model: Whose layers are named, by the scopes of `numbered`.
        function: A `tf.function` with `jit_compile`.
        *arguments: Of the function, or their `tf.TensorSpec`s.
    """
    try:
        function.experimental_get_compiler_ir(*arguments)(stage="hlo")
    except Exception as error:  # Of a kind that depends on the operation.
        named = layers_of(model, re.findall(r"{{node ([^}]*)}}", str(error)))
        words = str(error).strip() or type(error).__name__
        return ", ".join(named) or words.splitlines()[0]
    return None


def known_to_xla(model: keras.Model) -> bool:
    """Whether a model has nothing but layers that XLA always compiles."""
    parts = model._flatten_layers()
    # What is no layer but a function, as of `keras.ops`.
    others = [
        operation
        for part in parts
        for operation in getattr(part, "operations", ())
        if not isinstance(operation, keras.layers.Layer)
    ]
    activations = [getattr(part, "activation", None) for part in parts]
    of_keras = [*map(type, parts), *filter(None, activations)]
    return (
        not others
        and not any("call" in vars(part) for part in parts)
        and {type(part).__name__ for part in parts} <= _KNOWN_TO_XLA
        and all(part.__module__.startswith("keras.") for part in of_keras)
    )
