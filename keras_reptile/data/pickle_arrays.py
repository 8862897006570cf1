"""What a pickle says of its arrays, noted until it is read to its end.

Not NumPy's own types, which trust the state that a file gives them: nothing
can look at an array's memory, or change it, before it is made.
"""

import math
import re

import numpy as np

from keras_reptile.data.pickle_machine import Refused, shown

# Booleans, integers, floats and strings of a stated size.
_PLAIN = re.compile(r"[<>=|]?(b1|[iu][1248]|f[248]|[SU][1-9]\d{0,3})")


class Allowance:
    """So many bytes may be made: none of the file's again and again."""

    def __init__(self, size):
        # Of text, as protocol 2 has it, first bytes and then an array.
        self._left = 2 * size

    def spend(self, count):
        self._left -= count
        if self._left < 0:
            raise Refused("arrays of more bytes than it has")


class ElementType:
    """In place of `numpy.dtype`, which trusts the state it is given."""

    def __init__(self, code, align=False, copy=False):
        if type(code) is not str or not _PLAIN.fullmatch(code):
            raise Refused(f"an array of dtype {shown(code)}")
        self.dtype = np.dtype(code)
        self._built = False

    def build(self, state):
        _, byte_order, *structure = state[:5]
        if structure != [None, None, None]:
            raise Refused("an array of records")
        if byte_order not in ("<", ">", "=", "|") or self._built:
            raise Refused(f"the byte order {shown(byte_order)}")
        self.dtype = self.dtype.newbyteorder(byte_order)
        self._built = True


class Array:
    """In place of an array, until the file is read to its end."""

    def __init__(self, allowance, kind=None, shape=None, code=None):
        self._allowance = allowance
        self._parts = self._made = None

    def build(self, state):
        """What protocols 0 to 4 say of it."""
        _, shape, element, fortran, values = state
        self.hold(values, element, shape, "F" if fortran else "C")

    def hold(self, values, element, shape, order, axes=None):
        if self._parts is not None:
            raise Refused("a change of an array")
        if isinstance(values, str):  # As Python 2 has them.
            values = encoded(self._allowance, values)
        if not isinstance(values, (bytes, np.ndarray)):
            raise Refused(f"an array out of a {type(values).__name__}")
        if type(shape) is not tuple or len(shape) > 64:
            raise Refused("an array without a shape")
        if any(type(n) is not int or not 0 <= n < 2**63 for n in shape):
            raise Refused(f"an array of shape ({', '.join(map(shown, shape))})")
        dtype = _dtype_of(element)
        size = math.prod(shape) * dtype.itemsize
        if size != len(values):
            raise ValueError(f"{len(values)} bytes in place of {shown(size)}")
        self._parts = values, dtype, shape, order, axes

    def make(self):
        if self._made is None:
            values, dtype, shape, order, axes = self._parts
            self._parts = ()  # The bytes, so that there is but one copy.
            self._allowance.spend(len(values))
            flat = _own(values).view(dtype)
            flat = flat.astype(dtype.newbyteorder("="), copy=False)
            if dtype.kind == "U" and (flat.view("u4") > 0x10FFFF).any():
                raise ValueError("letters that do not exist")
            if dtype.kind == "b":  # NumPy trusts them to be 0 or 1.
                flat = flat.view("u1") != 0
            array = flat.reshape(shape, order="F" if order == "F" else "C")
            self._made = array if axes is None else array.transpose(axes)
        return self._made


def _own(values):
    """Bytes as memory that no other array has."""
    if isinstance(values, bytes):
        return np.frombuffer(values, np.uint8).copy()
    if values.flags.writeable:  # Another one has it.
        return values.copy()
    values.flags.writeable = True
    return values


def _dtype_of(element):
    if not isinstance(element, ElementType):
        raise Refused(f"an array of {type(element).__name__}")
    return element.dtype


def scalar(allowance, element, values):
    allowance.spend(len(values))
    if isinstance(values, str):
        values = values.encode("latin1")
    (number,) = np.frombuffer(values, _dtype_of(element))
    return number


def encoded(allowance, text, encoding="latin1"):
    """Bytes as protocol 2 has them; other codecs are none of a file's."""
    # By its name, as looking a codec up imports the module of that name.
    if encoding not in ("latin1", "latin-1"):
        raise Refused(f"the codec {shown(encoding)}")
    allowance.spend(len(text))
    return text.encode("latin1")


def array_of_buffer(allowance, *parts):
    array = Array(allowance)
    array.hold(*parts)
    return array
