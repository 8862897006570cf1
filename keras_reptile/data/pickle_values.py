"""How the values of a pickle stand in its bytes.

Some take the bytes; others return functions that take them from a machine of
`pickle_machine`, which is where its file stands.
"""

import codecs
import struct

import numpy as np

# Longer bytes are read where an array can have them without a copy.
_LONG = 1 << 20


def latin1(content):
    """Text of one byte per letter."""
    return content.decode("latin1")


def utf8(content):
    """Text, with halves of letters if Python wrote them."""
    return content.decode("utf-8", "surrogatepass")


def integer(content):
    """An integer of as many bytes as there are."""
    return int.from_bytes(content, "little", signed=True)


def decimal(line):
    """An integer in digits."""
    # So has protocol 0 its booleans.
    return line == b"01" if line in (b"00", b"01") else int(line)


def quoted(line):
    """A string as Python 2 prints it."""
    if len(line) < 2 or line[0] != line[-1] or line[0] not in b"'\"":
        raise ValueError("a string without quotes")
    return latin1(codecs.escape_decode(line[1:-1])[0])


def number(layout):
    """A number of a `struct` layout."""
    layout = struct.Struct(layout)
    return lambda machine: layout.unpack(machine.read(layout.size))[0]


def sized(number, convert):
    """As many bytes as a number before them says."""
    return lambda machine: convert(machine.read(number(machine)))


def memory(number):
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


u1, u2, u4, u8 = map(number, ("<B", "<H", "<I", "<Q"))
i4 = number("<i")
