"""Labels that mean the same in all episodes are not mixed with others.

They are those of `kr.data.from_groups(..., fixed_labels=True)`: what learned
them would be scored on others as if it were bad.
"""

from keras_reptile import settings


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
            "`kr.data.from_groups`."
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
    ours, theirs = map(settings.of_stream, (x, validation_data))
    if theirs:
        names = settings.LABELS
        check_same_labels(ours.get(names), theirs.get(names))
