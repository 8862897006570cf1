"""Meta-learning algorithms, a file for each kind.

An algorithm is a plain function
`(learner, state, task) -> (meta_gradient, adapted_state)`; a user's own one
is passed to `MetaModel` as it is.

Three attributes of the function may say more of it. `second_order = True`: it
differentiates inner steps, so that layers and inner optimizers without a second
derivative are refused, and tasks are not vectorized. `additive = True`: what
it returns for all inner steps is the sum of what it returns for the parts of
them, so that a task may be cut in two among cores. `of_weight_changes = True`:
it is made of what inner steps change, so that what the inner loop does not
adapt is not learned, and an outer weight decay of it is refused.
"""

import inspect
from collections.abc import Callable

import keras

from keras_reptile.algorithms.combination import combination
from keras_reptile.algorithms.foml import foml, foml_tail
from keras_reptile.algorithms.joint import joint
from keras_reptile.algorithms.maml import (
    fomaml,
    fomaml_shared_tail,
    maml,
)
from keras_reptile.algorithms.reptile import reptile

__all__ = ["combination", "get", "names", "serialize"]

_ALGORITHMS = {
    "fomaml": fomaml,
    "fomaml_shared_tail": fomaml_shared_tail,
    "foml": foml,
    "foml_tail": foml_tail,
    "joint": joint,
    "maml": maml,
    "reptile": reptile,
}


def names() -> list[str]:
    """The names of the algorithms.

    Returns:
        What `MetaModel(algorithm=...)` accepts, sorted.
    """
    return sorted(_ALGORITHMS)


def get(algorithm: str | Callable) -> Callable:
    """Finds an algorithm by name.

    Args:
        algorithm: A name, or an algorithm itself.

    Returns:
        Its function; a callable as it is.

    Raises:
        ValueError: If there is no algorithm of that name, or it cannot be
            called as one.
    """
    if callable(algorithm) and _takes_three(algorithm):
        return algorithm
    if not isinstance(algorithm, str) or algorithm not in _ALGORITHMS:
        raise ValueError(
            f"`algorithm` must be one of {names()}, or a function "
            "(learner, state, task) -> (meta_gradient, adapted_state). "
            f"Received: {algorithm!r}. (ANIL and BOIL adapt some variables "
            "only, by `compile(inner_variables=...)`.)"
        )
    return _ALGORITHMS[algorithm]


def _takes_three(algorithm):
    try:
        inspect.signature(algorithm).bind("learner", "state", "task")
    except TypeError:
        return False
    except ValueError:  # Built in, and does not say what it takes.
        pass
    return True


def serialize(algorithm: str | Callable) -> str | dict:
    """What `.keras` files hold of an algorithm.

    Args:
        algorithm: As `get` takes it.

    Returns:
        Its name, or, of one's own, its reference as Keras has it.

    Raises:
        ValueError: If there is no algorithm of that name, or it is a function
            that could not be found again.
    """
    algorithm = get(algorithm)
    for name, function in _ALGORITHMS.items():
        if function is algorithm:
            return name
    # An instance is found again by its class.
    named = algorithm if hasattr(algorithm, "__name__") else type(algorithm)
    if keras.saving.get_registered_name(named) == named.__name__:
        raise ValueError(
            "A MetaModel is saved with the name of its algorithm, under which "
            "it is found again. Received: "
            f"{named.__name__!r}, which is not registered. Put "
            "@keras.saving.register_keras_serializable() above it."
        )
    return keras.saving.serialize_keras_object(algorithm)
