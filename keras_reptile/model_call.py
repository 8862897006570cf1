"""A Keras model called on given values of its variables.

`keras.Model.stateless_call` runs the model's `call` without what `__call__`
does around it: sublayers are not told that they are in training, and each
counts as the outermost layer of a call of its own, which drops the penalties
of its other uses. Here the model itself is called.
"""

import keras


def training_argument(model, training: bool) -> dict:
    """`training` as a model's `call` takes it, if it does; as in `fit`."""
    return {"training": training} if model._call_has_training_arg else {}


def stateless_call(model, weights, buffers, x, training: bool) -> tuple:
    """What a model gives, with tensors in place of its variables.

    Args:
        model: A built `keras.Model`.
        weights: Values of its trainable variables, in order.
        buffers: Values of its other variables, in order.
        x: Examples, shape `(n, ...)`.
        training: Whether layers are in training.

    Returns:
        `(outputs, buffers, penalties)`: the buffers after the call, and the
        losses of regularizers and `add_loss`, a list of scalars.

    Raises:
        ValueError: If there are not as many values as variables.
    """
    others = model.non_trainable_variables
    expected = len(model.trainable_variables), len(others)
    if (len(weights), len(buffers)) != expected:
        raise ValueError(
            "A state has a value for each variable of the model. Received: "
            f"{len(weights)} weights and {len(buffers)} buffers; expected "
            f"{expected[0]} and {expected[1]}. After freezing or unfreezing "
            "layers, call `compile` again, or make a new Learner."
        )
    values = [*zip(model.trainable_variables, weights), *zip(others, buffers)]
    scope = keras.StatelessScope(state_mapping=values, collect_losses=True)
    with scope:
        outputs = model(x, **training_argument(model, training))
        # Not `model.losses`, which another thread's call would empty.
        penalties = [*scope.losses, *model._get_regularization_losses()]
        # One that is no scalar counts by its sum, as in Keras' `fit`.
        penalties = [keras.ops.sum(penalty) for penalty in penalties]
    return outputs, [scope.get_current_value(v) for v in others], penalties
