"""A short run under a MetaTrainer, which tests stop and resume."""

import functools
import pathlib

import keras
import tensorflow as tf
from conftest import (
    SPEC,
    all_values,
    blobs,
    meta_model,
)

import keras_reptile as kr

TRAIN, HELD_OUT = blobs(seed=0), blobs(seed=1)
PROTOCOL = kr.Protocol(
    ways=3, shots=3, queries=2, inner_steps=4, num_episodes=12
)


def settings():
    return {
        "optimizer": keras.optimizers.SGD(kr.schedules.linear(1.0, 0.0, 12)),
        "dropout": True,
    }


def run(model, steps_per_epoch=4, epochs=3, callbacks=(), **trainer):
    trainer = kr.MetaTrainer(**trainer)
    stream = TRAIN.episodes(SPEC, meta_batch_size=2, seed=1)
    history = model.fit(
        stream,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        callbacks=[trainer, *callbacks],
        verbose=0,
    )
    return trainer, history.history


@functools.cache
def uninterrupted():
    """All values of the run of 12 meta-steps that nothing befalls."""
    model = meta_model(**settings())
    run(model)
    return all_values(model)


class StopAt(keras.callbacks.Callback):
    """As a kill would, but for the final checkpoint."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if self.model.meta_step == self.step:
            raise KeyboardInterrupt


def scalars(folder):
    """What TensorBoard has of a folder: `(step, number)` by name."""
    found = {}
    for path in pathlib.Path(folder).iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                number = tf.make_ndarray(value.tensor)
                if number.ndim == 0 and number.dtype.kind == "f":
                    found.setdefault(value.tag, []).append(
                        (event.step, float(number))
                    )
    return found
