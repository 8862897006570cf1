"""Classes out of one's own examples and labels."""

import numpy as np

from keras_reptile.data.class_checks import check_unmasked
from keras_reptile.data.classes import ClassDataset


def from_arrays(x, y) -> ClassDataset:
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
    x, y = _array("x", x), _array("y", y)
    if len(y) == 0:
        raise ValueError("Expected at least one example. Received: none.")
    if y.ndim != 1 or x.ndim < 1 or len(x) != len(y):
        raise ValueError(
            "Expected one label per example, `y` of shape (n,). Received: x "
            f"of shape {x.shape} and y of shape {y.shape}."
        )
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y):
        y = y.astype(str)  # As a column of pandas has them.
    if y.dtype.kind not in "iuUSb":
        raise ValueError(
            "Labels must be integers or strings. Received: y of dtype "
            f"{y.dtype}. If they are whole numbers, pass `y.astype(int)`; if "
            "they are names, `y.astype(str)`."
        )
    labels, counts = np.unique(y, return_counts=True)
    order = np.argsort(y, kind="stable")
    return ClassDataset(x[order], counts, [_name(label) for label in labels])


def _array(name, values):
    check_unmasked(name, values)
    try:
        array = np.asarray(values)
    except ValueError as error:  # Of lists that are not equally long.
        raise ValueError(
            f"`{name}` must be one array. Received: a list whose parts have "
            f"several shapes ({error}). Resize or pad the examples to one."
        ) from error
    if not array.ndim:
        raise ValueError(
            f"`{name}` must be an array with an entry for each example. "
            f"Received: {name} of shape (), {values!r}."
        )
    return array


def _name(label):
    if isinstance(label, bytes):
        return label.decode(errors="replace")
    return str(label)
