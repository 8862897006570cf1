"""What comes out of TensorFlow, in words of ours."""

import contextlib
import re

import tensorflow as tf

# Of a layer this is asked before; of a user's own function it is not known.
_NOT_COMPILED = re.compile(r"No registered '(\w+)' OpKernel for XLA")
_SAID = re.compile("<<keras_reptile: (.*?) :keras_reptile>>", re.DOTALL)


def said(message: str) -> str:
    """A message, marked so that `in_our_words` finds it again."""
    return f"<<keras_reptile: {message} :keras_reptile>>"


@contextlib.contextmanager
def in_our_words():
    """Has raised as a ValueError what is none of TensorFlow's concern.

    That is a message of `said`, which stops a dataset, and operations of a
    user's algorithm, loss or layer that XLA cannot compile.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        if found := _SAID.search(error.message):
            raise ValueError(found[1]) from None
        if found := _NOT_COMPILED.search(error.message):
            raise ValueError(
                "What runs in the inner loop must be of operations that XLA "
                f"compiles. Received: {found[1]}, as of `tf.print` or "
                "`tf.numpy_function` in an algorithm, loss or layer of your "
                "own. Leave it out, or `compile(jit_compile=False)`."
            ) from error
        raise
