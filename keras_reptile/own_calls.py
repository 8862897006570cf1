"""A layer's `call`, or a function of a module, replaced for one thread.

Other threads, which may use the same model at the same time, keep what was
there; and so does this one afterwards.
"""

import contextlib
import threading

_LOCK = threading.Lock()
_of_this_thread = threading.local()


@contextlib.contextmanager
def replaced(owner, function, name: str = "call"):
    """Has `owner.name` be `function` in this thread, inside the context.

    Args:
        owner: A Keras layer or a module.
        function: Takes the arguments of what it replaces.
        name: Of what it replaces.
    """
    key = id(owner), name
    functions = _functions().setdefault(key, [])
    functions.append(function)
    with _LOCK:
        chooser = vars(owner).get(name)
        if not isinstance(chooser, _Chooser):
            chooser = _Chooser(owner, name)
            # Past Keras' attribute tracking: nothing of this is state.
            vars(owner)[name] = chooser
        chooser.users += 1
    try:
        yield
    finally:
        functions.pop()
        if not functions:
            del _functions()[key]
        with _LOCK:
            chooser.users -= 1
            if not chooser.users:
                chooser.take_out()


def current(owner, name: str = "call"):
    """What this thread calls by `owner.name` now, to be kept for later."""
    functions = _functions().get((id(owner), name))
    there = getattr(owner, name)
    if functions:
        return functions[-1]
    return there._own if isinstance(there, _Chooser) else there


def as_its_class(layer) -> bool:
    """Whether a layer calls what its class does, and nothing of its own."""
    return isinstance(vars(layer).get("call", _NOTHING), (_Nothing, _Chooser))


def _functions():
    if not hasattr(_of_this_thread, "functions"):
        _of_this_thread.functions = {}
    return _of_this_thread.functions


class _Nothing:
    """In place of what is not there."""


_NOTHING = _Nothing()


class _Chooser:
    """In place of a function while some thread has it replaced."""

    def __init__(self, owner, name):
        self._owner, self._name = owner, name
        self._own = getattr(owner, name)
        self._before = vars(owner).get(name, _NOTHING)
        self.users = 0

    def __call__(self, *args, **kwargs):
        functions = _functions().get((id(self._owner), self._name))
        function = functions[-1] if functions else self._own
        return function(*args, **kwargs)

    def take_out(self):
        if self._before is _NOTHING:
            del vars(self._owner)[self._name]
        else:
            vars(self._owner)[self._name] = self._before
