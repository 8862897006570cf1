"""A run of 200 meta-steps that resumes itself; `test_faults.py` kills it.

It takes the folder, and what `MetaTrainer` is to be given, as JSON; it writes
every meta-step that it has done to its standard output.
"""

import json
import sys

import keras
from conftest import SPEC, blobs, meta_model

import keras_reptile as kr


class Report(keras.callbacks.Callback):
    """Says where the run is, so that it can be killed there."""

    def on_train_batch_end(self, batch, logs=None):
        print(self.model.meta_step, flush=True)


keras.utils.set_random_seed(0)
model = meta_model(dropout=True, metrics=())
arguments = {"checkpoint_interval": 7, "resume": True}
if len(sys.argv) > 2:
    arguments |= json.loads(sys.argv[2])
trainer = kr.MetaTrainer(checkpoint_dir=sys.argv[1], **arguments)
model.fit(
    blobs().episodes(SPEC, meta_batch_size=2, seed=1),
    steps_per_epoch=40,
    epochs=5,
    callbacks=[trainer, Report()],
    verbose=0,
)
print("preempted" if trainer.preempted else "whole")
