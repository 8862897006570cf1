"""The peak that all are measured against: a large matrix product."""

import tensorflow as tf


def contestants() -> dict:
    """Functions `(work) -> run`; here a run is of matrix products."""
    return {"float32 matrix product": lambda work: _product}


def _product(count, size=2048):
    a = tf.ones((size, size))
    for _ in range(count):
        a = tf.matmul(a, a) / size
    return float(a[0, 0])
