"""What an algorithm does and returns, looked at when it is traced.

A user's own function that returns less would train a part of the model
without a word, or end inside of TensorFlow.
"""

import contextlib

import tensorflow as tf

from keras_reptile.inner_step import State

_EXPECTED = (
    "An algorithm returns (meta_gradient, adapted_state): a list with one "
    "tensor of floats for each of `state.weights`, of its shape, and a State "
    "such as `learner.adapt` returns."
)


@contextlib.contextmanager
def of_graphs(algorithm):
    """Says what a graph is, where a function wants the value of a tensor.

    Args:
        algorithm: The function, for the message.

    Raises:
        ValueError: With what to do; other errors of it are let through.
    """
    try:
        yield
    # As Python's `if`, `float` and NumPy have it.
    except (AttributeError, NotImplementedError, TypeError) as error:
        text = str(error).lower()
        misspelt = isinstance(error, AttributeError) and "'numpy'" not in text
        if "symbolic" not in text or misspelt:
            raise
        raise ValueError(
            "An algorithm is traced as a graph, whose tensors have no values "
            f"yet. Received from `{_name(algorithm)}`: {error} Use tf.cond and "
            "such, or `compile(run_eagerly=True)` to look at values."
        ) from error


def checked(result, state: State, algorithm) -> tuple[list, State]:
    """An algorithm's result, with all of its gradients as tensors.

    Args:
        result: What it returned.
        state: What it was given.
        algorithm: The function, for the message.

    Returns:
        `(meta_gradient, adapted)`.

    Raises:
        ValueError: If it is something else than the two.
    """
    name = _name(algorithm)
    pair = isinstance(result, (tuple, list)) and len(result) == 2
    if not pair or not isinstance(result[1], State):
        kinds = result if type(result) is tuple else (result,)
        received = ", ".join(type(part).__name__ for part in kinds)
        _refuse(name, f"({received})" if len(kinds) > 1 else received)
    gradient, adapted = result
    if not isinstance(gradient, (list, tuple)):
        _refuse(name, f"a meta-gradient of type {type(gradient).__name__}")
    if len(gradient) != len(state.weights):
        _refuse(name, f"{len(gradient)} for {len(state.weights)} weights")
    for part in ("weights", "buffers", "slots"):
        given, after = len(getattr(state, part)), len(getattr(adapted, part))
        if given != after:
            _refuse(
                name, f"a State of {after} {part}, where {given} were given"
            )
    return _tensors(name, gradient, state.weights), adapted


def _tensors(name, gradient, weights):
    parts = []
    for i, (part, weight) in enumerate(zip(gradient, weights)):
        if part is None:
            _refuse(
                name,
                f"None for weight {i}; a tape gives zeros instead with "
                "unconnected_gradients=tf.UnconnectedGradients.ZERO",
            )
        part = tf.convert_to_tensor(part)
        fits = part.shape.is_compatible_with(weight.shape)
        if not fits or not part.dtype.is_floating:
            _refuse(
                name,
                f"{part.dtype.name} of shape {part.shape} for weight {i}, "
                f"which is {weight.dtype.name} of shape {weight.shape}",
            )
        part = tf.cast(part, weight.dtype)
        parts.append(tf.ensure_shape(part, weight.shape))
    return parts


def _name(algorithm):
    return getattr(algorithm, "__name__", type(algorithm).__name__)


def _refuse(name, received):
    raise ValueError(f"{_EXPECTED} Received from `{name}`: {received}.")
