"""Reads a pickle of dicts, lists and NumPy arrays, and runs nothing in it.

A pickle is a program: it names functions and classes of any module, and
`pickle.load` calls them. Here a name in a file stands for one of the few
functions below, whatever the file does with it, and any other is refused.
Not even NumPy's own functions are handed out, since array and element types
set up from a file's own numbers may read outside of their memory.

What a file calls an array is a note of it until the file is read to its
end. Nothing can look at its memory before it is made, once and for all.
"""

import os
from functools import partial

import numpy as np

from keras_reptile.data import pickle_machine
from keras_reptile.data.pickle_arrays import (
    Allowance,
    Array,
    ElementType,
    array_of_buffer,
    encoded,
    scalar,
)
from keras_reptile.data.pickle_machine import Refused, shown

_LEAVES = {type(None), bool, int, float, str, bytes}
_DEEPEST = 100


def load(path):
    """Returns what a pickle holds, if that is plain data.

    Strings of Python 2 are read as Latin-1, as NumPy's arrays in its pickles
    need it. Every protocol is read, 0 to 5.

    Args:
        path: Of the file.

    Returns:
        Numbers, strings, tuples, lists and dicts, and NumPy arrays of
        booleans, numbers or strings, nested up to 100 deep. The keys of
        dicts are strings, bytes and at most a thousand numbers. It takes
        memory in proportion to the size of the file; but the file may have
        one list stand in many places, so that to copy or print all of it may
        never end.

    Raises:
        ValueError: If the file holds anything else, in particular any
            function or class of another name than arrays need, or if it is
            truncated or no pickle.
        OSError: If it cannot be opened.

    Example:

    ```python
    stored = safe_pickle.load("mini-imagenet-cache-val.pkl")
    stored["image_data"].shape  # (9600, 84, 84, 3)
    ```
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        allowance = Allowance(size)
        try:
            # The machine, and with it the file's own bytes, is gone before
            # arrays are made of them.
            noted = pickle_machine.run(file, _functions(allowance))
            return _Finish().of(noted)[0]
        except Refused as error:
            raise ValueError(
                "A data file may hold dicts, lists and NumPy arrays of "
                "numbers or strings only, so that reading it runs no code. "
                f"Received: {path}, which asks for {error}. Do not read it by "
                "`pickle.load` either, unless you know who wrote it; get the "
                "file from elsewhere, or the images themselves."
            ) from None
        except Exception as error:  # A damaged pickle raises anything.
            said = f"{type(error).__name__}: {str(error)[:200]}"
            raise ValueError(
                "Expected a pickle of dicts, lists and NumPy arrays. "
                f"Received: {path}, of {size} bytes, which cannot be read "
                f"({said}). It is truncated or damaged: get it again."
            ) from error


def _dict(pairs=None):
    """An ordered dict, for which all of them go, and so does the order."""
    if pairs is None:
        return {}
    if type(pairs) is not list:
        raise Refused(f"a dict of a {type(pairs).__name__}")
    flat = []
    for key, value in pairs:
        flat += key, value
    pairs.clear()  # As it could be made a dict of again and again.
    return pickle_machine.filled_dict({}, flat)


def _functions(allowance):
    """What a file may name."""
    functions = {
        ("_codecs", "encode"): partial(encoded, allowance),
        ("collections", "OrderedDict"): _dict,
        ("numpy", "dtype"): ElementType,
        # Named beside `_reconstruct`, never called.
        ("numpy", "ndarray"): None,
        # So do protocols 0 to 2 write empty bytes.
        ("__builtin__", "bytes"): lambda: b"",
    }
    for core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2.
        functions |= {
            (f"{core}.multiarray", "_reconstruct"): partial(Array, allowance),
            (f"{core}.multiarray", "scalar"): partial(scalar, allowance),
            (f"{core}.numeric", "_frombuffer"): partial(
                array_of_buffer, allowance
            ),
        }
    return functions


class _Finish:
    """Makes the arrays of what a file has left, each once."""

    def __init__(self):
        # By the identity of a container: itself, or another one may get the
        # same; what it became; and how many levels of them it has.
        self._done = {}

    def of(self, value, above=0):
        """Returns it, and how many levels it has; `above` it are others."""
        if type(value) in _LEAVES or isinstance(value, np.generic):
            return value, 0
        if isinstance(value, Array):
            return value.make(), 0
        if type(value) not in (tuple, list, dict, np.ndarray):
            raise Refused(f"{shown(value)} by itself")
        if above == _DEEPEST:
            raise Refused(f"more than {_DEEPEST} levels")
        if id(value) not in self._done:
            # A list may hold itself, and is then found here.
            ahead = None if type(value) is tuple else value
            self._done[id(value)] = value, ahead, 0
            self._done[id(value)] = value, *self._parts_of(value, above)
        _, made, levels = self._done[id(value)]
        if made is None:
            raise Refused("a tuple that holds itself")
        if above + levels > _DEEPEST:
            raise Refused(f"more than {_DEEPEST} levels")
        return made, levels

    def _parts_of(self, value, above):
        if type(value) is np.ndarray:  # Long bytes, which are no array's.
            return value.tobytes(), 0
        made = list(value) if type(value) is tuple else value
        items = value.items() if type(value) is dict else enumerate(value)
        levels = 1
        for key, part in items:
            if type(part) not in _LEAVES:
                made[key], below = self.of(part, above + 1)
                levels = max(levels, 1 + below)
        return (tuple(made) if type(value) is tuple else made), levels
