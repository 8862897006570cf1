"""Arrays out of what a user passes: NumPy, lists, tensors of any library."""

import numpy as np


def as_array(name: str, values) -> np.ndarray:
    """One array with an entry for each example.

    Args:
        name: Of the argument.
        values: What was given for it.

    Raises:
        ValueError: If it is none, the parts differ in shape, or some of it is
            masked.
    """
    check_unmasked(name, values)
    try:
        array = np.asarray(values)
    except ValueError as error:  # Of lists that are not equally long.
        raise ValueError(
            f"`{name}` must be one array. Received: a list whose parts have "
            f"several shapes ({error}). Resize or pad the examples to one."
        ) from error
    except (RuntimeError, TypeError) as error:  # As of a tensor of PyTorch.
        raise ValueError(
            f"`{name}` must be an array. Received: {type(values).__name__}, "
            f"which NumPy cannot read ({error})."
        ) from error
    if not array.ndim:
        raise ValueError(
            f"`{name}` must be an array with an entry for each example. "
            f"Received: {type(values).__name__}, {_shortened(values)}."
        )
    return array


def check_unmasked(name: str, values) -> None:
    """Refuses a masked array, of which what is masked would be data.

    Raises:
        ValueError: If something is masked.
    """
    parts = values if isinstance(values, (list, tuple)) else ()
    for part in parts:
        if isinstance(part, np.ma.MaskedArray):
            check_unmasked(name, part)
    if np.ma.is_masked(values):
        raise ValueError(
            f"`{name}` must be an array without a mask. Received: "
            f"{np.ma.count_masked(values)} masked values of {values.size}. "
            "Leave these examples out, or fill them in with `filled`."
        )


def remedy_of_shape(y: np.ndarray) -> str:
    """What to do about labels that are a matrix, to end a message with."""
    if y.ndim != 2:
        return ""
    if y.shape[1] == 1:
        return " Pass `y[:, 0]`."
    return " Labels that are one-hot become integers by `y.argmax(1)`."


def _shortened(values):
    shown = repr(values)
    return shown if len(shown) <= 80 else f"{shown[:80]}..."
