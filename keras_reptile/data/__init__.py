"""The data of few-shot learning, as classes that give episodes."""

from keras_reptile.data.arrays import from_arrays
from keras_reptile.data.classes import ClassDataset
from keras_reptile.data.folders import from_folder
from keras_reptile.data.functions import DrawnTasks, from_function
from keras_reptile.data.groups import GroupedClasses, from_groups
from keras_reptile.data.mini_imagenet import mini_imagenet
from keras_reptile.data.omniglot import omniglot
from keras_reptile.data.scribbles import scribbles
from keras_reptile.data.sines import SineWaves
from keras_reptile.data.splits import Splits

__all__ = [
    "ClassDataset",
    "DrawnTasks",
    "GroupedClasses",
    "SineWaves",
    "Splits",
    "from_arrays",
    "from_folder",
    "from_function",
    "from_groups",
    "mini_imagenet",
    "omniglot",
    "scribbles",
]
