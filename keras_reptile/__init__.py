"""keras-reptile: meta-learning for Keras, after the Reptile paper.

Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms",
arXiv:1803.02999.
"""

from keras_reptile import algorithms, data, models, schedules
from keras_reptile.callbacks import MetaTrainer
from keras_reptile.episodes import EpisodeSpec, Examples, Task
from keras_reptile.evaluation import Protocol, Scores, evaluate
from keras_reptile.learner import Learner, State
from keras_reptile.meta_model import MetaModel

__version__ = "0.1.0"

__all__ = [
    "EpisodeSpec",
    "Examples",
    "Learner",
    "MetaModel",
    "MetaTrainer",
    "Protocol",
    "Scores",
    "State",
    "Task",
    "algorithms",
    "data",
    "evaluate",
    "models",
    "schedules",
]
