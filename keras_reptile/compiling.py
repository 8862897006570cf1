"""What `MetaModel.compile` decides and refuses."""

import keras
from absl import logging

from keras_reptile import bfloat16_products, lowering
from keras_reptile.asking_xla import known_to_xla, refused_by_xla
from keras_reptile.descriptions import unwrapped
from keras_reptile.second_order import refused_in_the_loop
from keras_reptile.stateless import without_decay


def check_kinds(inner_optimizer, loss, metrics) -> None:
    """Refuses arguments of `compile` in Keras' order, or by output.

    Raises:
        ValueError: That says which one it is.
    """
    if isinstance(inner_optimizer, keras.losses.Loss):
        raise ValueError(
            "The second argument of a MetaModel's `compile` is the inner "
            "optimizer. Received: a loss. Name the arguments: "
            "compile(optimizer=..., inner_optimizer=..., loss=...)."
        )
    for name, value in (("loss", loss), ("metrics", metrics)):
        if isinstance(value, dict) and "class_name" not in value:
            raise ValueError(
                f"The model has one output, and one loss. Received: `{name}` "
                "as a dict by outputs. Give what is in it."
            )


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


def warn_of_default_step(algorithm) -> None:
    """Says so where an outer `SGD(1.0)` that nobody chose is too much.

    Args:
        algorithm: One of ours is known to give weight changes, or gradients.
    """
    function = unwrapped(algorithm)
    ours = getattr(function, "__module__", "").startswith("keras_reptile.")
    if ours and not getattr(function, "of_weight_changes", False):
        logging.warning(
            "The outer optimizer is SGD(1.0), and '%s' gives gradients, for "
            "which a step of 1 is large. `compile(optimizer=...)` with another "
            "one, such as Adam(1e-3).",
            function.__name__,
        )


def check_outer_decay(optimizer, algorithm, learner) -> None:
    """Refuses an outer weight decay of what nothing else moves.

    Args:
        optimizer: The outer optimizer.
        algorithm: Looked at if it is of the changes of the weights.
        learner: The model, and what of it the inner loop adapts.

    Raises:
        ValueError: That names the variables.
    """
    of_changes = getattr(unwrapped(algorithm), "of_weight_changes", False)
    if not of_changes or not optimizer.weight_decay:
        return
    variables = learner.model.trainable_variables
    spared = without_decay(optimizer, variables)
    decayed = [
        variable
        for i, (variable, adapts) in enumerate(zip(variables, learner.adapts))
        if not adapts and i not in spared
    ]
    if decayed:
        raise ValueError(
            "What the inner loop does not adapt is not learned under this "
            "algorithm, and the outer weight decay would only shrink it. "
            f"Received: weight_decay={optimizer.weight_decay} and "
            f"{', '.join(v.path for v in decayed)} not adapted. Call "
            "`optimizer.exclude_from_weight_decay(var_list=[...])` with "
            "these variables. A model of a file loads by `compile=False`."
        )


def whether_to_jit(
    jit_compile, model: keras.Model, eager: bool = False
) -> bool:
    """Whether XLA compiles the inner loop; says why, where it does not.

    Args:
        jit_compile: True, False or `"auto"`.
        model: The inner model.
        eager: Whether nothing is compiled anyway.

    Raises:
        ValueError: If `jit_compile` is something else, or true where XLA
            cannot compile the model.
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
    if not jit_compile or (eager and jit_compile is True):
        return jit_compile
    slow = lowering.slow_when_compiled(model)
    if slow and jit_compile == "auto":
        logging.info(
            "The inner loop is not compiled by XLA, because of the layers %s.",
            ", ".join(slow),
        )
        return False
    refusal = None if known_to_xla(model) else refused_by_xla(model)
    remedy = (
        " Put layers that only change the input before the model, into the "
        "data."
    )
    return not refusal or goes_without(jit_compile, refusal, remedy)


def goes_without(jit_compile, refusal: str, remedy: str = "") -> bool:
    """Says that XLA is left out, if that was left open; returns `False`.

    Args:
        jit_compile: True or `"auto"`.
        refusal: What XLA cannot compile.
        remedy: What could be done.

    Raises:
        ValueError: If XLA was asked for.
    """
    if jit_compile != "auto":
        raise ValueError(
            f"XLA cannot compile {refusal}. Received: jit_compile=True. Leave "
            "it out, by which the loop is run without XLA."
        )
    logging.warning(
        "The inner loop is not compiled by XLA, which cannot compile %s. "
        "Training works, and is slower.%s",
        refusal,
        remedy,
    )
    return False


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


def check_compiles(algorithm, learner, batch) -> None:
    """Refuses a model that XLA was to compile, and cannot.

    Args:
        algorithm: Whether it is of second order matters.
        learner: With a built model.
        batch: A `tf.TensorSpec` of what it is called on.

    Raises:
        ValueError: That names the layers.
    """
    model = learner.model
    refusal = None if known_to_xla(model) else refused_by_xla(model, batch)
    if not refusal:
        refusal = refused_in_the_loop(algorithm, learner, batch)
    if refusal:
        raise ValueError(
            f"XLA cannot compile {refusal} of model '{model.name}', which "
            "`compile` could not know, as the model does not say what shape it "
            f"takes. Received: examples of shape {tuple(batch.shape[1:])}. "
            "Call `compile` with jit_compile=False."
        )
