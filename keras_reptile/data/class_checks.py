"""What is asked of arrays that are to become classes."""

import collections

import numpy as np

from keras_reptile.array_input import check_unmasked


def checked_examples(x) -> np.ndarray:
    """Examples as they are kept: uint8 as given, floats as float32.

    Raises:
        ValueError: If they are of another dtype, none, or not finite.
    """
    check_unmasked("x", x)
    x = np.asarray(x)
    if x.ndim == 1 and x.dtype == object:
        raise ValueError(
            "`x` must be one array of examples. Received: a column of "
            f"{len(x)} objects. Arrays become one by `np.stack(x)`."
        )
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
    indices, names: list, of: tuple = ("class", "classes")
) -> np.ndarray:
    """Indices of some classes, or groups of classes.

    Args:
        indices: Integers, names, or a boolean for each class.
        names: Of those that there are to choose from.
        of: What one of them is called, and several.

    Raises:
        ValueError: If there are none, one is not there or comes twice.
    """
    indices = np.asarray(indices)
    (one, several), number = of, len(names)
    if indices.ndim == 1 and all(isinstance(name, str) for name in indices):
        indices = _of_names(indices.tolist(), list(map(str, names)), one)
    if indices.dtype == bool and indices.shape == (number,):
        indices = np.flatnonzero(indices)
    if indices.ndim != 1 or (indices.dtype.kind not in "iu" and len(indices)):
        raise ValueError(
            "`indices` must be a list of integers or of names, or a boolean "
            f"for each of {number} {several}. Received: {indices.dtype} of "
            f"shape {indices.shape}."
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


def _of_names(chosen, names, one):
    counts = collections.Counter(names)
    unknown = [name for name in chosen if name not in counts]
    if unknown:
        raise ValueError(
            f"Expected names of a {one} that is there. Received: "
            f"{unknown!s:.100}, and there are {names!s:.200}."
        )
    twice = [name for name in chosen if counts[name] > 1]
    if twice:
        raise ValueError(
            f"Expected a name that one {one} has. Received: '{twice[0]}', "
            "which several have. Choose by integers."
        )
    places = {name: place for place, name in enumerate(names)}
    return np.array([places[name] for name in chosen], int)
