"""Labels that mean the same in all episodes, and are not mixed with others.

They are those of `kr.data.from_groups(..., fixed_labels=True)`: what learned
them would be scored on others as if it were bad.
"""

import contextlib

import numpy as np
from absl import logging

from keras_reptile import settings
from keras_reptile.array_input import as_array, remedy_of_shape

_SHOWN = 10
_BY_SUBSET = "Make both by `subset` of one `kr.data.from_groups`."


class KnowsLabels:
    """Mixed into `MetaModel`, which learns them."""

    _labels = None

    @property
    def labels(self) -> list[str] | None:
        """Names of the outputs, where labels are fixed; else `None`.

        `fit` takes them from streams of `kr.data`; of a dataset of one's own
        nothing is known, and they stay. Checkpoints and `.keras` files have
        them. They can be set, and `None` forgets them.
        """
        return None if self._labels is None else list(self._labels)

    @labels.setter
    def labels(self, names):
        if names is not None:
            several = np.iterable(names) and not isinstance(names, str)
            strings = several and all(isinstance(name, str) for name in names)
            if not strings or len(set(names)) < len(names):
                raise ValueError(
                    "`labels` must be a list of strings, one for each output "
                    f"and all of them distinct, or None. Received: {names!r}."
                )
            names = tuple(names)
        self._labels = names


@contextlib.contextmanager
def learned(model, x):
    """Has a model know the labels that a `fit` trains on.

    Args:
        model: A compiled `MetaModel`.
        x: The episodes.

    Raises:
        ValueError: If it has learned the same in another order.
    """
    before, step = model.labels, model.meta_step
    if settings.of_stream(x):
        _check_order(before, of_stream(x))
        model.labels = of_stream(x)
    try:
        yield
    except BaseException:
        if model.meta_step == step:  # Nothing was learned.
            model.labels = before
        raise


def _check_order(before, now):
    same = before is not None and now is not None and set(before) == set(now)
    if same and before != now:
        raise ValueError(
            "A model that goes on must be trained on labels in the order that "
            f"it has learned. Received: {_difference(before, now)}. Choose "
            "that order by `part.subset(model.labels)` before classes are "
            "grouped, or begin with `model.labels = None`."
        )


def of_stream(x) -> list[str] | None:
    """Names of the classes by label, where those of a dataset are fixed.

    Args:
        x: A stream of `kr.data`; of another dataset nothing is known.
    """
    return getattr(x, "arguments", {}).get(settings.LABELS)


def check_same_labels(
    learned: list | None, evaluated: list | None, remedy: str = _BY_SUBSET
) -> None:
    """Refuses to evaluate on other labels than those that are learned.

    Args:
        learned: Names of the classes by label; `None` where labels are in
            the order drawn, and any others do.
        evaluated: Likewise.
        remedy: What to do.

    Raises:
        ValueError: If they differ.
    """
    if learned is not None and evaluated != learned:
        raise ValueError(
            "The labels of the classes that are evaluated on must be those of "
            f"the classes that are trained on. Received: "
            f"{_difference(learned, evaluated)}. {remedy}"
        )


def check_streams(x, validation_data) -> None:
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


def check_evaluated(model, evaluated: list | None) -> None:
    """`check_same_labels` with those that a model has learned.

    Args:
        model: A `MetaModel`.
        evaluated: Names by label, as above.

    Raises:
        ValueError: If they differ.
    """
    remedy = f"{_BY_SUBSET} After `model.labels = None` any are let through."
    check_same_labels(model.labels, evaluated, remedy)


def numbered(y, labels: list | None):
    """Targets that are names of classes as the labels of these.

    Args:
        y: As given to `adapt`.
        labels: Of the model; `None` where they are not fixed.

    Returns:
        Integers, where `y` are names and labels are fixed; else `y`.

    Raises:
        ValueError: If a name is none of the classes', or integers could be
            meant as names.
    """
    if labels is None:
        return y
    names = as_array("y", y)
    if names.dtype.kind in "iu":
        _check_not_names(labels)
        return y
    values = [
        v.decode(errors="replace") if isinstance(v, bytes) else v
        for v in names.ravel().tolist()
    ]
    if not values or not all(isinstance(value, str) for value in values):
        return y
    if names.ndim != 1:
        raise ValueError(
            "Expected one name per support example, y of shape (n,). "
            f"Received: y of shape {names.shape}.{remedy_of_shape(names)}"
        )
    unknown = set(values) - set(labels)
    if unknown:
        raise ValueError(
            "`y` must be names of classes that the model was trained on, "
            f"{some(labels)}. Received: {some(unknown)} besides."
        )
    places = {name: place for place, name in enumerate(labels)}
    return np.array([places[value] for value in values], "int32")


def _check_not_names(labels):
    numbers = all(name.removeprefix("-").isdecimal() for name in labels)
    if numbers and labels != [str(place) for place in range(len(labels))]:
        raise ValueError(
            "The classes that the model was trained on have numbers for names, "
            f"{some(labels)}, which are not their places among the outputs. "
            "Received: `y` of integers, which could be either. Pass names, "
            "`y.astype(str)`."
        )


def warn_of_missing(y, labels: list | None) -> None:
    """Says which classes are adapted to without an example.

    Args:
        y: Labels of the support examples, integers.
        labels: Of the model; `None` where they are not fixed.
    """
    given = set(np.ravel(y).tolist())
    missing = [name for k, name in enumerate(labels or ()) if k not in given]
    if missing:
        logging.warning(
            "There are no examples of %s, which every episode had: the adapted "
            "model will hardly recognise them.",
            some(missing),
        )


def _difference(learned, evaluated):
    if evaluated is None:
        return f"labels that are not fixed, in the place of {some(learned)}"
    lacking, besides = (
        [name for name in one if name not in other]
        for one, other in (
            (learned, set(evaluated)),
            (evaluated, set(learned)),
        )
    )
    if lacking or besides:
        return (
            f"labels that lack {some(lacking) or 'none'} and have "
            f"{some(besides) or 'none'} besides"
        )
    first = next(k for k, n in enumerate(learned) if n != evaluated[k])
    return (
        f"the same in another order, as '{evaluated[first]}' in the place of "
        f"'{learned[first]}'"
    )


def some(names) -> str:
    """A few of the names, to be put into a message."""
    names = list(names)
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
