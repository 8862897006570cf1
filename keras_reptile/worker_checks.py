"""Refuses workers that would not do the same, before they wait for each other.

Several processes train one model: where one has other data, another seed or
other numbers of steps, the result is of neither, or they wait for ever.
"""

import json

import keras
import tensorflow as tf

from keras_reptile import settings, workers
from keras_reptile.descriptions import as_json, plain

# Of a function without a name Keras writes down its file, too, which may be
# in another place on every machine.
_UNNAMED = "__lambda__"
# Numbers of `fit`, and what they are where they are not given.
_OF_FIT = {
    "steps_per_epoch": None,
    "epochs": 1,
    "initial_epoch": 0,
    "validation_steps": None,
    "validation_freq": 1,
}


def check_same_fit(model, x, arguments: dict) -> None:
    """Refuses a `fit` that is another one on another worker.

    All of them have to call it. Of a dataset of one's own nothing is known
    but the shapes and dtypes of its elements.

    Args:
        model: A compiled `MetaModel`.
        x: The episodes.
        arguments: What else was given to `fit`, by name.

    Raises:
        ValueError: On all workers, if one differs from the chief.
    """
    if workers.number_of_workers(model.distribute_strategy) == 1:
        return
    callbacks = keras.tree.flatten(arguments.get("callbacks") or [])
    trainers = sum(hasattr(one, "before_fit") for one in callbacks)
    check_same(
        model.distribute_strategy,
        {
            **of_dataset(x),
            **{k: arguments.get(k, value) for k, value in _OF_FIT.items()},
            "validation_data": of_dataset(arguments.get("validation_data")),
            "number of MetaTrainers": trainers,
            "meta_step": model.meta_step,
            "steps_per_execution": model.steps_per_execution,
            **model.settings,
        },
    )


def of_dataset(dataset) -> dict:
    """What is known of a dataset without drawing from it; of `None`, nothing.

    Args:
        dataset: Tasks, or `None`.

    Returns:
        Settings by name.
    """
    if dataset is None:
        return {}
    elements = "shapes and dtypes of the tasks"
    return {elements: str(dataset.element_spec), **settings.of_stream(dataset)}


def check_same(strategy: tf.distribute.Strategy, given: dict) -> None:
    """Refuses settings that are others on another worker.

    Args:
        strategy: The one that the workers train under. All of them have to
            call this.
        given: Settings by name.

    Raises:
        ValueError: On all workers, if one differs from the chief.
    """
    if workers.number_of_workers(strategy) == 1:
        return
    here = {
        name: value
        for name, value in as_json(plain(given)).items()
        if _UNNAMED not in str(value)
    }
    chiefs = workers.from_chief(strategy, json.dumps(here).encode())
    differing = settings.difference(here, json.loads(chiefs))
    if not workers.any_worker(strategy, differing is not None):
        return
    received = "another worker that is not given what the chief is given"
    if differing is not None:
        name, ours, theirs = differing
        received = f"'{name}' is {ours} here, and {theirs} on the chief"
    raise ValueError(
        "All workers train one model, and must be given the same. Received: "
        f"{received}. Give them the same data in the same order, the same "
        "seeds and the same arguments."
    )
