"""Which variables the inner loop adapts; the others stay as they are.

Head only is ANIL (Raghu et al. 2020, arXiv:1909.09157), body only is BOIL
(Oh et al. 2021, arXiv:2008.08882).
"""

from collections.abc import Callable, Sequence

import keras

NAMED = ("head", "body", "batch_norm")
# What `selected` takes for a choice.
InnerVariables = str | Sequence[str] | Callable[[keras.Variable], bool] | None


def selected(model: keras.Model, choice: InnerVariables) -> list[bool]:
    """Whether each trainable variable of a model is adapted.

    Args:
        model: A built model.
        choice: `None` for all; `"head"`, the last layer with weights, in the
            order of `model.trainable_variables`; `"body"`, all others;
            `"batch_norm"`, the scales and offsets of
            batch normalisation; a layer's name or a variable's path, or a
            list of them; or a function of a `keras.Variable` that returns
            whether it is adapted.

    Returns:
        Booleans, in the order of `model.trainable_variables`.

    Raises:
        ValueError: If the choice is none of these, or leaves no variable.

    Example:

    ```python
    model.compile(..., inner_variables="head")
    model.compile(..., inner_variables=["conv2d_3", "dense"])
    model.compile(..., inner_variables=lambda v: v.path.endswith("bias"))
    ```
    """
    variables = model.trainable_variables
    if choice is None:
        return [True] * len(variables)
    if isinstance(choice, Callable) and not isinstance(choice, keras.Layer):
        chosen = [bool(choice(variable)) for variable in variables]
    else:
        names = [choice] if isinstance(choice, str) else choice
        chosen = _by_name(model, names)
    if not any(chosen):
        raise ValueError(
            "`inner_variables` must leave something to adapt. Received: "
            f"{choice!r}, which is none of the variables "
            f"{[v.path for v in variables]}."
        )
    return chosen


def _by_name(model, names):
    if not isinstance(names, (list, tuple)) or not all(
        isinstance(name, str) for name in names
    ):
        raise ValueError(
            f"`inner_variables` must be one of {NAMED}, names of layers or "
            "paths of variables, or a function of a variable. Received: "
            f"{names!r}."
        )
    ids = set()
    for name in names:
        found = _named(model, name)
        if not found:
            layers = [layer.name for layer, _ in _layers(model)]
            raise ValueError(
                f"`inner_variables` must name what is there: {NAMED}, layers, "
                f"or paths of variables. Received: {name!r}; the layers with "
                f"trainable variables are {layers}."
            )
        ids |= {id(variable) for variable in found}
    return [id(variable) in ids for variable in model.trainable_variables]


def _named(model, name):
    layers = model._flatten_layers(include_self=False)
    own_name = [
        v for x in layers if x.name == name for v in x.trainable_variables
    ]
    if name not in NAMED:
        return own_name or [
            v for v in model.trainable_variables if v.path == name
        ]
    found = _by_place(model, name)
    if own_name and {id(v) for v in own_name} != {id(v) for v in found}:
        raise ValueError(
            f"`inner_variables` has a meaning of its own for {name!r}, and "
            "the model has a layer of that name with other variables. "
            f"Received: {name!r}. Give paths of variables, or a function of a "
            "variable."
        )
    return found


def _by_place(model, name):
    layers = _layers(model)
    if name == "head":
        return layers[-1][1] if layers else []
    if name == "body":
        return [v for _, variables in layers[:-1] for v in variables]
    kind = keras.layers.BatchNormalization
    return [v for layer, vs in layers if isinstance(layer, kind) for v in vs]


def _layers(model):
    """Layers that hold trainable variables themselves, in the model's order.

    A layer made of layers counts by its parts.
    """
    found = []
    for layer in model._flatten_layers(include_self=False):
        parts = list(layer._flatten_layers(include_self=False))
        of_parts = {id(v) for part in parts for v in part.trainable_variables}
        own = [v for v in layer.trainable_variables if id(v) not in of_parts]
        if own:
            found.append((layer, own))
    order = {id(v): i for i, v in enumerate(model.trainable_variables)}
    return sorted(found, key=lambda pair: order[id(pair[1][0])])
