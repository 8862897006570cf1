"""What a run was made with, so that it is not resumed as another one.

A resumed run ends bitwise where an uninterrupted one ends only if nothing
that decides its numbers was changed in between. These settings are written
into every checkpoint and compared when it is restored.
"""

import dataclasses

import keras

from keras_reptile.descriptions import as_json, described, plain
from keras_reptile.stateless import without_decay

_PROTOCOL = "protocol of the evaluations"
CHECKSUM = "checksum of the data"
LABELS = "labels of the classes"
CODE = "code and data of what draws tasks"
DRAWN_BY = "tasks drawn by"
_UNDECAYED = "{}, not decayed"
# Of a layer: what decides what weights of given shapes compute.
_OF_COMPUTATION = {
    *("activation", "recurrent_activation", "negative_slope", "max_value"),
    *("strides", "padding", "dilation_rate", "groups", "data_format"),
    *("pool_size", "axis", "epsilon", "interpolation", "size", "dims"),
}
# What checkpoints of before do not say, though it was as it is now.
_NOT_ALWAYS_RECORDED = (
    *(CHECKSUM, CODE, "points", "distinct"),
    _UNDECAYED.format("optimizer"),
)


def of_model(
    model, compiled: dict, algorithm, inner_state: str, adapts: list
) -> dict:
    """Settings of a `MetaModel`, as JSON has them.

    Args:
        model: The inner model.
        compiled: The arguments of `compile`.
        algorithm: The algorithm's function.
        inner_state: As given to `MetaModel`.
        adapts: Whether the inner loop adapts each trainable variable.
    """
    settings = {
        f"layer {i}": described(layer)
        for i, layer in enumerate(model._flatten_layers(include_self=False))
    }
    settings |= {
        "algorithm": described(algorithm),
        "inner_state": inner_state,
        "inner_optimizer": described(compiled["inner_optimizer"]),
        "outer optimizer": described(compiled["optimizer"]),
        "loss": described(keras.losses.get(compiled["loss"])),
        "inner_reduction": compiled["inner_reduction"],
        "inner_weight_decay": plain(compiled["inner_weight_decay"]),
        "jit_compile": compiled["jit_compile"],
    }
    for name in ("optimizer", "inner_optimizer"):
        undecayed = without_decay(compiled[name], model.trainable_variables)
        if undecayed:
            settings[_UNDECAYED.format(name)] = undecayed
    if not all(adapts):
        settings["adapted variables"] = [
            i for i, adapted in enumerate(adapts) if adapted
        ]
    if compiled["convolution_dtype"] is not None:
        settings["convolution_dtype"] = compiled["convolution_dtype"]
    return as_json(settings)


def of_stream(dataset) -> dict:
    """Settings of a stream of `kr.data`; of another dataset, none."""
    if not hasattr(dataset, "starting_at"):
        return {}
    settings = {
        "episodes": dataclasses.asdict(dataset.spec),
        "classes": dataset.num_classes,
        **dataset.arguments,
    }
    return as_json(plain(settings))


def difference(here: dict, there: dict) -> tuple | None:
    """The first setting that differs.

    Returns:
        Its name, as `outer optimizer: learning_rate`, and what it is here and
        there; `None` if there is none.
    """
    here = _without_new_keys(here, there)
    if not (_PROTOCOL in here and _PROTOCOL in there):
        # A run may be watched from some day on, or no longer.
        here, there = ({**s, _PROTOCOL: None} for s in (here, there))
    return first_difference(here, there)


def first_difference(here: dict, there: dict) -> tuple | None:
    """As `difference`, of settings that are both of today.

    Args:
        here: Settings by name.
        there: Likewise.

    Returns:
        As `difference`.
    """
    differing = [key for key in there if here.get(key) != there[key]]
    differing += [key for key in here if key not in there]
    if not differing:
        return None
    name = differing[0]
    return _narrowed(name, here.get(name), there.get(name))


def _narrowed(name, here, there):
    """The part of a setting in which two of one kind differ."""
    both = isinstance(here, list) and isinstance(there, list)
    # Of a kind and its settings; of a mere list a place in it says nothing.
    of_a_kind = both and any(isinstance(part, dict) for part in here)
    if of_a_kind and len(here) == len(there):
        parts = enumerate(zip(here, there))
    elif isinstance(here, dict) and isinstance(there, dict):
        parts = ((k, (here[k], there.get(k))) for k in sorted(here))
    else:
        parts = ()
    for key, (ours, theirs) in parts:
        if ours != theirs:
            name = f"{name}: {key}" if isinstance(key, str) else name
            return _narrowed(name, ours, theirs)
    return name, here, there


def check_same(here: dict, there: dict, path) -> None:
    """Refuses to go on with a run under other settings.

    Raises:
        ValueError: If a setting differs; it says which and how.
    """
    if (differing := difference(here, there)) is None:
        return
    key, ours, theirs = differing
    raise ValueError(
        "A run can only be resumed with the settings it was started with, as "
        f"it would end elsewhere otherwise. Received: '{key}' is {ours} here, "
        f"and {theirs} in {path}. Use the same settings, or start a run in "
        "another folder."
    )


def check_same_layers(here: dict, there: dict, path) -> None:
    """Refuses weights of layers that compute something else.

    Args:
        here: Settings of the model.
        there: Of the one that the weights were written of; empty where they
            are not known.
        path: Of the weights.

    Raises:
        ValueError: If a layer is of another kind, or differs in its activation,
            strides or such. How weights begin and what is of training only may
            be otherwise.
    """
    here, there = _layers(here), _layers(there)
    if not there or len(here) != len(there):  # Others are told by their shapes.
        return
    for ours, theirs in zip(here, there):
        if ours != theirs:
            raise ValueError(
                "Weights can only be restored into the layers that they are "
                f"of. Received: a layer that is {ours} here, and {theirs} in "
                f"{path}. Build the same model, or use another checkpoint."
            )


def _layers(settings):
    """The kind of each layer, and what of its settings is computed by."""
    described = [v for k, v in settings.items() if k.startswith("layer ")]
    layers = []
    for kind, config in described:
        config = config if isinstance(config, dict) else {}
        # Code has its file and line in it, where it has no name.
        computed_by = {
            key: value
            for key, value in config.items()
            if key in _OF_COMPUTATION and "__lambda__" not in str(value)
        }
        if computed_by:  # Inputs, dropout and the like may be others.
            layers.append([kind, computed_by])
    return layers


def _without_new_keys(here, there):
    """Without what a checkpoint of before does not record."""
    return {
        key: _without_new_keys(value, there.get(key) or {})
        if isinstance(value, dict)
        else _of_before(value, there.get(key))
        for key, value in here.items()
        if key not in _NOT_ALWAYS_RECORDED or key in there
    }


def _of_before(value, there):
    """A function was recorded by its name only."""
    of_function = isinstance(value, list) and len(value) == 2
    return there if of_function and value[0] == there else value


def of_protocol(protocol, classes) -> dict:
    """Settings of an evaluation, as JSON has them.

    Args:
        protocol: A `Protocol`.
        classes: That it is carried out on; those of one's own need not have
            a checksum.
    """
    fields = {
        field.name: getattr(protocol, field.name)
        for field in dataclasses.fields(protocol)
    }
    fields[CHECKSUM] = getattr(classes, "checksum", None)
    return {_PROTOCOL: as_json(plain(fields))}
