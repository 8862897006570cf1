"""A short run that resumes itself; `test_callbacks.py` kills it."""

import sys
import time

import keras
from conftest import SPEC, blobs, meta_model

import keras_reptile as kr


class Slowly(keras.callbacks.Callback):
    """Leaves time to be killed in."""

    def on_train_batch_end(self, batch, logs=None):
        time.sleep(0.02)


keras.utils.set_random_seed(0)
model = meta_model(dropout=True)
trainer = kr.MetaTrainer(
    checkpoint_dir=sys.argv[1], checkpoint_interval=7, resume=True
)
model.fit(
    blobs().episodes(SPEC, meta_batch_size=2, seed=1),
    steps_per_epoch=20,
    epochs=3,
    callbacks=[trainer, Slowly()],
    verbose=0,
)
