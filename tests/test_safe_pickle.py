"""Pickles that try to run code, and those that are only data."""

import collections
import copyreg
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from keras_reptile.data import pickle_machine, safe_pickle


def written(tmp_path, content):
    path = tmp_path / "data.pkl"
    path.write_bytes(content)
    return path


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


TYPE = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R"


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


def as_bytes(value):
    return b"B" + struct.pack("<I", len(value)) + value


ARRAY = (
    b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b"
)
ARRAY += b"\x87R"  # Before its state.
STATE = b"(K\x01K\x02\x85" + TYPE + b"\x89" + as_bytes(b"ab") + b"t"
BUILT = ARRAY + STATE + b"bq\x01"
VIEW = b"cnumpy.core.numeric\n_frombuffer\n(h\x01" + TYPE + b"K\x02\x85U\x01CtR"
ORDER = b"(K\x03U\x01>NNNK\x00K\x00K\x00tb"


@pytest.mark.parametrize(
    "content, said",
    [
        # NumPy would free the memory that a view of the array still has.
        (BUILT + VIEW + b"h\x01" + STATE + b"b.", "array out of a Array"),
        (BUILT + STATE + b"b.", "a change of an array"),
        (BUILT + b"K\x00K\x09s.", "a change of Array"),
        (BUILT + b"K\x09a.", "a change of Array"),
        (BUILT + b"(K\x09e.", "a change of Array"),
        (BUILT + b")R.", "a call of Array"),
        (b"U\x02u1K\x09a.", "a change of 'u1'"),
        (b")K\x00K\x09s.", "a change of tuple"),
        (b"U\x02u1)b.", "a change of 'u1'"),
        (TYPE + ORDER + ORDER + b".", "the byte order '>'"),
        (b"cnumpy\ndtype\n)b.", "a change of numpy.dtype"),
        # And neither is there at the end.
        (ARRAY + b".", "TypeError"),
        (TYPE + b".", "ElementType by itself"),
        (b"cnumpy\nndarray\n.", "numpy.ndarray by itself"),
    ],
)
def test_what_a_file_made_it_cannot_change(tmp_path, content, said):
    with pytest.raises(ValueError, match=said):
        safe_pickle.load(written(tmp_path, b"\x80\x02" + content))


def sharing(size, count):
    """A tuple of bytes and of arrays of those."""
    state = b"(K\x01J" + struct.pack("<i", size) + b"\x85" + TYPE + b"\x89h\x01"
    arrays = (ARRAY + state + b"tb") * count
    return b"\x80\x02(" + as_bytes(bytes(size)) + b"q\x01" + arrays + b"t."


@pytest.mark.parametrize("size", [100, 2**21])
def test_arrays_of_the_same_bytes_have_their_own_memory(tmp_path, size):
    path = written(tmp_path, sharing(size, 2))
    read, first, second = safe_pickle.load(path)
    first[:] = 1
    assert read == bytes(size) and not second.any()


@pytest.mark.parametrize("size", [4096, 2**21])
def test_a_few_bytes_do_not_make_many(tmp_path, size):
    path = written(tmp_path, sharing(size, 100))
    with pytest.raises(ValueError, match="more bytes than it has"):
        safe_pickle.load(path)


X = b"X" + struct.pack("<I", 4096) + b"x" * 4096
BY_CALLS = [
    X + b"q\x01c_codecs\nencode\nq\x02" + b"0h\x02h\x01U\x06latin1\x86R" * 500,
    as_bytes(bytes(255))
    + b"q\x01cnumpy\ndtype\nU\x04S255\x85Rq\x02"
    + b"cnumpy.core.multiarray\nscalar\nq\x03"
    + b"0h\x03h\x02h\x01\x86R" * 500,
]


@pytest.mark.parametrize("content", BY_CALLS, ids=["encode", "scalar"])
def test_nor_do_a_few_calls(tmp_path, content):
    with pytest.raises(ValueError, match="more bytes than it has"):
        safe_pickle.load(written(tmp_path, b"\x80\x02" + content + b"."))


