"""Takes the steps of a pickle one by one: those that plain data needs.

`pickle.Unpickler` reserves memory by a number in the file, hashes whatever
stands as a key, and lets the file change what it made, also when something
else already relies on it. Here a file can fill its lists and dicts, and all
else is for the functions to say that it may name.
"""

import codecs
import dataclasses
import os
import pickle
import pickletools
import struct
from collections.abc import Callable

import numpy as np

# A list of 60,000 arrays, all of mini-ImageNet, takes less than two million.
MOST_STEPS = 10_000_000
# As keys of a dict, to which each may be compared.
MOST_NUMBERS = 1_000
# Longer bytes are read where an array can have them without a copy.
_LONG = 1 << 20


class Refused(Exception):
    """A file asks for what it may not have; the text names it."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A name in the file, which can be called and nothing else."""

    title: str
    function: Callable | None


def shown(value) -> str:
    """A value of a file in a few letters, whatever it holds."""
    if isinstance(value, (str, bytes)):
        return repr(value[:80]) + ("..." if len(value) > 80 else "")
    if isinstance(value, (int, np.integer)) and abs(int(value)) < 2**64:
        return str(value)
    return value.title if type(value) is Name else type(value).__name__


def run(file, functions):
    """Returns what a file leaves; of a damaged one, raises anything.

    Args:
        file: Open for reading, as bytes.
        functions: Those that it may name, by `(module, name)`; those that
            are `None` cannot be called. What the others return may have a
            method `build`, for the state that the file gives it.
    """
    machine = _Machine(file, functions)
    for _ in range(MOST_STEPS):
        code = machine.read(1)
        if code == pickle.STOP:
            return machine.stack.pop()
        if code in _STEPS:
            _STEPS[code](machine)
        elif known := pickletools.code2op.get(code.decode("latin1")):
            raise Refused(f"the step {known.name}")
        else:
            raise ValueError(f"there is no step {code!r}")
    raise Refused(f"more than {MOST_STEPS:,} steps")


class _Machine:
    def __init__(self, file, functions):
        self.file = file
        self.size = os.fstat(file.fileno()).st_size
        self.functions = functions
        self.stack, self.memo = [], {}
        self._below = []

    def read(self, size):
        # Before memory is reserved for what is not there.
        content = self.file.read(size) if 0 <= size <= self.size else b""
        if len(content) != size:
            raise EOFError(f"{size} more bytes are expected")
        return content

    def line(self):
        line = self.file.readline()
        if not line.endswith(b"\n"):
            raise EOFError("it ends within a line")
        return line[:-1]

    def mark(self):
        self._below.append(self.stack)
        self.stack = []

    def above_mark(self):
        above, self.stack = self.stack, self._below.pop()
        return above

    def last(self, count):
        return [self.stack.pop() for _ in range(count)][::-1]

    def remember(self, key):
        # One after the other, from 0 or, in Python 2, 1. Numbers of a file's
        # choice could all have their places in the table in one row.
        if not 0 <= key <= len(self.memo) + 1:
            raise ValueError("a number out of range")
        self.memo[key] = self.stack[-1]

    def name(self, module, name):
        if type(module) is not str or type(name) is not str:
            raise Refused("a name that is no string")
        title = f"{module[:80]}.{name[:80]}"
        title = title if title.isprintable() else repr(title)
        if (module, name) not in self.functions:
            raise Refused(title)
        return Name(title, self.functions[module, name])

    def call(self):
        called, arguments = self.last(2)
        if type(called) is not Name or called.function is None:
            raise Refused(f"a call of {shown(called)}")
        if type(arguments) is not tuple:
            raise Refused(f"a call with a {type(arguments).__name__}")
        return called.function(*arguments)


def filled_dict(target, pairs) -> dict:
    """Puts keys and values, one after the other, into a dict of the file's."""
    if type(target) is not dict:
        raise Refused(f"a change of {shown(target)}")
    for key, value in zip(pairs[::2], pairs[1::2], strict=True):
        # The hash of a tuple may be endless: it can be millions deep, or
        # its parts shared. Numbers can be chosen to all have one hash.
        if isinstance(key, (int, float, np.number, type(None))):
            if len(target) >= MOST_NUMBERS:
                raise Refused(f"a number as a key beside {MOST_NUMBERS:,}")
            if isinstance(key, int) and abs(key) >= 2**64:
                raise Refused("a key of more than 64 bits")
        elif not isinstance(key, (str, bytes)):
            raise Refused(f"a key that is a {type(key).__name__}")
        target[key] = value
    return target


def _fill_list(target, values):
    if type(target) is not list:
        raise Refused(f"a change of {shown(target)}")
    target.extend(values)


def _build(target, states):
    if not hasattr(target, "build"):
        raise Refused(f"a change of {shown(target)}")
    target.build(*states)


def _latin1(content):
    return content.decode("latin1")


def _utf8(content):
    return content.decode("utf-8", "surrogatepass")


