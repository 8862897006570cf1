"""What a layer, optimizer, loss or algorithm is made of, as JSON has it."""

import contextlib
import functools
import inspect
import json
import zlib

import numpy as np

# Of a layer or optimizer: what differs between copies, or names its parts.
_LEFT_OUT = {"name", "layers", "input_layers", "output_layers"}
# Of an array, how many values; more of them are told by a checksum.
_LARGEST_WRITTEN = 1_000


def described(thing):
    """A layer's or optimizer's kind and settings; a function's name.

    Args:
        thing: A Keras object, a function, or an instance that is called as
            one. Of functions of one's own, defaults and what they were made
            with in another function belong to it.
    """
    if isinstance(thing, functools.partial):
        arguments = plain([list(thing.args), thing.keywords])
        return [described(thing.func), *arguments]
    if inspect.isfunction(thing) and (bound := _bound(thing)):
        return [thing.__name__, bound]
    if not hasattr(thing, "get_config"):
        own = getattr(thing, "__name__", None)
        state = getattr(thing, "__dict__", {})
        return own or [type(thing).__name__, plain(state)]
    try:
        config = thing.get_config()
    except NotImplementedError:  # As Keras says of a layer without its own.
        config = {}
    return [type(thing).__name__, _without_names(config)]


def _bound(function):
    """What a function of one's own has besides its arguments, by name."""
    if function.__module__.split(".")[0] in ("keras", "keras_reptile"):
        return {}
    found = inspect.signature(function).parameters.values()
    bound = {p.name: p.default for p in found if p.default is not p.empty}
    for name, cell in zip(
        function.__code__.co_freevars, function.__closure__ or ()
    ):
        with contextlib.suppress(ValueError):  # Empty, until it is assigned.
            bound[name] = cell.cell_contents
    return {name: _of_a_value(value) for name, value in bound.items()}


def _of_a_value(value):
    if hasattr(value, "assign"):  # A variable, which may change.
        return type(value).__name__
    if hasattr(value, "numpy") or isinstance(value, np.ndarray):
        value = np.asarray(value)
        if value.size > _LARGEST_WRITTEN:
            return [list(value.shape), zlib.crc32(value.tobytes())]
    return plain(value)


def plain(value):
    """A value without what would be told apart by its place in memory."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if hasattr(value, "numpy") or isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value).tolist()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return getattr(value, "__name__", type(value).__name__)


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
