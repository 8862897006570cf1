"""Refuses workers that would not do the same, before they wait for each other.

Several processes train one model: where one has other data, another seed or
other numbers of steps, the result is of neither, or they wait for ever.
"""

import json

import keras
import tensorflow as tf

from keras_reptile import settings, workers
from keras_reptile.descriptions import as_json, plain

# Numbers of `fit`, and what they are where they are not given.
_OF_FIT = {
    "steps_per_epoch": None,
    "epochs": 1,
    "initial_epoch": 0,
    "validation_steps": None,
    "validation_freq": 1,
}
# Settings of a model that change what a worker adds to the others'. Layers are
# left out: Keras writes the files of functions without a name into them.
_OF_MODEL = (
    "outer optimizer",
    "inner_optimizer",
    "inner_state",
    "inner_reduction",
    "inner_weight_decay",
    "adapted variables",
    "convolution_dtype",
)
# Of a function: what it was made with may be other folders, or caches.
_OF_FUNCTIONS = (settings.CODE, settings.DRAWN_BY)


def check_same_fit(model, x, arguments: dict) -> None:
    """Refuses a `fit` that is another one on another worker.

    All of them have to call it. Of a dataset of one's own nothing is known
    but its length and the shapes and dtypes of its elements.

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
    check_same(
        model.distribute_strategy,
        {
            **of_dataset(x),
            **{k: arguments.get(k, value) for k, value in _OF_FIT.items()},
            "validation_data": of_dataset(arguments.get("validation_data")),
            "number of MetaTrainers": sum(
                hasattr(one, "before_fit") for one in callbacks
            ),
            "meta_step": model.meta_step,
            "steps_per_execution": model.steps_per_execution,
            "metrics": [metric.name for metric in model.metrics],
            **{key: model.settings.get(key) for key in _OF_MODEL},
        },
    )


def of_dataset(dataset) -> dict:
    """What is known of a dataset without drawing from it; of `None`, nothing.

    Args:
        dataset: Of tasks, or `None`.

    Returns:
        Settings by name.
    """
    if not isinstance(dataset, tf.data.Dataset):
        return {}
    given = {
        "shapes and dtypes of the tasks": str(dataset.element_spec),
        "number of elements": int(dataset.cardinality()),
        **settings.of_stream(dataset),
    }
    return {k: v for k, v in given.items() if k not in _OF_FUNCTIONS}


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
    here = as_json(plain(given))
    sent = workers.from_chief(strategy, json.dumps(here).encode())
    chiefs = json.loads(sent)
    differs = here != chiefs
    if not workers.any_worker(strategy, differs):
        return
    received = "another worker that is not given what the chief is given"
    if differs:
        name, ours, theirs = settings.first_difference(here, chiefs)
        received = f"'{name}' is {ours} here, and {theirs} on the chief"
    raise ValueError(
        "All workers train one model, and must be given the same. Received: "
        f"{received}. Give them the same data in the same order, the same "
        "seeds and the same arguments."
    )
