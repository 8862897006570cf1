"""What a layer, optimizer, loss or algorithm is made of, as JSON has it."""

import contextlib
import dis
import functools
import inspect
import json
import zlib

import numpy as np

# Of a layer or optimizer: what differs between copies, or names its parts.
_LEFT_OUT = {"name", "layers", "input_layers", "output_layers"}
# Of an array or list, how many; more of them are told by a checksum.
_LARGEST_WRITTEN = 1_000
_DEPTH = 8
# Of a module, what a function may have been written to draw from.
# (Lists and dicts may be where it keeps what it has computed.)
_DATA = (bool, int, float, str, tuple, np.ndarray, np.generic)


def unwrapped(function):
    """What a partial is of; another function as it is."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def described(thing, depth=_DEPTH):
    """A layer's or optimizer's kind and settings; a function's name.

    Args:
        thing: A Keras object, a function, or an instance that is called as
            one. Of functions of one's own, defaults and what they were made
            with in another function belong to it: numbers, text, arrays,
            Keras objects, other functions. Of other objects, the kind.
        depth: How far functions in functions are looked into.
    """
    if isinstance(thing, functools.partial):
        arguments = plain([list(thing.args), thing.keywords])
        return [described(thing.func), *arguments]
    if inspect.isfunction(thing) and (bound := _bound(thing, depth)):
        return [thing.__name__, bound]
    if inspect.ismethod(thing) and not inspect.isclass(thing.__self__):
        if depth and not _is_of_a_library(thing):
            return [thing.__name__, described(thing.__self__, depth - 1)]
    if not hasattr(thing, "get_config"):
        own = getattr(thing, "__name__", None)
        state = getattr(thing, "__dict__", {})
        return own or [type(thing).__name__, plain(state)]
    try:
        config = thing.get_config()
    except NotImplementedError:  # As Keras says of a layer without its own.
        config = {}
    return [type(thing).__name__, _without_names(config)]


def _bound(function, depth):
    """What a function of one's own has besides its arguments, by name."""
    if _is_of_a_library(function) or not depth:
        return {}
    found = inspect.signature(function).parameters.values()
    bound = {p.name: p.default for p in found if p.default is not p.empty}
    for name, cell in zip(
        function.__code__.co_freevars, function.__closure__ or ()
    ):
        with contextlib.suppress(ValueError):  # Empty, until it is assigned.
            bound[name] = cell.cell_contents
    return {
        name: described(value, depth - 1)
        if inspect.isfunction(value) or hasattr(value, "get_config")
        else plain(value)
        for name, value in bound.items()
    }


def code_of(function) -> list:
    """What tells a function of one's own from an edited one.

    Args:
        function: Any callable.

    Returns:
        A checksum of what it, and the plain functions of its module that it
        calls by name, were compiled to, which may be another under another
        Python; and numbers, text, tuples and arrays of its module that they
        read, by name. Nothing where there is no code to be seen. What is
        reached in other ways, as by tables or objects, is not looked at.
    """
    function = inspect.unwrap(unwrapped(function))
    function = getattr(function, "__func__", function)
    if not inspect.isfunction(function):
        function = type(function).__call__
    if not inspect.isfunction(function):
        return []
    codes, names, todo, read = [], set(), [function.__code__], {}
    while todo:
        new = set()
        _gather(todo.pop(), codes, new)
        for name in sorted((new - names) & set(function.__globals__)):
            value = function.__globals__[name]
            if isinstance(value, _DATA) and not name.startswith("__"):
                read[name] = plain(value)
            elif not inspect.isfunction(value):
                continue
            elif value.__globals__ is function.__globals__:
                todo.append(value.__code__)
        names |= new
    return [zlib.crc32(repr(codes).encode()), read]


def _gather(code, codes, names):
    """Of a function and those within it, what is done and with what."""
    # A set's order is another in every process.
    own = [
        sorted(map(repr, c)) if isinstance(c, frozenset) else c
        for c in code.co_consts
        if not inspect.iscode(c)
    ]
    codes.append([code.co_code, code.co_names, own])
    done = {(i.opname, i.argval) for i in dis.get_instructions(code)}
    names.update(
        name
        for operation, name in done
        # What it writes itself, such as a count of calls, is no setting.
        if operation == "LOAD_GLOBAL" and ("STORE_GLOBAL", name) not in done
    )
    for inner in filter(inspect.iscode, code.co_consts):
        _gather(inner, codes, names)


def _is_of_a_library(function):
    package = (function.__module__ or "").split(".")[0]
    return package in ("keras", "keras_reptile")


def plain(value, depth=_DEPTH):
    """A value without what would be told apart by its place in memory."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (dict, list, tuple)) and depth:
        if isinstance(value, dict):
            return {str(k): plain(v, depth - 1) for k, v in value.items()}
        entries = [plain(entry, depth - 1) for entry in value]
        if len(entries) > _LARGEST_WRITTEN:
            return [len(entries), zlib.crc32(json.dumps(entries).encode())]
        return entries
    if hasattr(value, "assign"):  # A variable, whose value may change.
        return type(value).__name__
    if hasattr(value, "numpy") or isinstance(value, (np.ndarray, np.generic)):
        return _of_array(value)
    return getattr(value, "__name__", type(value).__name__)


def _of_array(value):
    array = value
    with contextlib.suppress(Exception):  # As of a tensor in a graph.
        array = np.asarray(value)
    kind = getattr(array, "dtype", np.dtype(object))
    if not isinstance(array, np.ndarray) or kind.hasobject:
        return type(value).__name__
    if array.size > _LARGEST_WRITTEN or kind.kind not in "biuf":
        return [list(array.shape), zlib.crc32(array.tobytes())]
    return array.tolist()


def _without_names(value):
    if isinstance(value, dict):
        # A dtype policy is its name.
        if "DTypePolicy" in str(value.get("class_name")):
            return value
        kept = value.keys() - _LEFT_OUT
        return {key: _without_names(value[key]) for key in sorted(kept)}
    if isinstance(value, (list, tuple)):
        return [_without_names(entry) for entry in value]
    return value


def as_json(settings):
    """Settings as they are when read back."""
    return json.loads(json.dumps(settings, default=plain))
