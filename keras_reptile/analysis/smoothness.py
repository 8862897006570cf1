"""Says where the expansion in the inner rate cannot be expected to hold.

It is a Taylor series: kinks of the activations break it, and in float32
rounding hides what is left of it at small rates.
"""

import weakref

import keras
import tensorflow as tf
from absl import logging

from keras_reptile import shapes
from keras_reptile.layer_scopes import layers_of, numbered
from keras_reptile.learner import Learner
from keras_reptile.lowering import lowered
from keras_reptile.model_call import stateless_call
from keras_reptile.second_order import check_layers

# TensorFlow's operations that have kinks, or a second derivative with jumps.
_KINKED_OPERATIONS = {
    *("Abs", "ClipByValue", "Elu", "LeakyRelu", "Max", "Maximum", "MaxPool"),
    *("MaxPool3D", "Min", "Minimum", "Relu", "Relu6", "Selu"),
}
# Those that Keras makes of a choice between two branches, by name.
_KINKED_ACTIVATIONS = {
    *("celu", "hard_shrink", "soft_shrink", "sparse_plus", "sparse_sigmoid"),
    *("sparsemax", "threshold"),
}
_KINKED_LOSSES = {
    *("hinge", "categorical_hinge", "squared_hinge", "huber"),
    *("mean_absolute_error", "mean_absolute_percentage_error"),
}
_told = weakref.WeakSet()
# By model, for which variables and batches its layers were found to do.
_differentiable = weakref.WeakKeyDictionary()


def check_smooth(learner: Learner, x, y) -> None:
    """Warns of kinks, in model or loss, and of rounding, once for every model.

    Args:
        learner: The model and its loss.
        x: Examples of shape `(n, ...)`; their values do not matter.
        y: Their targets; nor do theirs.

    Raises:
        ValueError: If a layer has no second derivative.
    """
    check_second_derivative(learner, x, "The expansion")
    if learner.model in _told:
        return
    batch = tf.TensorSpec(x.shape, x.dtype)
    kinked = parts_with_kinks(learner.model, batch)
    kinked += _loss_with_kinks(learner, batch, y)
    if kinked:
        logging.warning(
            "The expansion in the inner rate needs smooth activations, such "
            "as tanh, softplus or gelu, and a smooth loss. The losses, layers "
            "or operations %s have kinks, at which its error does not fall "
            "with the square of the rate.",
            ", ".join(kinked),
        )
    dtype = learner.model.trainable_variables[0].dtype
    if dtype != "float64":
        logging.warning(
            "At small inner rates the error of the expansion is below the "
            "rounding of the weights' %s. Build the model in float64 "
            '(keras.config.set_dtype_policy("float64")) to see it.',
            dtype,
        )
    _told.add(learner.model)


def check_second_derivative(learner: Learner, x, who: str) -> None:
    """Refuses layers without one, looked for once for every model.

    Args:
        learner: The model.
        x: Examples of shape `(n, ...)`; their values do not matter.
        who: What needs it, for the message.

    Raises:
        ValueError: That names them.
    """
    batch = tf.TensorSpec(x.shape, x.dtype)
    form = learner.lower, learner.in_bfloat16
    case = tuple(learner.adapts), form, tuple(batch.shape)
    known = _differentiable.setdefault(learner.model, set())
    if case not in known:
        check_layers(learner, batch, who, "")
        known.add(case)


def parts_with_kinks(model, batch: tf.TensorSpec) -> list[str]:
    """Names of the layers that are not smooth, and of operations in none.

    Args:
        model: A built model.
        batch: What it is called on.
    """
    buffers = [tf.convert_to_tensor(v) for v in model.non_trainable_variables]

    def call(x, *weights):
        with lowered(model, compiled=False), numbered(model):
            return stateless_call(model, weights, buffers, x, True)[0]

    weights = [
        tf.TensorSpec(v.shape, v.dtype) for v in model.trainable_variables
    ]
    traced = tf.function(call, autograph=False).get_concrete_function(
        batch, *weights
    )
    names = [
        layer.name
        for layer in model._flatten_layers(include_self=False)
        if _has_kinks(layer)
    ]
    given = traced.graph.inputs[: 1 + len(weights)]
    for operation in _kinked(traced.graph, given):
        names += layers_of(model, [operation]) or [operation]
    return list(dict.fromkeys(names))


def _loss_with_kinks(learner, batch, y):
    """The loss's name in a list, or nothing; one of one's own is traced."""
    loss = learner.loss_function
    function = loss.loss
    if type(function).__module__.startswith("keras."):
        function = getattr(function, "fn", function)
    name = getattr(function, "__name__", type(function).__name__)
    if (getattr(function, "__module__", None) or "").startswith("keras."):
        return [name] * (name in _KINKED_LOSSES)
    shape = shapes.output_shape(learner.model, batch.shape[1:])
    symbolic = getattr(learner.model, "outputs", None)  # Not if subclassed.
    dtype = symbolic[0].dtype if symbolic else learner.model.compute_dtype
    outputs = tf.TensorSpec((batch.shape[0], *shape), dtype)
    traced = tf.function(
        lambda y, outputs: loss(y, outputs), autograph=False
    ).get_concrete_function(tf.TensorSpec(y.shape, y.dtype), outputs)
    return [name] * any(_kinked(traced.graph, traced.graph.inputs[1:2]))


def _has_kinks(layer):
    activation = getattr(layer, "activation", None)
    name = getattr(activation, "__name__", "")
    return name in _KINKED_ACTIVATIONS or isinstance(layer, keras.layers.ReLU)


def _kinked(graph, given):
    """Names of operations with kinks on a gradient's way to given tensors."""
    reached, differentiated = {id(tensor) for tensor in given}, set()
    _go_back(graph.outputs, differentiated)
    for op in graph.get_operations():
        if not any(id(tensor) in reached for tensor in op.inputs):
            continue
        reached |= {id(tensor) for tensor in op.outputs}
        kinked = op.type in _KINKED_OPERATIONS and not _is_guard(op)
        if kinked and any(id(x) in differentiated for x in op.outputs):
            yield op.name
    # Of functions that are called, such as a loop's body.
    for function in getattr(graph, "_functions", {}).values():
        inner = getattr(function, "graph", None)
        if inner is not None:
            yield from _kinked(inner, inner.inputs)


def _go_back(tensors, found):
    """Adds what a gradient of these comes to, of numbers that have one."""
    tensors = list(tensors)
    while tensors:
        tensor = tensors.pop()
        if id(tensor) in found or not tensor.dtype.is_floating:
            continue
        found.add(id(tensor))
        if tensor.op.type != "StopGradient":
            tensors += tensor.op.inputs


def _is_guard(op):
    """Whether it only keeps away from 0 or 1, where data never is."""
    if op.type not in ("Maximum", "Minimum"):
        return False
    for tensor in op.inputs:
        value = tf.get_static_value(tensor)
        if value is not None and value.ndim == 0:
            if op.type == "Maximum":
                return 0 < abs(value) < 1e-3
            return abs(value) > 1e3 or 1 - 1e-3 < value < 1
    return False
