"""What the loaders of a whole data set return."""

from typing import NamedTuple

from keras_reptile.data.classes import ClassDataset


class Splits(NamedTuple):
    """Classes to train on, to choose by and to report on."""

    train: ClassDataset
    validation: ClassDataset | None
    test: ClassDataset