def test_nor_does_a_list_of_pairs(tmp_path):
    pairs = b"](" + b"(U\x01aK\x09t" * 9 + b"eq\x01"
    made = b"ccollections\nOrderedDict\nh\x01\x85R"
    first, second = safe_pickle.load(
        written(tmp_path, b"(" + pairs + b"0" + made * 2 + b"t.")
    )
    assert first == {"a": 9} and second == {}


@pytest.mark.parametrize(
    "content, said",
    [
        # A call with bytes, of which each would become a number.
        (b"cnumpy\ndtype\n" + as_bytes(bytes(2**21)) + b"R.", "call with a"),
        # A product of sizes that would not end.
        (
            ARRAY
            + b"(K\x01"
            + b"(\x8b"
            + struct.pack("<i", 9)
            + bytes(8)
            + b"\x01q\x01"
            + b"h\x01" * 63
            + b"t",
            "of shape",
        ),
        (
            b"(NI1\nd(" + b"".join(b"I%d\nN" % i for i in range(2000)) + b"u.",
            "a number as a key beside 1,000",
        ),
        (b"Nr" + struct.pack("<I", 2**27) + b".", "out of range"),
        (b"Nq\x02.", "out of range"),
    ],
    ids=["bytes", "sizes", "keys", "memo", "a gap"],
)
def test_what_would_take_memory_or_time(tmp_path, content, said):
    if said == "of shape":
        content += TYPE + b"\x89U\x00tb."
    with pytest.raises(ValueError, match=said):
        safe_pickle.load(written(tmp_path, content))


def doubled(levels, start=b"]", twice=b"]h\x01ah\x01a"):
    """Of few bytes, but with 2 ** levels places."""
    return start + (b"q\x010" + twice) * levels


TUPLES = doubled(26, b")", b"h\x01h\x01\x86")
DEEP = b")" + b"\x85" * 10**5


@pytest.mark.parametrize("key", [TUPLES, DEEP], ids=["shared", "deep"])
@pytest.mark.parametrize(
    "before, after",
    [
        (b"}", b"Ns."),
        (b"}(", b"Nu."),
        (b"(", b"Nd."),
        (b"ccollections\nOrderedDict\n]", b"N\x86a\x85R."),
    ],
)
def test_keys_whose_hash_would_not_end(tmp_path, key, before, after):
    with pytest.raises(ValueError, match="a key that is a tuple"):
        safe_pickle.load(written(tmp_path, before + key + after))


def test_keys_that_are_read(tmp_path):
    data = {"a": 1, b"b": 2, 3: 3, np.int64(4): 4, np.str_("c"): 5, 2**63: 6}
    data |= {None: 7, 0.5: 8}
    assert safe_pickle.load(written(tmp_path, pickle.dumps(data))) == data
    with pytest.raises(ValueError, match="a key of more than 64 bits"):
        safe_pickle.load(written(tmp_path, pickle.dumps({2**64: 1})))


LETTERS = X.replace(b"x", b"u")


@pytest.mark.parametrize(
    "content, said",
    [
        (doubled(22) + b"Q.", "step BINPERSID"),
        (b"cnumpy\ndtype\n" + doubled(22) + b"\x85R.", "dtype list"),
        (b"cnumpy\ndtype\n" + LETTERS + b"\x85R.", "dtype 'u+'[.]"),
        (TYPE + b"(K\x03" + doubled(22) + b"NNNtb.", "order list"),
        (b"c_codecs\nencode\nU\x01x" + doubled(22) + b"\x86R.", "codec list"),
        (b"c_codecs\nencode\nU\x01x" + LETTERS + b"\x86R.", "codec 'u+'[.]"),
        (LETTERS + LETTERS + b"\x93.", "u+[.]u+"),
        (LETTERS + b")b.", "a change of 'u+'[.]"),
        (b"I" + b"u" * 4096 + b"\n.", "invalid literal"),
        (b"F" + b"u" * 4096 + b"\n.", "could not convert"),
        (b"cnumpy\ndtype\nU\x02S0\x85R.", "dtype 'S0'"),
    ],
)
def test_messages_are_short_whatever_they_name(tmp_path, content, said):
    with pytest.raises(ValueError, match=said) as error:
        safe_pickle.load(written(tmp_path, b"\x80\x02" + content))
    assert len(str(error.value)) < 800


