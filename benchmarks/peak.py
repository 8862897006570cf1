"""The peak that all are measured against: a large matrix product.

NumPy's and TensorFlow's in turn, and the better of the two counts: without
AVX-512 TensorFlow leaves oneDNN off, and its own product runs at two thirds
of what NumPy's library reaches.
"""

import time

import numpy as np
import tensorflow as tf


def contestants() -> dict:
    """Functions `(work) -> run`; here a run is of matrix products."""
    return {"float32 matrix product": lambda work: _run}


def _run(count):
    seconds = []
    for product in (_with_tensorflow, _with_numpy):
        start = time.perf_counter()
        last = product(count)
        seconds.append(time.perf_counter() - start)
    _run.seconds = min(seconds)
    return last


def _with_tensorflow(count, size=2048):
    a = tf.ones((size, size))
    for _ in range(count):
        a = tf.matmul(a, a) / size
    return float(a[0, 0])


def _with_numpy(count, size=2048):
    a = np.ones((size, size), "float32")
    for _ in range(count):
        a = a @ a / size
    return float(a[0, 0])
