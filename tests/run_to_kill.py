"""A run of 200 meta-steps that resumes itself; `test_faults.py` kills it.

It takes the folder; what `MetaTrainer` is to be given, as JSON; and the
meta-step from which it goes slowly, so that whoever reacts is not too late. It
writes every meta-step that it has done to its standard output.
"""

import json
import sys
import time

import keras
from conftest import SPEC, blobs, meta_model

import keras_reptile as kr

SLOWLY_FROM = int(sys.argv[3]) if len(sys.argv) > 3 else 1_000


class Report(keras.callbacks.Callback):
    """Says where the run is, so that it can be killed there."""

    def on_train_batch_end(self, batch, logs=None):
        print(self.model.meta_step, flush=True)
        if self.model.meta_step >= SLOWLY_FROM:
            time.sleep(0.05)


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
