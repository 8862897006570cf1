"""What `MetaModel.compile` decides and refuses."""

import re

import keras
import tensorflow as tf
from absl import logging

from keras_reptile import bfloat16_products, lowering, shapes
from keras_reptile.model_call import stateless_call

# By name, of Keras' own. Others are asked for, up to a second before the first
# meta-step.
_KNOWN_TO_XLA = {
    *("Functional", "Sequential", "InputLayer", "Dense", "Conv2D", "Reshape"),
    *("BatchNormalization", "Activation", "ReLU", "Dropout", "Flatten"),
}


def check_outer_optimizer(optimizer) -> None:
    """Refuses outer optimizers that a meta-step cannot serve.

    Raises:
        ValueError: If it does not step at every meta-step.
    """
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # Its scale grows until a gradient overflows, which in float32 none
        # does before the scale itself has.
        raise ValueError(
            "A meta-gradient is of the weights' own precision and needs no "
            "scale. Received: a LossScaleOptimizer. Give the optimizer that "
            "it wraps."
        )
    if optimizer.gradient_accumulation_steps:
        raise ValueError(
            "The outer optimizer must take a step at every meta-step. "
            "Received: one with gradient_accumulation_steps. Raise "
            "`meta_batch_size` instead, which averages over more tasks."
        )


def whether_to_jit(jit_compile, model: keras.Model) -> bool:
    """Whether XLA compiles the inner loop; says why, where it does not.

    Args:
        jit_compile: True, False or `"auto"`.
        model: The inner model.

    Raises:
        ValueError: If `jit_compile` is something else.
    """
    if not (isinstance(jit_compile, bool) or jit_compile == "auto"):
        raise ValueError(
            '`jit_compile` must be True, False or "auto". Received: '
            f"{jit_compile!r}."
        )
    on_averages = lowering.left_on_moving_averages(model)
    if on_averages:
        logging.warning(
            "The batch normalisation layers %s normalise queries with their "
            "moving averages, which meta-training does not update.",
            ", ".join(on_averages),
        )
    if any(
        layer.compute_dtype == "float16" for layer in model._flatten_layers()
    ):
        logging.warning(
            "Gradients of float16 layers that are smaller than 6e-8 become 0: "
            "the inner loss is not scaled up against that, as in Keras' `fit`. "
            "Use mixed_bfloat16."
        )
    if jit_compile != "auto":
        return jit_compile
    slow = lowering.slow_when_compiled(model)
    if slow:
        logging.info(
            "The inner loop is not compiled by XLA, because of the layers %s.",
            ", ".join(slow),
        )
        return False
    refusal = None if known_to_xla(model) else refused_by_xla(model)
    if refusal:
        logging.warning(
            "The inner loop is not compiled by XLA, which cannot compile %s. "
            "Training works, and is slower. Put layers that only change the "
            "input before the model, into the data.",
            refusal,
        )
    return not refusal


def check_convolution_dtype(dtype, model: keras.Model, lower: bool) -> None:
    """Refuses products of bfloat16 where there can be none.

    Args:
        dtype: `None` or `"bfloat16"`.
        model: The inner model.
        lower: Whether convolutions take their compiled form.

    Raises:
        ValueError: That says what is in the way.
    """
    if dtype is None:
        return
    # TensorFlow's own type is equal to its name, and is no JSON.
    if not isinstance(dtype, str) or dtype != "bfloat16":
        raise ValueError(
            '`convolution_dtype` must be "bfloat16", or None for the '
            f"model's own precision. Received: {dtype!r}."
        )
    wide = lowering.wide_convolutions(model)
    others = [x.name for x in wide if x.compute_dtype != "float32"]
    for refused, need, received in (
        (
            not lower,
            "an inner loop that XLA compiles: jit_compile=True and "
            "run_eagerly=False",
            "one that is not compiled",
        ),
        (
            not wide,
            "a model with a keras.layers.Conv2D that is lowered and has at "
            "least as many inputs per output as filters",
            f"model '{model.name}' without one",
        ),
        (others, "layers of float32", f"layers of other types: {others}"),
    ):
        if refused:
            raise ValueError(
                f'`convolution_dtype="bfloat16"` needs {need}. Received: '
                f"{received}. Change that, or leave `convolution_dtype` out."
            )
    on_cpu = not lowering.has_accelerator()
    if on_cpu and bfloat16_products.processor_has_them() is False:
        logging.warning(
            "This processor has no instructions for bfloat16 (AVX512-BF16 or "
            'AMX): `convolution_dtype="bfloat16"` is slower than float32 here.'
        )


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
        with tf.GradientTape() as tape, lowering.lowered(model):
            tape.watch(weights)
            outputs, *_ = stateless_call(model, weights, buffers, x, True)
            predicted, *_ = stateless_call(model, weights, buffers, x, False)
        return tape.gradient(outputs, weights), predicted

    function = tf.function(gradient, jit_compile=True, autograph=False)
    specs = [tf.TensorSpec(v.shape, v.dtype) for v in variables]
    try:
        function.experimental_get_compiler_ir(batch, *specs)(stage="hlo")
    except Exception as error:  # Of a kind that depends on the operation.
        named = _layers_named(model, str(error))
        words = str(error).strip() or type(error).__name__
        return ", ".join(named) or words.splitlines()[0]
    return None


def check_compiles(model: keras.Model, batch) -> None:
    """Refuses a model that XLA was to compile, and cannot.

    Args:
        model: A built model.
        batch: A `tf.TensorSpec` of what it is called on.

    Raises:
        ValueError: That names the layers.
    """
    refusal = None if known_to_xla(model) else refused_by_xla(model, batch)
    if refusal:
        raise ValueError(
            f"XLA cannot compile {refusal} of model '{model.name}', which "
            "`compile` could not know, as the model does not say what shape it "
            f"takes. Received: examples of shape {tuple(batch.shape[1:])}. "
            "Call `compile` with jit_compile=False."
        )


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


def _layers_named(model, message):
    """Names of the layers in whose scopes TensorFlow's message finds fault."""
    return layers_of(model, re.findall(r"{{node ([^}]*)}}", message))


def layers_of(model: keras.Model, operations) -> list[str]:
    """Names of the layers in whose scopes operations are.

    Args:
        model: The model they come from.
        operations: Their names in a graph.
    """
    scopes = {scope for name in operations for scope in name.split("/")[:-1]}
    return [
        layer.name
        for layer in model._flatten_layers(include_self=False)
        # A scope met for the second time has a number behind its name.
        if any(
            re.fullmatch(re.escape(layer.name) + r"(_\d+)?", scope)
            for scope in scopes
        )
    ]
