"""Reads a pickle of dicts, lists and NumPy arrays, and runs nothing in it.

A pickle is a program: it names functions and classes of any module, and
`pickle.load` calls them. Here a name in a file stands for one of the few
functions below, whatever the file does with it, and any other is refused.
Not even NumPy's own functions are handed out, since array and element types
set up from a file's own numbers may read outside of their memory.
"""

import copyreg
import os
import pickle
import re

import numpy as np

# Booleans, integers, floats and strings of a stated size.
_PLAIN = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|[SU]\d{1,4})")


class _Refused(Exception):
    """A file asks for what it may not have; the text names it."""


def load(path):
    """Returns what a pickle holds, if that is plain data.

    Strings of Python 2 are read as Latin-1, as NumPy's arrays in its pickles
    need it. Every protocol is read, 0 to 5.

    Args:
        path: Of the file.

    Returns:
        Numbers, strings, tuples, lists and dicts, and NumPy arrays of
        booleans, numbers or strings, nested in any way.

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
    # Classes that a program registered under a number, and has unpickled
    # before, would otherwise be built without `find_class` being asked.
    copyreg.clear_extension_cache()
    with open(path, "rb") as file:
        try:
            return _Unpickler(file, encoding="latin1").load()
        except _Refused as error:
            raise ValueError(
                "A data file may hold dicts, lists and NumPy arrays of "
                "numbers or strings only, so that reading it runs no code. "
                f"Received: {path}, which asks for {error}. Do not read it by "
                "`pickle.load` either, unless you know who wrote it; get the "
                "file from elsewhere, or the images themselves."
            ) from None
        except Exception as error:  # A damaged pickle raises anything.
            raise ValueError(
                "Expected a pickle of dicts, lists and NumPy arrays. "
                f"Received: {path}, of {os.path.getsize(path)} bytes, which "
                f"cannot be read ({type(error).__name__}: {error}). It is "
                "truncated or damaged: get it again."
            ) from error


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _FUNCTIONS:
            raise _Refused(f"{module}.{name}")
        return _Function(f"{module}.{name}", _FUNCTIONS[module, name])

    def persistent_load(self, pid):
        raise _Refused(f"the object {pid!r} outside of the file")


class _Function:
    """A name in the file, which can be called but not changed."""

    __slots__ = ("_name", "_call")

    def __init__(self, name, call):
        self._name = name
        self._call = call

    def __call__(self, *arguments):
        if self._call is None:
            raise _Refused(f"a call of {self._name}")
        return self._call(*arguments)

    def __setstate__(self, state):
        raise _Refused(f"a change of {self._name}")


class _ElementType:
    """In place of `numpy.dtype`, which trusts the state it is given."""

    def __init__(self, code, *flags):
        if not isinstance(code, str) or not _PLAIN.fullmatch(code):
            raise _Refused(f"an array of dtype {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state):
        _, byte_order, *structure = state[:5]
        if structure != [None, None, None]:
            raise _Refused("an array of records")
        if not isinstance(byte_order, str) or byte_order not in "<>=|":
            raise _Refused(f"the byte order {byte_order!r}")
        self.dtype = self.dtype.newbyteorder(byte_order)


class _Array(np.ndarray):
    """An array that looks at what it is to hold before it takes it."""

    def __setstate__(self, state):
        _, shape, element, fortran, values = state
        if isinstance(values, str):  # As Python 2 has them.
            values = values.encode("latin1")
        if not isinstance(values, bytes):
            raise _Refused(f"an array out of a {type(values).__name__}")
        if any(not isinstance(n, int) or n < 0 for n in shape):
            raise _Refused(f"an array of shape {shape}")
        # NumPy compares the number of bytes with the shape.
        super().__setstate__(
            (1, tuple(shape), _plain(element), bool(fortran), values)
        )


def _plain(element):
    if not isinstance(element, _ElementType):
        raise _Refused(f"an array of {type(element).__name__}")
    return element.dtype


def _empty_array(kind, shape, code):
    """What protocols 0 to 4 begin an array with; its state comes after."""
    return np.ndarray.__new__(_Array, (0,), np.uint8)


def _array_of_buffer(buffer, element, shape, order, axes=None):
    """An array as protocol 5 has it."""
    array = np.frombuffer(buffer, _plain(element))
    array = array.reshape(shape, order="F" if order == "F" else "C")
    return (array if axes is None else array.transpose(axes)).view(_Array)


def _scalar(element, values):
    if isinstance(values, str):
        values = values.encode("latin1")
    (number,) = np.frombuffer(values, _plain(element))
    return number


def _encoded(text, encoding):
    """Bytes as protocol 2 has them; other codecs are none of a file's."""
    # By its name, as looking a codec up imports the module of that name.
    if encoding not in ("latin1", "latin-1"):
        raise _Refused(f"the codec {encoding!r}")
    return text.encode("latin1")


def _dict(*pairs):
    return dict(*pairs)


_FUNCTIONS = {
    ("_codecs", "encode"): _encoded,
    ("collections", "OrderedDict"): _dict,
    ("numpy", "dtype"): _ElementType,
    ("numpy", "ndarray"): None,  # Named beside `_reconstruct`, never called.
}
for _core in ("numpy.core", "numpy._core"):  # NumPy 1 and 2.
    _FUNCTIONS |= {
        (f"{_core}.multiarray", "_reconstruct"): _empty_array,
        (f"{_core}.multiarray", "scalar"): _scalar,
        (f"{_core}.numeric", "_frombuffer"): _array_of_buffer,
    }
