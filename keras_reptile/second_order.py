"""Refuses what MAML cannot differentiate a second time.

An operation without a second derivative would end in TensorFlow's words deep
inside of a graph; an optimizer whose step does not depend smoothly on the
gradient would make first-order MAML of it without a word.
"""

import concurrent.futures
import re
import weakref

import keras
import tensorflow as tf

from keras_reptile import shapes
from keras_reptile.asking_xla import asked_of_xla, known_to_xla
from keras_reptile.descriptions import unwrapped
from keras_reptile.episodes import Examples, Task
from keras_reptile.inner_step import dense
from keras_reptile.layer_scopes import layers_of, numbered
from keras_reptile.learner import Learner
from keras_reptile.lowering import lowered
from keras_reptile.model_call import stateless_call
from keras_reptile.stateless import stateless

_USUAL = keras.optimizers.SGD, keras.optimizers.Adam
# Gradients whose own gradient TensorFlow takes for 0, without an error.
_OF_FIRST_ORDER = {
    "ResizeBilinearGrad",
    "FakeQuantWithMinMaxArgsGradient",
    "FakeQuantWithMinMaxVarsGradient",
    "FakeQuantWithMinMaxVarsPerChannelGradient",
}
# By inner optimizer, which belongs to one model, what its layers were looked at
# with. The parts of a learner have the same.
_looked_at = weakref.WeakKeyDictionary()


def is_second_order(algorithm) -> bool:
    """Whether an algorithm, or what it is a partial of, says that it is."""
    return bool(getattr(unwrapped(algorithm), "second_order", False))


def check_second_order(algorithm, learner: Learner, batch=None) -> None:
    """Refuses layers and inner optimizers without a second derivative.

    Args:
        algorithm: Checked for if it is of second order.
        learner: The model and the inner optimizer.
        batch: A `tf.TensorSpec` of what it is called on; `None` is what it was
            built with. Where that says too little, layers are not looked at.

    Raises:
        ValueError: That names the layers, or the optimizer.
    """
    if not is_second_order(algorithm):
        return
    algorithm = unwrapped(algorithm)
    name = getattr(algorithm, "__name__", type(algorithm).__name__)
    who, remedy = f"The algorithm `{name}`", ""
    if name == "maml":
        who, remedy = "MAML", ', or use algorithm="fomaml"'
    _check_optimizer(learner, who, remedy)
    batch = batch or shapes.batch_built_with(learner.model)
    if batch is not None:  # Else only the data can tell, in `fit`.
        check_layers(learner, batch, who, remedy)
        _looked_at.setdefault(learner.optimizer, set()).add(
            _form(learner, batch)
        )


def check_in_algorithm(algorithm, learner: Learner, x) -> None:
    """The same for an algorithm that is called, by whatever it is called.

    A function around `maml` does not say that it is of second order, and who
    calls one with a `Learner` has asked no `MetaModel`.

    Args:
        algorithm: That is of second order.
        learner: As it was called with.
        x: Examples, a tensor of any number of them.

    Raises:
        ValueError: As `check_second_order`.
    """
    if _form(learner, x) in _looked_at.get(learner.optimizer, ()):
        return
    batch = tf.TensorSpec(x.shape, x.dtype)
    # In a thread of its own, which is outside of whatever graph is made here.
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        thread.submit(check_second_order, algorithm, learner, batch).result()


def _form(learner, examples):
    in_what = tuple(learner.adapts), learner.lower, learner.in_bfloat16
    return *in_what, tuple(examples.shape[1:]), tf.as_dtype(examples.dtype)


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


def refused_in_the_loop(algorithm, learner: Learner, batch=None) -> str | None:
    """What XLA cannot compile of a gradient through the inner loop.

    The loop keeps what its gradient needs of every step, also numbers that
    XLA must know beforehand, such as the axes of a transposition: it refuses
    layers there that it compiles otherwise.

    Args:
        algorithm: XLA is asked if it is of second order.
        learner: The model, its loss and its inner optimizer.
        batch: A `tf.TensorSpec` of what the model is called on; `None` is what
            it was built with.

    Returns:
        As `asking_xla.refused_by_xla`; also `None` where targets are of a form
        that is not known.
    """
    batch = batch or shapes.batch_built_with(learner.model)
    if batch is None or not is_second_order(algorithm):
        return None
    if _is_known_to_xla(learner):
        return None
    state, rows = learner.state(), tf.range(batch.shape[0])
    steps = tf.stack([rows, rows])

    def gradient(x, y, *weights):
        weights = list(weights)
        task = Task(Examples(x, y), Examples(x, y), steps)
        with tf.GradientTape() as tape, numbered(learner.model):
            tape.watch(weights)
            adapted = learner.adapt(state._replace(weights=weights), task)
            loss = learner.query_loss(adapted, task)
        return tape.gradient(loss, weights)

    if learner.loss_function.takes_labels:
        targets = tf.TensorSpec(batch.shape[:1], "int32")
    else:
        width = shapes.output_shape(learner.model, batch.shape[1:])
        targets = tf.TensorSpec((*batch.shape[:1], *width), "float32")
    weights = [tf.TensorSpec(w.shape, w.dtype) for w in state.weights]
    function = tf.function(gradient, jit_compile=True, autograph=False)
    try:
        function.get_concrete_function(batch, targets, *weights)
    except Exception:  # Of a loss of one's own, of other targets.
        return None
    refusal = asked_of_xla(learner.model, function, batch, targets, *weights)
    return refusal and f"{refusal} in a gradient through the inner loop"


def _is_known_to_xla(learner):
    """What is usual need not wait for a second until XLA is asked."""
    return (
        known_to_xla(learner.model)
        and learner.loss_function.takes_labels
        and isinstance(learner.optimizer, _USUAL)
    )


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
    graphs, kinds = [], set()
    weights = [tf.convert_to_tensor(v) for v in model.trainable_variables]
    buffers = [tf.convert_to_tensor(v) for v in model.non_trainable_variables]
    # Inner steps differentiate no others.
    adapted = [w for w, adapts in zip(weights, learner.adapts) if adapts]

    def second_derivative(x):
        graphs.append(tf.compat.v1.get_default_graph())
        with tf.GradientTape() as outer:
            outer.watch(weights)
            form = lowered(model, learner.lower, learner.in_bfloat16)
            with tf.GradientTape() as inner, form, numbered(model):
                inner.watch(adapted)
                outputs, *_ = stateless_call(model, weights, buffers, x, True)
                # Not linear, so that there is a second derivative.
                loss = tf.reduce_sum(outputs**2)
            gradient = dense(inner.gradient(loss, adapted))
        kinds.update(op.type for op in graphs[-1].get_operations())
        functions = graphs[-1].as_graph_def().library.function
        kinds.update(node.op for f in functions for node in f.node_def)
        return outer.gradient([g for g in gradient if g is not None], weights)

    try:
        tf.function(second_derivative, autograph=False).get_concrete_function(
            batch
        )
    except LookupError as error:
        if "gradient registry" not in str(error):
            raise  # Of the model's own `call`.
        lacking = str(error).rsplit(" ", 1)[-1]
    else:
        lacking = next(iter(kinds & _OF_FIRST_ORDER), None)
    if lacking is None:
        return
    kind = re.sub("Grad(ient)?$", "", lacking)
    found = [op.name for op in graphs[0].get_operations() if op.type == kind]
    layers = ", ".join(layers_of(model, found)) or "one of its layers"
    raise ValueError(
        f"{who} needs a second derivative of every layer. Received: model "
        f"'{model.name}', where TensorFlow has none for {layers} ({lacking}). "
        f"Replace it{remedy}."
    )
