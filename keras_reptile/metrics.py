"""What `fit` reports of a meta-step's tasks, as Keras metrics."""

import keras

from keras_reptile.episodes import Task
from keras_reptile.losses import PerExampleLoss

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


class TaskMetrics:
    """Loss and metrics of the queries after adaptation, and the inner loss.

    Args:
        loss: The loss, per example.
        metrics: As given to `compile`.

    Raises:
        ValueError: If a metric is unknown.
    """

    def __init__(self, loss: PerExampleLoss, metrics):
        self._loss_function = loss
        self._loss = keras.metrics.Mean(name="loss")
        self._inner_loss = keras.metrics.Mean(name="inner_loss")
        self._of_queries = resolve_metrics(metrics, loss.loss)

    @property
    def all(self) -> list:
        """Every metric, for Keras to reset."""
        return [self._loss, *self._of_queries, self._inner_loss]

    def update(self, tasks: Task, adapted: list, predict) -> dict:
        """Takes in a meta-step.

        Args:
            tasks: A batch of tasks.
            adapted: The state that each ended with.
            predict: A function `(state, x) -> outputs`.

        Returns:
            Results by name; without queries, the inner loss alone.
        """
        steps = tasks.batches.shape[1]
        for state in adapted:
            self._inner_loss.update_state(state.loss / steps)
        if not tasks.query.x.shape[1]:
            return {"inner_loss": self._inner_loss.result()}
        for t, state in enumerate(adapted):
            x, y = tasks.query.x[t], tasks.query.y[t]
            outputs = predict(state, x)
            self._loss.update_state(self._loss_function(y, outputs))
            for metric in self._of_queries:
                metric.update_state(y, outputs)
        return {metric.name: metric.result() for metric in self.all}
