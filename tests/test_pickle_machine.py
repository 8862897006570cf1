"""Pickles that would change, multiply or never end what they build."""

import pickle
import struct
import tracemalloc

import numpy as np
import pytest
from pickle_bytes import TYPE, as_bytes, written

from keras_reptile.data import pickle_machine, safe_pickle

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
