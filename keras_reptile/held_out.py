"""Says so where classes are evaluated on that are trained on."""

from absl import logging


def warn_of_training_classes(trained_on, evaluated_on, what: str) -> None:
    """Looks for examples of one set of classes in another.

    A class is known by all of its examples in their order. Classes of one's
    own, and datasets made from streams, are not looked into.

    Args:
        trained_on: A `ClassDataset`, or what may be none.
        evaluated_on: Likewise.
        what: Has the latter, as the log calls it.
    """
    ours, theirs = (
        getattr(classes, "digests", frozenset())
        for classes in (trained_on, evaluated_on)
    )
    if common := len(ours & theirs):
        logging.warning(
            "Of the %d classes of %s, %d are of the classes that are trained "
            "on: its figures are no measure of new ones. Hold others out for "
            "it, as by `subset`.",
            len(theirs),
            what,
            common,
        )
