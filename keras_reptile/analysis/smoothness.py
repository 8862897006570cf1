"""Says where the expansion in the inner rate cannot be expected to hold.

It is a Taylor series: kinks of the activations break it, and in float32
rounding hides what is left of it at small rates.
"""

import weakref

import tensorflow as tf
from absl import logging

from keras_reptile import shapes
from keras_reptile.compiling import layers_of
from keras_reptile.learner import Learner
from keras_reptile.lowering import lowered
from keras_reptile.second_order import check_layers

# TensorFlow's operations that have kinks, or a second derivative with jumps.
_KINKED_OPERATIONS = {
    *("Abs", "ClipByValue", "Elu", "LeakyRelu", "Maximum", "MaxPool"),
    *("MaxPool3D", "Minimum", "Relu", "Relu6", "Selu"),
}
# Those that Keras makes of a choice between two branches, by name.
_KINKED_ACTIVATIONS = {
    *("celu", "hard_shrink", "soft_shrink", "sparse_plus", "sparse_sigmoid"),
    *("sparsemax", "threshold"),
}
_told = weakref.WeakSet()


def check_smooth(learner: Learner, x) -> None:
    """Warns of kinks and of rounding, once for every model.

    Args:
        learner: The model.
        x: Examples of shape `(n, ...)`; their values do not matter.

    Raises:
        ValueError: If a layer has no second derivative.
    """
    if learner.model in _told:
        return
    batch = tf.TensorSpec(x.shape, x.dtype)
    check_layers(learner, batch, "The expansion", "")
    _told.add(learner.model)
    kinked = layers_with_kinks(learner.model, batch)
    if kinked:
        logging.warning(
            "The expansion in the inner rate needs smooth activations, such "
            "as tanh, softplus or gelu. The layers %s have kinks, at which "
            "its error does not fall with the square of the rate.",
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


def layers_with_kinks(model, batch: tf.TensorSpec) -> list[str]:
    """Names of the layers, or else of the operations, that are not smooth.

    Args:
        model: A built model.
        batch: What it is called on.
    """
    argument = shapes.training_argument(model, True)
    trained, others = model.trainable_variables, model.non_trainable_variables

    def call(x):
        values = [tf.convert_to_tensor(v) for v in (*trained, *others)]
        weights, buffers = values[: len(trained)], values[len(trained) :]
        with lowered(model, compiled=False):
            return model.stateless_call(weights, buffers, x, **argument)[0]

    traced = tf.function(call, autograph=False).get_concrete_function(batch)
    operations = [
        op.name
        for op in traced.graph.get_operations()
        if op.type in _KINKED_OPERATIONS
    ]
    by_name = [
        layer.name
        for layer in model._flatten_layers(include_self=False)
        if getattr(getattr(layer, "activation", None), "__name__", "")
        in _KINKED_ACTIVATIONS
    ]
    layers = [
        name for name in layers_of(model, operations) if name not in by_name
    ]
    return by_name + layers or operations
