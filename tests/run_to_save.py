"""Saves without pause, to be killed; `test_faults.py` starts it.

For every line of its input, a folder, it forks a process that writes one
checkpoint after another to it, and says that process' number. Forked before
TensorFlow has threads, as a start of Python takes seconds.
"""

import os
import sys
import types

import numpy as np
import tensorflow as tf

from keras_reptile.run_folder import RunFolder


class Value:
    """As much of a variable as a checkpoint asks for."""

    def __init__(self, shape):
        self.path, self.shape, self.step = "value", shape, 0

    def numpy(self):
        return np.full(self.shape, self.step, "float32")


def save_without_end(folder, report):
    values = [Value((100, 100)), Value((1000,)), Value(())]
    model = types.SimpleNamespace(
        inner_model=types.SimpleNamespace(
            trainable_variables=values, non_trainable_variables=[]
        ),
        optimizer=types.SimpleNamespace(variables=[]),
        inner_optimizer=types.SimpleNamespace(variables=[]),
        distribute_strategy=tf.distribute.get_strategy(),
        meta_step=0,
        labels=None,
        require_compiled=lambda: None,
    )
    run = RunFolder(folder, 3, resume=False, on_write_error="stop")
    run.begin(model, {}, goes_on=False)
    while True:
        model.meta_step += 1
        for value in values:
            value.step = model.meta_step
        run.write_step(model, {})
        run.write_best(model, {"best_accuracy": model.meta_step})
        os.write(report, model.meta_step.to_bytes(8, "little"))


print("ready", flush=True)
for line in sys.stdin:
    folder = line.strip()
    process = os.fork()
    if not process:
        report = os.open(f"{folder}/done", os.O_WRONLY | os.O_CREAT)
        save_without_end(folder, report)
    print(process, flush=True)
    os.waitpid(process, 0)
    print("ended", flush=True)
