"""Models that were trained for some steps, and a task for them."""

import numpy as np
import tensorflow as tf
from conftest import SPEC, blobs, meta_model

import keras_reptile as kr

CLASSES = blobs(examples=10)


def trained(steps=4, tasks=3, **settings):
    model = meta_model(**settings)
    stream = CLASSES.episodes(SPEC, meta_batch_size=tasks, seed=1)
    model.fit(stream, steps_per_epoch=steps, verbose=0)
    return model


def support(ways=3, seed=3):
    spec = kr.EpisodeSpec(ways=ways, shots=4, queries=5)
    task = CLASSES.episode(spec, seed=seed)
    return tf.nest.map_structure(np.asarray, task)
