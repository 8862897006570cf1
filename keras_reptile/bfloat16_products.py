"""Matrix products of bfloat16 that add up in float32.

TensorFlow's own product of bfloat16 returns bfloat16, which XLA on a CPU
turns into a product of float32 with conversions around it. XLA's has its own
type for the result, and on processors that multiply bfloat16 takes 0.6 of
the time. It is not among TensorFlow's public operations, nor is the question
whether XLA compiles what is being traced; both are used here only, and
tests/test_bfloat16_products.py fails where a new TensorFlow changes them.
Elsewhere the rounded factors are multiplied in float32: the same, and slower.
"""

import pathlib

import tensorflow as tf

# Of Linux' list; x86's, and ARM's.
_PROCESSOR_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def product(a, b, transpose_a: bool = False, transpose_b: bool = False):
    """The product of two matrices, whose factors are rounded to bfloat16.

    Differentiates to any order, by products of the same kind.

    Args:
        a: Float32, or bfloat16 if it is rounded already. Shape `(m, k)`, or
            `(k, m)` where it is taken transposed.
        b: The same, of shape `(k, n)` or `(n, k)`.
        transpose_a: Takes `a` transposed.
        transpose_b: Takes `b` transposed; not both.

    Returns:
        Float32, shape `(m, n)`.
    """

    @tf.custom_gradient
    def function(a, b):
        def gradient(upstream):
            if transpose_a:
                of_a = product(b, upstream, transpose_b=True)
                of_b = product(a, upstream)
            elif transpose_b:
                of_a = product(upstream, b)
                of_b = product(upstream, a, transpose_a=True)
            else:
                of_a = product(upstream, b, transpose_b=True)
                of_b = product(a, upstream, transpose_a=True)
            return tf.cast(of_a, a.dtype), tf.cast(of_b, b.dtype)

        return _product(a, b, transpose_a, transpose_b), gradient

    return function(a, b)


def _product(a, b, transpose_a, transpose_b):
    # Here, so that whoever does without does not depend on them.
    from tensorflow.compiler.tf2xla.python import xla
    from tensorflow.compiler.xla import xla_data_pb2
    from tensorflow.python.ops import control_flow_util

    a, b = tf.cast(a, tf.bfloat16), tf.cast(b, tf.bfloat16)
    graph = tf.compat.v1.get_default_graph()
    if not control_flow_util.GraphOrParentsInXlaContext(graph):
        a, b = tf.cast(a, tf.float32), tf.cast(b, tf.float32)
        return tf.matmul(a, b, transpose_a, transpose_b)
    columns = a.shape[-1]
    if transpose_a:
        # XLA takes a transposition into the product, and has no fast form of
        # that; one row more keeps it from it.
        a = tf.pad(tf.transpose(a), [[0, 1], [0, 0]])
    numbers = xla_data_pb2.DotDimensionNumbers(
        lhs_contracting_dimensions=[1],
        rhs_contracting_dimensions=[1 if transpose_b else 0],
    )
    result = xla.dot_general(a, b, numbers, preferred_element_type=tf.float32)
    return result[:columns] if transpose_a else result


def processor_has_them() -> bool | None:
    """Whether this processor multiplies bfloat16; `None` if it isn't said."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return None
    lines = text.lower().splitlines()
    flags = {
        flag
        for line in lines
        if line.startswith(("flags", "features"))
        for flag in line.partition(":")[2].split()
    }
    return bool(flags & _PROCESSOR_FLAGS) if flags else None
