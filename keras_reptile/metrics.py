"""Keras metrics from their names, as `keras.Model.compile` resolves them."""

import keras

_ACCURACIES = {
    "SparseCategoricalCrossentropy": keras.metrics.SparseCategoricalAccuracy,
    "sparse_categorical_crossentropy": (
        keras.metrics.SparseCategoricalAccuracy
    ),
    "CategoricalCrossentropy": keras.metrics.CategoricalAccuracy,
    "categorical_crossentropy": keras.metrics.CategoricalAccuracy,
    "BinaryCrossentropy": keras.metrics.BinaryAccuracy,
    "binary_crossentropy": keras.metrics.BinaryAccuracy,
}


def resolve_metrics(metrics, loss) -> list:
    """Turns names into metric objects.

    Args:
        metrics: A Keras metric, a function or a name, or a list of them;
            `"accuracy"` becomes the one that suits the loss.
        loss: The loss, as given to `compile`.

    Raises:
        ValueError: If `"accuracy"` is asked for and the loss does not say
            which is meant, or a name is unknown.
    """
    return [_resolve(metric, loss) for metric in as_list(metrics)]


def as_list(metrics) -> list:
    """One metric, several or none, as a list."""
    if isinstance(metrics, (list, tuple)):
        return list(metrics)
    return [] if metrics is None else [metrics]


def _resolve(metric, loss):
    if not isinstance(metric, str) or metric not in ("accuracy", "acc"):
        found = keras.metrics.get(metric)
        if isinstance(found, keras.metrics.Metric):
            return found
        name = getattr(metric, "__name__", str(metric))
        return keras.metrics.MeanMetricWrapper(found, name=name)
    loss = keras.losses.get(loss)
    name = getattr(loss, "__name__", type(loss).__name__)
    if name not in _ACCURACIES:
        raise ValueError(
            f'The metric "{metric}" is not defined for the loss {name}. Pass '
            "a metric object, such as keras.metrics.CategoricalAccuracy()."
        )
    return _ACCURACIES[name](name=metric)
