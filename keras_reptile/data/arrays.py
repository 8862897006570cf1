"""Classes out of one's own examples and labels."""

import numpy as np
from numpy.typing import ArrayLike

from keras_reptile.array_input import as_array, remedy_of_shape
from keras_reptile.data.classes import ClassDataset


def from_arrays(x: ArrayLike, y: ArrayLike) -> ClassDataset:
    """Groups one's own examples by their labels.

    Args:
        x: Examples of shape `(n, ...)`, uint8 or floats.
        y: Labels of shape `(n,)`, integers or strings, in any order.

    Returns:
        A `ClassDataset` whose classes are the sorted distinct labels.

    Raises:
        ValueError: If the shapes disagree, there are no examples, or the
            labels are floats.

    Example:

    ```python
    train = kr.data.from_arrays(images, labels)
    ```
    """
    x, y = as_array("x", x), as_array("y", y)
    if len(y) == 0:
        raise ValueError("Expected at least one example. Received: none.")
    if y.ndim != 1 or x.ndim < 1 or len(x) != len(y):
        raise ValueError(
            "Expected one label per example, `y` of shape (n,). Received: x "
            f"of shape {x.shape} and y of shape {y.shape}.{remedy_of_shape(y)}"
        )
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y):
        y = y.astype(str)  # As a column of pandas has them.
    if y.dtype.kind not in "iuUSb":
        raise ValueError(
            "Labels must be integers or strings. Received: y of dtype "
            f"{y.dtype}{_missing(y)}. If they are whole numbers, pass "
            "`y.astype(int)`; if they are names, `y.astype(str)`. Targets of "
            "a regression make no classes: for them there is "
            "`kr.data.from_function`."
        )
    labels, counts = np.unique(y, return_counts=True)
    order = np.argsort(y, kind="stable")
    return ClassDataset(x[order], counts, [_name(label) for label in labels])


def _missing(y):
    """Says of a column how many are no names, and may be missing."""
    missing = [i for i, name in enumerate(y) if not isinstance(name, str)]
    if y.dtype.kind != "O" or len(missing) == len(y):
        return ""
    first = missing[0]
    return (
        f", of which {len(missing)} of {len(y)} are no strings, the first "
        f"being {y[first]!r:.40} at {first}. Leave out what is missing"
    )


def _name(label):
    if isinstance(label, bytes):
        return label.decode(errors="replace")
    return str(label)
