"""Labels that mean the same in all episodes are not mixed with others.

They are those of `kr.data.from_groups(..., fixed_labels=True)`: what learned
them would be scored on others as if it were bad.
"""

import numpy as np
from absl import logging

from keras_reptile import settings
from keras_reptile.array_input import as_array


def check_same_labels(trained_on: list | None, evaluated: list | None) -> None:
    """Refuses to evaluate on other labels than those that are learned.

    Args:
        trained_on: Names of the classes by label; `None` where labels are in
            the order drawn, and any others do.
        evaluated: Likewise.

    Raises:
        ValueError: If they differ.
    """
    if trained_on is not None and evaluated != trained_on:
        received = (
            "labels that are not fixed" if evaluated is None else evaluated
        )
        raise ValueError(
            "The labels of the classes that are evaluated on must be those of "
            f"the classes that are trained on, {trained_on!s:.200}. Received: "
            f"{received!s:.200}. Make both by `subset` of one "
            "`kr.data.from_groups`; the `labels` of a MetaModel, set to None, "
            "forget what was learned."
        )


def of_stream(x) -> list | None:
    """Names of the classes by label, where those of a dataset are fixed.

    Args:
        x: A stream of `kr.data`; of another dataset nothing is known.
    """
    return settings.of_stream(x).get(settings.LABELS)


def numbered(y, labels: list | None):
    """Targets that are names of classes as the labels of these.

    Args:
        y: As given to `adapt`.
        labels: Of the model; `None` where they are not fixed.

    Returns:
        Integers, where `y` are names and labels are fixed; else `y`.

    Raises:
        ValueError: If a name is none of the classes'.
    """
    if labels is None:
        return y
    names = as_array("y", y)
    if names.ndim != 1 or not all(isinstance(name, str) for name in names):
        return y
    unknown = sorted(set(names.tolist()) - set(labels))
    if unknown:
        raise ValueError(
            "`y` must be names of classes that the model was trained on, "
            f"{list(labels)!s:.200}. Received: {unknown!s:.200} besides."
        )
    return np.array([labels.index(name) for name in names], "int32")


def warn_of_missing(y, labels: list | None) -> None:
    """Says which classes are adapted to without an example.

    Args:
        y: Labels of the support examples, integers.
        labels: Of the model; `None` where they are not fixed.
    """
    missing = [
        name for k, name in enumerate(labels or ()) if not (y == k).any()
    ]
    if missing:
        logging.warning(
            "There are no examples of %s, which every episode had: the adapted "
            "model will hardly recognise them.",
            ", ".join(missing),
        )


def check_validation_labels(x, validation_data) -> None:
    """`check_same_labels` of two streams of `kr.data`.

    Args:
        x: The episodes.
        validation_data: As given to `fit`; of a dataset of one's own it is
            not known what labels mean.

    Raises:
        ValueError: If they differ.
    """
    if settings.of_stream(validation_data):
        check_same_labels(of_stream(x), of_stream(validation_data))
