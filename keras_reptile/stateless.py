"""A Keras optimizer as a pure function of its variables, on TensorFlow.

Keras gives every optimizer a `stateless_apply`, but its TensorFlow backend
refuses it, because a `tf.distribute` strategy wants `tf.Variable`s to write
to. The inner loop of a meta-learner writes to none: weights and slots are
tensors that go in and come out. So the backend's overrides are taken back.

Example:

```python
optimizer = stateless(keras.optimizers.Adam(1e-3), model.trainable_variables)
slots = [v.value for v in optimizer.variables]
weights, slots = optimizer.stateless_apply(slots, gradients, weights)
```
"""

import concurrent.futures
import contextlib

import keras
import numpy as np
import tensorflow as tf

# The private names of Keras that its TensorFlow backend overrides.
_BACKEND_NEUTRAL = (
    "assign",
    "assign_add",
    "assign_sub",
    "_var_key",
    "_apply_weight_decay",
    "_backend_update_step",
    "_backend_increment_gradient_accumulators",
    "stateless_apply",
)
# Settings that would divide a gradient by what nothing multiplied it with, or
# would do nothing at all in an inner loop.
_REFUSED = {
    "gradient_accumulation_steps": "gradient accumulation skips inner steps",
    "loss_scale_factor": "the inner loss is not multiplied by its factor",
    "use_ema": "an inner loop has no use for an average of its weights",
}
# What `tests/test_stateless.py` proves equal to the in-place form.
SUPPORTED = (
    "SGD, Adam, AdamW, Adamax, RMSprop, Adagrad, Adadelta, Adafactor, Ftrl, "
    "Lion, Lamb and Muon"
)


def stateless(optimizer, variables) -> keras.optimizers.Optimizer:
    """Copies an optimizer into one whose `stateless_apply` works.

    Three steps on a small matrix are compared with the optimizer's ordinary
    in-place form first, so an optimizer that keeps state elsewhere is found
    here, and not as a wrong number in training.

    Args:
        optimizer: A Keras optimizer, its name or its config. It is not
            changed, and its slots are not taken over.
        variables: The `keras.Variable`s whose shapes and dtypes the slots
            follow, in the order in which weights will be passed.

    Returns:
        A built optimizer of the same settings. Its `variables` are the slots'
        initial values.

    Raises:
        ValueError: If the optimizer cannot be used as a pure function.
    """
    optimizer = keras.optimizers.get(optimizer)
    _refuse_unless_equal(optimizer)
    copy = _neutral_copy(optimizer)
    copy.build(variables)
    undecayed = without_decay(optimizer, variables)
    if undecayed:
        copy._exclude_from_weight_decay_cache = {
            copy._var_key(variable): i not in undecayed
            for i, variable in enumerate(variables)
        }
    return copy


def without_decay(optimizer, variables) -> list[int]:
    """Which variables an optimizer leaves out of its weight decay.

    No config has them: they are told by `exclude_from_weight_decay`.

    Args:
        optimizer: A Keras optimizer.
        variables: Of a model, in order.
    """
    excludes = any(
        getattr(optimizer, f"_exclude_from_weight_decay{kind}", None)
        for kind in ("", "_pattern")
    )
    return [
        i
        for i, variable in enumerate(variables)
        if excludes and not optimizer._use_weight_decay(variable)
    ]


def is_learning_rate(variable) -> bool:
    """Whether a variable among the slots is a setting and no slot."""
    return variable.name == "learning_rate"


def schedule_of(optimizer):
    """The schedule that an optimizer was made with; `None` without one."""
    schedules = keras.optimizers.schedules
    rate = getattr(optimizer, "_learning_rate", None)
    is_schedule = isinstance(rate, schedules.LearningRateSchedule)
    return rate if is_schedule else None


def _neutral_copy(optimizer):
    cls = type(optimizer)
    base = next(c for c in cls.__mro__ if c.__name__ == "BaseOptimizer")
    methods = {name: getattr(base, name) for name in _BACKEND_NEUTRAL}
    neutral_apply = methods["stateless_apply"]

    def stateless_apply(*arguments):
        with _differentiable_square_roots():
            return neutral_apply(*arguments)

    methods["stateless_apply"] = stateless_apply
    return type(cls.__name__, (cls,), methods).from_config(
        optimizer.get_config()
    )


@tf.RegisterGradient("KerasReptileSqrt")
def _gradient_of_square_root(op, gradient):
    # At 0 this is 0 * inf, which TensorFlow's kernel takes for 0 and XLA's
    # for NaN: Adam's moments where a gradient has always been exactly 0.
    slope = 0.5 / op.outputs[0]
    return tf.where(gradient == 0, tf.zeros_like(gradient), gradient * slope)


def _differentiable_square_roots():
    """Where MAML differentiates an optimizer's step inside of a program."""
    if tf.executing_eagerly():
        return contextlib.nullcontext()
    graph = tf.compat.v1.get_default_graph()
    return graph.gradient_override_map({"Sqrt": "KerasReptileSqrt"})


def _refuse_unless_equal(optimizer):
    try:
        for name, reason in _REFUSED.items():
            if getattr(optimizer, name, None):
                raise ValueError(reason)
        # In a thread of its own, since a strategy's scope is of its thread,
        # and in that scope the in-place form cannot be run step by step.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            expected, received = thread.map(
                lambda three_steps: three_steps(optimizer),
                (_three_steps_in_place, _three_steps_stateless),
            )
        equal = all(
            np.allclose(e, r, rtol=1e-5, atol=1e-6)
            for e, r in zip(expected, received)
        )
        reason = "its stateless steps differ from its in-place steps"
    except Exception as error:  # Whatever Keras raises, the remedy is one.
        equal, reason = False, f"{type(error).__name__}: {error}"
    if not equal:
        raise ValueError(
            "The inner optimizer must be usable as a pure function of its "
            f"variables. Received: {type(optimizer).__name__} with "
            f"{optimizer.get_config()}, which cannot be: {reason}. Use one "
            f"of {SUPPORTED}, without {', '.join(_REFUSED)}."
        )


def _self_check_problem():
    variables = [
        keras.Variable([[-1.0, -0.6, -0.2], [0.2, 0.6, 1.0]], dtype="float32"),
        keras.Variable([0.5, -2.0, 3.0], dtype="float32"),
    ]
    steps = [
        [np.cos(np.arange(6.0) + k).reshape(2, 3), np.sin(np.arange(3.0) + k)]
        for k in range(3)
    ]
    return variables, [[g.astype("float32") for g in step] for step in steps]


def _three_steps_in_place(optimizer):
    variables, steps = _self_check_problem()
    copy = type(optimizer).from_config(optimizer.get_config())
    copy.build(variables)
    for gradients in steps:
        gradients = [tf.constant(g) for g in gradients]
        copy.apply(gradients, variables)
    return [v.numpy() for v in variables]


def _three_steps_stateless(optimizer):
    variables, steps = _self_check_problem()
    copy = _neutral_copy(optimizer)
    copy.build(variables)
    weights = [tf.convert_to_tensor(v.value) for v in variables]
    slots = [tf.convert_to_tensor(v.value) for v in copy.variables]
    for gradients in steps:
        gradients = [tf.constant(g) for g in gradients]
        weights, slots = copy.stateless_apply(slots, gradients, weights)
    return [w.numpy() for w in weights]
