"""A short run under `trainers.launch`, whose workers kill themselves.

Usage:
    python -m trainers.launch --workers=2 --restarts=2 -- \\
        run_launched --logdir=FOLDER --kills=1@13,0@35

--kills says who dies and soon after which meta-step, one for each life.
"""

import os
import pathlib
import random
import signal
import threading

import keras
import numpy as np
import run_worker
from absl import app, flags

import keras_reptile as kr
from trainers import common, strategy

_KILLS = flags.DEFINE_list("kills", [], "Who dies when: worker@meta-step.")
_STEPS = flags.DEFINE_integer("steps", 60, "Meta-steps.")


class Killer(keras.callbacks.Callback):
    """Ends this process as a power cut would, between two instructions."""

    def __init__(self, step, note):
        super().__init__()
        self._step = step
        self._note = note

    def on_train_batch_end(self, batch, logs=None):
        if self.model.meta_step == self._step:
            threading.Timer(0.03 * random.random(), self._kill).start()

    def _kill(self):
        self._note.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def killer(folder) -> list:
    """The callback for this worker in this life, if it is not to live."""
    lives = len(list(folder.glob("killed-*")))
    if lives >= len(_KILLS.value):
        return []
    victim, step = map(int, _KILLS.value[lives].split("@"))
    resolver = strategy.chosen().cluster_resolver
    if victim != resolver.task_id:
        return []
    return [Killer(step, folder / f"killed-{lives}")]


def main(argv):
    with strategy.chosen().scope():
        model = run_worker.meta_model()
    folder = pathlib.Path(common.LOGDIR.value)
    folder.mkdir(exist_ok=True)
    model.fit(
        run_worker.classes().episodes(run_worker.SPEC, 2, seed=1),
        steps_per_epoch=20,
        epochs=_STEPS.value // 20,
        callbacks=[
            kr.MetaTrainer(
                checkpoint_dir=folder,
                checkpoint_interval=7,
                resume=common.RESUME.value,
            ),
            *killer(folder),
        ],
        verbose=common.verbosity(),
    )
    if strategy.is_chief():
        values = run_worker.numbers_of(model, {})
        np.savez(folder / "end", **values)


if __name__ == "__main__":
    app.run(main)
