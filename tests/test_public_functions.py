"""What is public has type hints, and says what it takes and returns."""

import inspect

import pytest

import keras_reptile as kr

ROOMS = (
    kr,
    kr.algorithms,
    kr.analysis,
    kr.checkpoints,
    kr.data,
    kr.models,
    kr.schedules,
    kr.workers,
)


def public_functions():
    """Names and functions, those of public classes among them."""
    found = {}
    for room in ROOMS:
        for name in getattr(room, "__all__", dir(room)):
            thing = getattr(room, name)
            if name.startswith("_") or not _is_ours(thing):
                continue
            if inspect.isfunction(thing):
                found[f"{room.__name__}.{name}"] = thing
            elif inspect.isclass(thing):
                for method, function in inspect.getmembers(thing):
                    hidden = method.startswith("_") and method != "__init__"
                    if inspect.isfunction(function) and not hidden:
                        found[f"{name}.{method}"] = function
    return {name: f for name, f in found.items() if _is_ours(f)}


def _is_ours(thing):
    return (getattr(thing, "__module__", "") or "").startswith("keras_reptile")


FUNCTIONS = public_functions()
# Methods that Keras calls, and documents.
OF_KERAS = {
    name
    for name in FUNCTIONS
    if name.startswith(("MetaModel.", "MetaTrainer."))
    and any(
        hasattr(base, name.partition(".")[2])
        for cls in (kr.MetaModel, kr.MetaTrainer)
        for base in cls.__mro__
        if base.__module__.startswith("keras.")
    )
} - {"MetaModel.fit", "MetaModel.evaluate", "MetaModel.compile"}


def test_they_are_found():
    expected = {
        "keras_reptile.evaluate",
        "MetaModel.adapt",
        "MetaModel.fit",
        "ClassDataset.episodes",
        "keras_reptile.checkpoints.restore",
    }
    assert expected <= set(FUNCTIONS)
    assert "MetaModel.adapt" not in OF_KERAS


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_public_functions_have_type_hints(name):
    signature = inspect.signature(FUNCTIONS[name])
    bare = [
        p.name
        for p in signature.parameters.values()
        if p.name != "self"
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and p.annotation is p.empty
    ]
    assert not bare
    if not name.endswith("__init__"):
        assert signature.return_annotation is not signature.empty


@pytest.mark.parametrize("name", sorted(set(FUNCTIONS) - OF_KERAS))
def test_public_functions_say_what_they_take_and_return(name):
    function = FUNCTIONS[name]
    if name.endswith("__init__"):
        return  # The class says it.
    text = inspect.getdoc(function)
    assert text
    parameters = [p for p in inspect.signature(function).parameters]
    for parameter in set(parameters) - {"self", "args", "kwargs"}:
        assert f"    {parameter}: " in text
    several_lines = "\n" in text
    if several_lines and inspect.signature(function).return_annotation:
        assert "Returns:" in text
