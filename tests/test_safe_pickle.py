"""Pickles that try to run code, and those that are only data."""

import collections
import copyreg
import os
import pickle
import struct

import numpy as np
import pytest
from pickle_bytes import TYPE, written

from keras_reptile.data import safe_pickle

DATA = {
    "array": np.arange(12, dtype="uint8").reshape(3, 4),
    "turned": np.arange(12, dtype="float32").reshape(3, 4).T,
    "slice": np.arange(12)[::2],
    "large": np.arange(2500, dtype=">i2").reshape(50, 50),
    "names": np.array(["n01532829", "a"]),
    "bytes": np.array([b"ab", b"c"]),
    "flags": np.array([True, False]),
    "none": np.zeros((0, 3), "int32"),
    "long": np.arange(600_000, dtype="uint16").reshape(2, -1),
    "long bytes": bytes(3) + b"ab" * 600_000,
    "numbers": [1, -2, 3.5, None, True, np.int64(7), np.float32(0.5)],
    "nested": {"tuple": (1, ("b",)), "é": collections.OrderedDict(a=[1])},
}


@pytest.mark.parametrize("protocol", range(6))
def test_data_is_read_as_it_was(tmp_path, protocol):
    path = written(tmp_path, pickle.dumps(DATA, protocol))
    read = safe_pickle.load(path)
    assert read.keys() == DATA.keys()
    for name, value in DATA.items():
        if isinstance(value, np.ndarray):
            # Of the machine's own order of bytes, as NumPy makes it.
            assert read[name].dtype == value.dtype.newbyteorder("=")
            assert read[name].flags.writeable
            assert read[name].tolist() == value.tolist()
        else:
            assert read[name] == value
    assert read["numbers"][5].dtype == np.int64


def test_what_python_2_and_numpy_1_wrote(tmp_path):
    # cPickle.dumps({"image_data": array([[1, 200]], uint8)}, 2), by hand.
    content = (
        b"\x80\x02}U\nimage_datacnumpy.core.multiarray\n_reconstruct\n"
        b"cnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01K\x01K\x02\x86"
        b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x02\x01\xc8tbs."
    )
    (image,) = safe_pickle.load(written(tmp_path, content)).values()
    assert image.dtype == np.uint8 and image.tolist() == [[1, 200]]


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


class Call:
    """Pickled as a call."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def attacks(marker):
    """Files by name, with what the refusal has to name."""
    command = f"touch {marker}"
    python = f"open({str(marker)!r}, 'w').close()"
    array = b"cnumpy.core.multiarray\n"
    yield "system", pickle.dumps(Call(os.system, command)), "system"
    yield "eval", pickle.dumps(Call(eval, python)), "builtins.eval"
    yield "exec", pickle.dumps(Call(exec, python), 0), "builtin.*exec"
    nested = Call(getattr, Call(__import__, "os"), "system")
    yield "getattr", pickle.dumps(nested), "builtins.(getattr|__import__)"
    # `getattr` by the dots of protocol 4's names.
    dotted = text("numpy") + text("dtype.__class__.__base__") + b"\x93."
    yield "dotted", b"\x80\x04" + dotted, "numpy.dtype.__class__"
    dotted = b"\x80\x04cnumpy.core.multiarray\n_reconstruct.__globals__\n."
    yield "globals", dotted, "_reconstruct.__globals__"
    for name in ("fromfile", "_fromfile", "set_string_function"):
        yield name, array + name.encode() + b"\n.", f"multiarray.{name}"
    # NumPy's own ways to read another pickle, or to import.
    call = b"(" + text(str(marker)) + b"tR."
    yield "np.load", b"cnumpy\nload\n" + call, "numpy.load"
    run = b"cnumpy.testing._private.utils\nrunstring\n("
    yield "runstring", run + text(python) + b"}tR.", "runstring"
    yield "INST", b"(" + text(command) + b"ios\nsystem\n.", "step INST"
    yield "OBJ", b"(cos\nsystem\n" + text(command) + b"o.", "os.system"
    new = b"csubprocess\nPopen\n" + text(command) + b"\x85\x81."
    yield "NEWOBJ", new, "subprocess.Popen"
    # A name that may stand in a file, changed or called in ways it may not.
    state = b"}" + text("__call__") + b"cos\nsystem\nsb."
    yield "BUILD", array + b"_reconstruct\n" + state, "os.system"
    state = b"N}" + text("_call") + text("x") + b"s\x86b."
    yield "slots", array + b"_reconstruct\n" + state, "change of .*_reconstruct"
    yield "ndarray", b"cnumpy\nndarray\n(K\x09tR.", "call of numpy.ndarray"
    codec = b"c_codecs\nencode\n" + text("x") + text("rot13") + b"\x86R."
    yield "codec", codec, "codec 'rot13'"
    yield "persistent", text("x") + b"Q.", "step BINPERSID"
    yield "persistent 0", b"Pabc\n.", "step PERSID"
    yield "buffer", b"\x80\x05\x97.", "step NEXT_BUFFER"
    # Objects in an array would come from anywhere.
    yield "objects", pickle.dumps(np.array([None, {}])), "dtype 'O8'"
    yield "records", pickle.dumps(np.zeros(2, "i4,f4")), "dtype 'V8'"
    yield "dates", pickle.dumps(np.zeros(2, "M8[s]")), "dtype 'M8'"
    # As `np.matrix` and other kinds of array do.
    yield "memmap", b"cnumpy\nmemmap\n.", "numpy.memmap"


NAMES = [name for name, _, _ in attacks("marker")]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_in_a_file_is_run(tmp_path, name):
    marker = tmp_path / "marker"
    content, refused = {n: (c, r) for n, c, r in attacks(marker)}[name]
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=refused) as error:
        safe_pickle.load(path)
    assert str(path) in str(error.value)
    assert "runs no code" in str(error.value)
    assert not marker.exists()


def test_the_attacks_are_ones(tmp_path):
    """By the ordinary reader they run, so the tests above mean something."""
    marker = tmp_path / "marker"
    contents = {name: content for name, content, _ in attacks(marker)}
    for name in ("system", "eval", "exec", "INST", "OBJ"):
        pickle.loads(contents[name])
        assert marker.exists(), name
        marker.unlink()


def test_registered_extensions_are_no_way_around(tmp_path):
    copyreg.add_extension("os", "system", 240)
    try:
        code = b"\x80\x02\x82\xf0"
        assert pickle.loads(code + b".") is os.system  # Remembered from here.
        marker = tmp_path / "marker"
        call = code + text(f"touch {marker}") + b"\x85R."
        with pytest.raises(ValueError, match="step EXT1"):
            safe_pickle.load(written(tmp_path, call))
        assert not marker.exists()
    finally:
        copyreg.remove_extension("os", "system", 240)


def array_with_state(state):
    """A file of an array whose state is given as a pickled tuple's inside."""
    head = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n"
    return head + b"K\x00\x85U\x01b\x87R(" + state + b"tb."


