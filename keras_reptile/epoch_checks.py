"""How many meta-steps an epoch has, and whether a dataset has as many."""

import tensorflow as tf
from absl import logging

from keras_reptile.integers import check_integer


def check_epochs(
    dataset, steps_per_epoch, steps_per_execution, name="steps_per_epoch"
) -> None:
    """Refuses epochs that do not end, or end inside a call of several steps.

    Raises:
        ValueError: If a stream without an end is given no length of an
            epoch, or the length is not a multiple of `steps_per_execution`.
    """
    if steps_per_epoch is None:
        if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "A stream of episodes has no end, so Keras must be told the "
                f"length of an epoch. Received: {name}=None. Pass the number "
                "of meta-steps."
            )
        return
    check_integer(name, steps_per_epoch, 1)
    if steps_per_epoch % steps_per_execution:
        raise ValueError(
            "An epoch must be a whole number of calls. Received: "
            f"{name}={steps_per_epoch}, which is not a multiple of "
            f"steps_per_execution={steps_per_execution}."
        )


def length(dataset, name) -> int:
    """How many elements there are, which several replicas must know.

    Raises:
        ValueError: If the dataset does not say.
    """
    count = int(dataset.cardinality())
    if count < 0:
        raise ValueError(
            "Several replicas must know how many meta-steps there are. "
            f"Received: {name}=None, and a dataset whose length is not known. "
            "Pass the number of meta-steps."
        )
    return count


def check_long_enough(dataset, needed: int) -> None:
    """Refuses a dataset that ends before several replicas have had enough.

    Raises:
        ValueError: If it is known to be shorter.
    """
    count = int(dataset.cardinality())
    if 0 <= count < needed:
        raise ValueError(
            f"Several replicas need all of the {needed} meta-batches that "
            "they are asked for. Received: a dataset of "
            f"{count}. Ask for fewer, or repeat the dataset."
        )


def check_goes_on(dataset, meta_step: int) -> None:
    """Says so where a second `fit` sees the first's episodes again."""
    if meta_step and not hasattr(dataset, "starting_at"):
        logging.warning(
            "The model stands at meta-step %d, and the episodes start at the "
            "dataset's beginning. Only a stream as `classes.episodes(...)` "
            "gives it goes on where the model stands.",
            meta_step,
        )