def _integer(content):
    return int.from_bytes(content, "little", signed=True)


def _decimal(line):
    # So has protocol 0 its booleans.
    return line == b"01" if line in (b"00", b"01") else int(line)


def _quoted(line):
    if len(line) < 2 or line[0] != line[-1] or line[0] not in b"'\"":
        raise ValueError("a string without quotes")
    return _latin1(codecs.escape_decode(line[1:-1])[0])


def _number(layout):
    layout = struct.Struct(layout)
    return lambda machine: layout.unpack(machine.read(layout.size))[0]


def _sized(number, convert):
    """As many bytes as a number before them says."""
    return lambda machine: convert(machine.read(number(machine)))


def _memory(number):
    """Bytes or, of many, an array of them, which nothing may change yet."""

    def make(machine):
        size = number(machine)
        if not _LONG <= size <= machine.size:
            return machine.read(size)
        values = np.empty(size, np.uint8)
        if machine.file.readinto(values) != size:
            raise EOFError(f"{size} more bytes are expected")
        values.flags.writeable = False
        return values

    return make


def _pushes(make):
    def step(machine):
        value = make(machine)  # Which may put another stack in place.
        machine.stack.append(value)

    return step


def _fills(fill, take):
    def step(machine):
        values = take(machine)
        fill(machine.stack[-1], values)

    return step


_u1, _u2, _u4, _u8 = map(_number, ("<B", "<H", "<I", "<Q"))
_i4 = _number("<i")
_PUSHED = {
    pickle.NONE: lambda m: None,
    pickle.NEWTRUE: lambda m: True,
    pickle.NEWFALSE: lambda m: False,
    pickle.INT: lambda m: _decimal(m.line()),
    pickle.LONG: lambda m: int(m.line().rstrip(b"L")),
    pickle.FLOAT: lambda m: float(m.line()),
    pickle.BININT: _i4,
    pickle.BININT1: _u1,
    pickle.BININT2: _u2,
    pickle.BINFLOAT: _number(">d"),
    pickle.LONG1: _sized(_u1, _integer),
    pickle.LONG4: _sized(_i4, _integer),
    pickle.STRING: lambda m: _quoted(m.line()),
    pickle.BINSTRING: _sized(_i4, _latin1),
    pickle.SHORT_BINSTRING: _sized(_u1, _latin1),
    pickle.UNICODE: lambda m: m.line().decode("raw-unicode-escape"),
    pickle.BINUNICODE: _sized(_u4, _utf8),
    pickle.SHORT_BINUNICODE: _sized(_u1, _utf8),
    pickle.BINUNICODE8: _sized(_u8, _utf8),
    pickle.BINBYTES: _memory(_u4),
    pickle.SHORT_BINBYTES: _memory(_u1),
    pickle.BINBYTES8: _memory(_u8),
    pickle.BYTEARRAY8: _memory(_u8),
    pickle.EMPTY_TUPLE: lambda m: (),
    pickle.TUPLE1: lambda m: tuple(m.last(1)),
    pickle.TUPLE2: lambda m: tuple(m.last(2)),
    pickle.TUPLE3: lambda m: tuple(m.last(3)),
    pickle.TUPLE: lambda m: tuple(m.above_mark()),
    pickle.EMPTY_LIST: lambda m: [],
    pickle.LIST: _Machine.above_mark,
    pickle.EMPTY_DICT: lambda m: {},
    pickle.DICT: lambda m: filled_dict({}, m.above_mark()),
    pickle.DUP: lambda m: m.stack[-1],
    pickle.GET: lambda m: m.memo[int(m.line())],
    pickle.BINGET: lambda m: m.memo[_u1(m)],
    pickle.LONG_BINGET: lambda m: m.memo[_u4(m)],
    pickle.GLOBAL: lambda m: m.name(_utf8(m.line()), _utf8(m.line())),
    pickle.STACK_GLOBAL: lambda m: m.name(*m.last(2)),
    pickle.REDUCE: _Machine.call,
}
_STEPS = {code: _pushes(make) for code, make in _PUSHED.items()} | {
    pickle.PROTO: _u1,
    pickle.FRAME: _u8,
    pickle.MARK: _Machine.mark,
    pickle.POP: lambda m: m.last(1) if m.stack else m.above_mark(),
    pickle.POP_MARK: _Machine.above_mark,
    pickle.APPEND: _fills(_fill_list, lambda m: m.last(1)),
    pickle.APPENDS: _fills(_fill_list, _Machine.above_mark),
    pickle.SETITEM: _fills(filled_dict, lambda m: m.last(2)),
    pickle.SETITEMS: _fills(filled_dict, _Machine.above_mark),
    pickle.BUILD: _fills(_build, lambda m: m.last(1)),
    pickle.PUT: lambda m: m.remember(int(m.line())),
    pickle.BINPUT: lambda m: m.remember(_u1(m)),
    pickle.LONG_BINPUT: lambda m: m.remember(_u4(m)),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
}
