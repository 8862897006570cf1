"""Takes the steps of a pickle one by one: those that plain data needs.

`pickle.Unpickler` reserves memory by a number in the file, hashes whatever
stands as a key, and lets the file change what it made, also when something
else already relies on it. Here a file can fill its lists and dicts, and all
else is for the functions to say that it may name.
"""

import dataclasses
import os
import pickle
import pickletools
from collections.abc import Callable

import numpy as np

from keras_reptile.data.pickle_values import (
    decimal,
    i4,
    integer,
    latin1,
    memory,
    number,
    quoted,
    sized,
    u1,
    u2,
    u4,
    u8,
    utf8,
)

# A list of 60,000 arrays, all of mini-ImageNet, takes less than two million.
MOST_STEPS = 10_000_000
# As keys of a dict, to which each may be compared.
MOST_NUMBERS = 1_000


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


_PUSHED = {
    pickle.NONE: lambda m: None,
    pickle.NEWTRUE: lambda m: True,
    pickle.NEWFALSE: lambda m: False,
    pickle.INT: lambda m: decimal(m.line()),
    pickle.LONG: lambda m: int(m.line().rstrip(b"L")),
    pickle.FLOAT: lambda m: float(m.line()),
    pickle.BININT: i4,
    pickle.BININT1: u1,
    pickle.BININT2: u2,
    pickle.BINFLOAT: number(">d"),
    pickle.LONG1: sized(u1, integer),
    pickle.LONG4: sized(i4, integer),
    pickle.STRING: lambda m: quoted(m.line()),
    pickle.BINSTRING: sized(i4, latin1),
    pickle.SHORT_BINSTRING: sized(u1, latin1),
    pickle.UNICODE: lambda m: m.line().decode("raw-unicode-escape"),
    pickle.BINUNICODE: sized(u4, utf8),
    pickle.SHORT_BINUNICODE: sized(u1, utf8),
    pickle.BINUNICODE8: sized(u8, utf8),
    pickle.BINBYTES: memory(u4),
    pickle.SHORT_BINBYTES: memory(u1),
    pickle.BINBYTES8: memory(u8),
    pickle.BYTEARRAY8: memory(u8),
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
    pickle.BINGET: lambda m: m.memo[u1(m)],
    pickle.LONG_BINGET: lambda m: m.memo[u4(m)],
    pickle.GLOBAL: lambda m: m.name(utf8(m.line()), utf8(m.line())),
    pickle.STACK_GLOBAL: lambda m: m.name(*m.last(2)),
    pickle.REDUCE: _Machine.call,
}
_STEPS = {code: _pushes(make) for code, make in _PUSHED.items()} | {
    pickle.PROTO: u1,
    pickle.FRAME: u8,
    pickle.MARK: _Machine.mark,
    pickle.POP: lambda m: m.last(1) if m.stack else m.above_mark(),
    pickle.POP_MARK: _Machine.above_mark,
    pickle.APPEND: _fills(_fill_list, lambda m: m.last(1)),
    pickle.APPENDS: _fills(_fill_list, _Machine.above_mark),
    pickle.SETITEM: _fills(filled_dict, lambda m: m.last(2)),
    pickle.SETITEMS: _fills(filled_dict, _Machine.above_mark),
    pickle.BUILD: _fills(_build, lambda m: m.last(1)),
    pickle.PUT: lambda m: m.remember(int(m.line())),
    pickle.BINPUT: lambda m: m.remember(u1(m)),
    pickle.LONG_BINPUT: lambda m: m.remember(u4(m)),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
}
