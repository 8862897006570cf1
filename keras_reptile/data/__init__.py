"""The data of few-shot learning, as classes that give episodes."""

from keras_reptile.data.arrays import from_arrays
from keras_reptile.data.classes import ClassDataset
from keras_reptile.data.omniglot import Splits, omniglot
from keras_reptile.data.scribbles import scribbles
from keras_reptile.data.sines import SineWaves

__all__ = [
    "ClassDataset",
    "SineWaves",
    "Splits",
    "from_arrays",
    "omniglot",
    "scribbles",
]