@pytest.mark.parametrize(
    "inner", [b"\x85", b"q\x01]h\x01a", b"q\x01}K\x01h\x01s"]
)
def test_so_many_levels_are_read(tmp_path, inner):
    read = safe_pickle.load(written(tmp_path, b")" + inner * 99 + b"."))
    for _ in range(99):
        (read,) = read.values() if isinstance(read, dict) else read
    assert read == ()
    for levels in (100, 10**4):
        path = written(tmp_path, b")" + inner * levels + b".")
        with pytest.raises(ValueError, match="more than 100 levels"):
            safe_pickle.load(path)


def test_levels_are_counted_on_the_longest_way(tmp_path):
    # The first place of each is near, the last one far.
    deep = b"(" + b")q\x01" + b"(h\x01tq\x01" * 99 + b"t."
    with pytest.raises(ValueError, match="more than 100 levels"):
        safe_pickle.load(written(tmp_path, deep))


def test_what_is_shared_or_holds_itself_is_walked_once(tmp_path):
    array = np.arange(3)
    shared = (array, [array])
    for _ in range(60):
        shared = (shared, shared)
    itself = [array, {}]
    itself[1]["again"] = itself
    data = [array, shared, itself]
    array, shared, itself = safe_pickle.load(
        written(tmp_path, pickle.dumps(data))
    )
    for _ in range(60):
        assert shared[0] is shared[1]
        shared = shared[0]
    assert array.tolist() == [0, 1, 2]
    assert shared[0] is shared[1][0] is itself[0] is array
    assert itself[1]["again"] is itself
    data = ([],)
    data[0].append(data)
    with pytest.raises(ValueError, match="a tuple that holds itself"):
        safe_pickle.load(written(tmp_path, pickle.dumps(data)))


@pytest.fixture
def peak():
    """Of memory, since it was last asked."""

    def peak():
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        return most

    tracemalloc.start()
    yield peak
    tracemalloc.stop()


def test_memory_is_not_taken_for_what_is_not_there(tmp_path, peak):
    for step, layout in ((b"B", "<I"), (b"\x8e", "<Q"), (b"X", "<I")):
        path = written(tmp_path, step + struct.pack(layout, 2**29) + b"x.")
        with pytest.raises(ValueError, match="more bytes are expected"):
            safe_pickle.load(path)
        assert peak() < 1e6
    path = written(tmp_path, b"]p99999999999\n.")
    with pytest.raises(ValueError, match="a number out of range"):
        safe_pickle.load(path)


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_an_array_is_read_where_it_stays(tmp_path, peak, protocol):
    array = np.arange(2**21, dtype="uint16")
    path = written(tmp_path, pickle.dumps({"x": array}, protocol))
    peak()
    before = tracemalloc.get_traced_memory()[0]
    read = safe_pickle.load(path)
    assert peak() - before < 1.1 * array.nbytes
    np.testing.assert_array_equal(read["x"], array)


def test_steps_are_counted(tmp_path, monkeypatch):
    path = written(tmp_path, pickle.dumps(list(range(100)), 2))
    assert len(safe_pickle.load(path)) == 100
    monkeypatch.setattr(pickle_machine, "MOST_STEPS", 100)
    with pytest.raises(ValueError, match="more than 100 steps"):
        safe_pickle.load(path)


def test_letters_that_do_not_exist_are_refused(tmp_path):
    array = np.full(3, 0x110000, ">u4").view(">U1")
    with pytest.raises(ValueError, match="letters that do not exist"):
        safe_pickle.load(written(tmp_path, pickle.dumps(array)))
