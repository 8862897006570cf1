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
    both = trained_on, evaluated_on
    if not all(hasattr(classes, "digests") for classes in both):
        return
    known, theirs = set(trained_on.digests), evaluated_on.digests
    if common := sum(digest in known for digest in theirs):
        logging.warning(
            "Of the %d classes of %s, %d are of the classes that are trained "
            "on: its figures say too much for new ones. Hold others out for "
            "it, as by `subset`.",
            len(theirs),
            what,
            common,
        )
