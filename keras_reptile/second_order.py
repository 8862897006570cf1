"""Refuses what MAML cannot differentiate a second time.

An operation without a second derivative would end in TensorFlow's words deep
inside of a graph; an optimizer whose step does not depend smoothly on the
gradient would make first-order MAML of it without a word.
"""

import keras
import tensorflow as tf

from keras_reptile import shapes
from keras_reptile.compiling import layers_of
from keras_reptile.inner_step import dense
from keras_reptile.learner import Learner
from keras_reptile.lowering import lowered
from keras_reptile.model_call import stateless_call
from keras_reptile.stateless import stateless


def check_second_order(algorithm, learner: Learner, batch=None) -> None:
    """Refuses layers and inner optimizers without a second derivative.

    Args:
        algorithm: Checked for if its `second_order` is true.
        learner: The model and the inner optimizer.
        batch: A `tf.TensorSpec` of what it is called on; `None` is what it was
            built with. Where that says too little, layers are not looked at.

    Raises:
        ValueError: That names the layers, or the optimizer.
    """
    if getattr(algorithm, "second_order", False):
        name = getattr(algorithm, "__name__", type(algorithm).__name__)
        who, remedy = f"The algorithm `{name}`", ""
        if name == "maml":
            who, remedy = "MAML", ', or use algorithm="fomaml"'
        _check_optimizer(learner, who, remedy)
        batch = batch or shapes.batch_built_with(learner.model)
        if batch is not None:  # Else only the data can tell, in `fit`.
            check_layers(learner, batch, who, remedy)


def _check_optimizer(learner, who, remedy):
    # At several scales, as an optimizer may clip what is large.
    if not any(_has_slope(learner.optimizer, 10.0**-i) for i in range(0, 9, 2)):
        raise ValueError(
            f"{who} differentiates the inner optimizer's steps, and those of "
            f"{type(learner.optimizer).__name__} have a derivative of 0 in "
            "the gradient: it would be of first order. Use another inner "
            f"optimizer, such as SGD or Adam{remedy}."
        )


def _has_slope(optimizer, scale):
    """Whether two steps depend on their gradient, of about such a size."""
    weights = [tf.constant([[1.0, -2.0], [3.0, 0.5]])]
    variable = keras.Variable(weights[0], dtype="float32")
    optimizer = stateless(optimizer, [variable])
    slots = [tf.convert_to_tensor(v.value) for v in optimizer.variables]
    gradient = scale * tf.constant([[0.3, -0.1], [0.7, 0.2]])
    with tf.GradientTape() as tape:
        tape.watch(gradient)
        for factor in (1.0, 2.0):  # The first step of Adam forgets its scale.
            weights, slots = optimizer.stateless_apply(
                slots, [factor * gradient], weights
            )
    slope = tape.gradient(weights[0], gradient)
    if slope is None:
        return False
    return bool(tf.reduce_any(tf.math.is_finite(slope) & (slope != 0)))


def check_layers(learner: Learner, batch, who: str, remedy: str) -> None:
    """Refuses layers without a second derivative.

    Args:
        learner: The model.
        batch: A `tf.TensorSpec` of what it is called on.
        who: What needs the derivative, for the message.
        remedy: What to do besides replacing the layers.

    Raises:
        ValueError: That names them.
    """
    model = learner.model
    graphs = []
    weights = [tf.convert_to_tensor(v) for v in model.trainable_variables]
    buffers = [tf.convert_to_tensor(v) for v in model.non_trainable_variables]
    # Inner steps differentiate no others.
    adapted = [w for w, adapts in zip(weights, learner.adapts) if adapts]

    def second_derivative(x):
        graphs.append(tf.compat.v1.get_default_graph())
        with tf.GradientTape() as outer:
            outer.watch(weights)
            form = lowered(model, learner.lower, learner.in_bfloat16)
            with tf.GradientTape() as inner, form:
                inner.watch(adapted)
                outputs, *_ = stateless_call(model, weights, buffers, x, True)
                # Not linear, so that there is a second derivative.
                loss = tf.reduce_sum(outputs**2)
            gradient = dense(inner.gradient(loss, adapted))
        return outer.gradient([g for g in gradient if g is not None], weights)

    try:
        tf.function(second_derivative, autograph=False).get_concrete_function(
            batch
        )
    except LookupError as error:
        if "gradient registry" not in str(error):
            raise  # Of the model's own `call`.
        operation = str(error).rsplit(" ", 1)[-1]
        kind = operation.removesuffix("Grad")
        found = [
            op.name for op in graphs[0].get_operations() if op.type == kind
        ]
        layers = ", ".join(layers_of(model, found)) or "one of its layers"
        raise ValueError(
            f"{who} needs a second derivative of every layer. Received: model "
            f"'{model.name}', where TensorFlow has none for "
            f"{layers} ({operation}). Replace it{remedy}."
        ) from error
