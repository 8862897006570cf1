"""What is asked of arrays that are to become classes."""

import numpy as np

from keras_reptile.array_input import check_unmasked


def checked_examples(x) -> np.ndarray:
    """Examples as they are kept: uint8 as given, floats as float32.

    Raises:
        ValueError: If they are of another dtype, none, or not finite.
    """
    check_unmasked("x", x)
    x = np.asarray(x)
    if x.ndim < 2 or not len(x):
        raise ValueError(
            "`x` must hold examples of shape (total, ...), at least one of "
            f"them. Received: shape {x.shape}."
        )
    if x.dtype == np.uint8:
        return x
    if x.dtype.kind != "f":
        raise ValueError(
            "`x` must be uint8, read as 0 to 255, or floats. Received: dtype "
            f"{x.dtype}. Pass `x.astype('float32')` if the values are to be "
            "used as they are."
        )
    with np.errstate(over="ignore"):  # What is too large becomes infinite.
        x = x.astype(np.float32)
    bad = ~np.isfinite(x).reshape(len(x), -1).all(1)
    if bad.any():
        raise ValueError(
            "`x` must be finite as float32. Received: NaN or infinity in "
            f"{bad.sum()} examples, the first at index {bad.argmax()}."
        )
    return x


def checked_counts(counts, total: int) -> np.ndarray:
    """Examples of each class, as int32.

    Raises:
        ValueError: If they are no positive integers, or add up to another
            number.
    """
    given = np.asarray(counts)
    if given.ndim != 1 or given.dtype.kind not in "iu" or (given < 1).any():
        raise ValueError(
            "`counts` must be one positive integer per class. Received: "
            f"{counts}."
        )
    # Of Python's integers, as NumPy's wrap around.
    if sum(given.tolist()) != total:
        raise ValueError(
            "`counts` must add up to the number of examples. Received: "
            f"{sum(given.tolist())}, but x has {total} examples."
        )
    return given.astype(np.int32)


def checked_names(names, number: int) -> list:
    """A name for each class; `None` numbers them.

    Raises:
        ValueError: If there are more or fewer than classes.
    """
    if names is None:
        return [str(i) for i in range(number)]
    names = list(names) if np.iterable(names) else names
    if not isinstance(names, list) or len(names) != number:
        received = len(names) if isinstance(names, list) else repr(names)
        raise ValueError(
            f"Expected a list of {number} names, one for each class. "
            f"Received: {received}."
        )
    return names


def checked_indices(
    indices, number: int, of: tuple = ("class", "classes", "classes.names")
) -> np.ndarray:
    """Indices of some classes, or groups of classes.

    Args:
        indices: Integers, or a boolean for each class.
        number: How many there are to choose from.
        of: What one of them is called, and several, and where their names are.

    Raises:
        ValueError: If there are none, one is out of range or comes twice.
    """
    indices = np.asarray(indices)
    one, several, names = of
    if indices.dtype == bool and indices.shape == (number,):
        indices = np.flatnonzero(indices)
    if indices.ndim != 1 or (indices.dtype.kind not in "iu" and len(indices)):
        raise ValueError(
            f"`indices` must be integers, or a boolean for each of {number} "
            f"{several}. Received: {indices.dtype} of shape "
            f"{indices.shape}. A name's is `{names}.index(name)`."
        )
    if not len(indices):
        raise ValueError(f"Expected at least one {one}. Received: none.")
    if not (0 <= indices.min() and indices.max() < number):
        raise ValueError(
            f"`indices` must be from 0 to {number - 1}. Received: "
            f"{indices.min()} to {indices.max()}."
        )
    if len(np.unique(indices)) < len(indices):
        raise ValueError(
            f"Expected each {one} once, as it would be drawn more often than "
            f"others, or under two labels. Received: {indices.tolist()}."
        )
    return indices
