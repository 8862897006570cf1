"""A layer's `call`, replaced for one thread and for a while.

Other threads, which may use the same model at the same time, keep the layer's
own; and so does this one afterwards.
"""

import contextlib
import threading

_LOCK = threading.Lock()
_of_this_thread = threading.local()


@contextlib.contextmanager
def replaced(layer, function):
    """Has a layer call `function` in this thread, inside the context.

    Args:
        layer: A Keras layer.
        function: Takes the arguments of the layer's `call`.
    """
    functions = _functions(layer)
    functions.append(function)
    with _LOCK:
        chooser = vars(layer).get("call")
        if not isinstance(chooser, _Chooser):
            chooser = _Chooser(layer)
            # Past Keras' attribute tracking: nothing of this is state.
            vars(layer)["call"] = chooser
        chooser.users += 1
    try:
        yield
    finally:
        functions.pop()
        if not functions:
            del _of_this_thread.by_layer[id(layer)]
        with _LOCK:
            chooser.users -= 1
            if not chooser.users:
                chooser.take_out()


def as_its_class(layer) -> bool:
    """Whether a layer calls what its class does, and nothing of its own."""
    return isinstance(vars(layer).get("call", _NOTHING), (_Nothing, _Chooser))


def _functions(layer):
    if not hasattr(_of_this_thread, "by_layer"):
        _of_this_thread.by_layer = {}
    return _of_this_thread.by_layer.setdefault(id(layer), [])


class _Nothing:
    """In place of what is not there."""


_NOTHING = _Nothing()


class _Chooser:
    """A layer's `call` while some thread has it replaced."""

    def __init__(self, layer):
        self._layer, self._own = layer, layer.call
        self._before = vars(layer).get("call", _NOTHING)
        self.users = 0

    def __call__(self, *args, **kwargs):
        by_layer = getattr(_of_this_thread, "by_layer", {})
        functions = by_layer.get(id(self._layer))
        function = functions[-1] if functions else self._own
        return function(*args, **kwargs)

    def take_out(self):
        if self._before is _NOTHING:
            del vars(self._layer)["call"]
        else:
            vars(self._layer)["call"] = self._before
