"""keras-reptile: meta-learning for Keras, after the Reptile paper.

Nichol, Achiam & Schulman 2018, "On First-Order Meta-Learning Algorithms",
arXiv:1803.02999.
"""

import keras

# Before anything that would fail with a message from inside TensorFlow.
if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "keras_reptile runs on Keras' TensorFlow backend. Received: "
        f"{keras.backend.backend()!r}. Set the environment variable "
        "KERAS_BACKEND=tensorflow before Keras is imported."
    )

from keras_reptile import (
    algorithms,
    analysis,
    checkpoints,
    data,
    models,
    schedules,
    workers,
)
from keras_reptile.callbacks import MetaTrainer
from keras_reptile.episodes import EpisodeSpec, Examples, Task
from keras_reptile.evaluation import evaluate
from keras_reptile.inner_step import State
from keras_reptile.learner import Learner
from keras_reptile.meta_model import MetaModel
from keras_reptile.protocol import Protocol
from keras_reptile.scores import Scores

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
    "analysis",
    "checkpoints",
    "data",
    "evaluate",
    "models",
    "schedules",
    "workers",
]