@pytest.mark.parametrize(
    "state, said",
    [
        (b"K\x01K\x09\x85" + TYPE + b"\x89U\x02ab", "2 bytes in place of 9"),
        (b"K\x01J\xff\xff\xff\xff\x85" + TYPE + b"\x89U\x00", r"shape \(-1\)"),
        (b"K\x01K\x02\x85K\x05\x89U\x02ab", "an array of int"),
        (b"K\x01K\x02\x85" + TYPE + b"\x89]", "out of a list"),
        (b"K\x01K\x02\x85" + TYPE + b"\x89", "not enough values"),
    ],
)
def test_arrays_that_would_lie_about_their_memory(tmp_path, state, said):
    path = written(tmp_path, array_with_state(state))
    with pytest.raises(ValueError, match=said):
        safe_pickle.load(path)


def test_an_array_larger_than_any_memory(tmp_path):
    shape = b"\x8a\x08" + (2**62).to_bytes(8, "little")
    state = b"K\x01" + shape + shape + b"\x86" + TYPE + b"\x89U\x00"
    path = written(tmp_path, array_with_state(state))
    with pytest.raises(ValueError, match=str(path)):
        safe_pickle.load(path)


def test_damaged_files_are_named(tmp_path):
    whole = pickle.dumps(DATA)
    for size in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        path = written(tmp_path, whole[:size])
        with pytest.raises(ValueError, match=f"{size} bytes.*get it again"):
            safe_pickle.load(path)
    path = written(tmp_path, b"\x89PNG, or anything")
    with pytest.raises(ValueError, match=str(path)):
        safe_pickle.load(path)
    with pytest.raises(FileNotFoundError):
        safe_pickle.load(tmp_path / "absent.pkl")


def test_strings_and_numbers_as_python_2_wrote_them(tmp_path):
    lines = b"(lp0\nS'a\\n\\xe9'\naS\"it's\"\naI01\naI-7\naL12345678901L\na"
    sizes = b"F0.5\naU\x02\xe9baT\x01\x00\x00\x00ca(dS'k'\ng0\nsa."
    *values, last = safe_pickle.load(written(tmp_path, lines + sizes))
    known = ["a\n\xe9", "it's", True, -7, 12345678901, 0.5, "\xe9b", "c"]
    assert values == known and values[2] is True
    assert last["k"][:8] == values  # The list itself.
    pairs = b"ccollections\nOrderedDict\n(](U\x01aK\x01latR."
    assert safe_pickle.load(written(tmp_path, pairs)) == {"a": 1}


def test_letters_that_do_not_exist_are_refused(tmp_path):
    array = np.full(3, 0x110000, ">u4").view(">U1")
    with pytest.raises(ValueError, match="letters that do not exist"):
        safe_pickle.load(written(tmp_path, pickle.dumps(array)))
