"""What `fit` reports of a meta-step's tasks, as Keras metrics."""

import inspect
import math

import keras
import tensorflow as tf

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
            if isinstance(metric, str):  # As Keras' own `compile` logs it.
                found.name = metric
            return found
        name = getattr(metric, "__name__", str(metric))
        return keras.metrics.MeanMetricWrapper(found, name=name)
    loss = keras.losses.get(loss)
    name = getattr(loss, "__name__", type(loss).__name__)
    if name not in _ACCURACIES:
        raise ValueError(
            f'The metric "{metric}" is not defined for the loss {name}. Pass '
            "a metric object, such as keras.metrics.CategoricalAccuracy(); for "
            'a regression, "mae" or another one of distances.'
        )
    return _ACCURACIES[name](name=metric)


class TaskMetrics:
    """Loss and metrics of the queries after adaptation, and the inner loss.

    Tasks whose inner loop did not stay finite are in none of these; there
    are `inner/nonfinite_tasks` of them since the beginning of the epoch.

    Args:
        loss: The loss, per example.
        metrics: As given to `compile`.
        replicas: How many there are, over which the metrics' states add up.

    Raises:
        ValueError: If a metric is unknown, or takes no weights where there
            are several replicas, of which some tasks only fill up.
    """

    def __init__(self, loss: PerExampleLoss, metrics, replicas: int = 1):
        self._loss_function = loss
        self._weighted = replicas > 1
        self._loss = _Mean(name="loss")
        self._inner_loss = _Mean(name="inner_loss")
        self._nonfinite = keras.metrics.Sum(name="inner/nonfinite_tasks")
        self._of_queries = resolve_metrics(metrics, loss.loss)
        for metric in self._of_queries:
            if replicas > 1 and not _takes_weights(metric):
                raise ValueError(
                    "With several replicas the `update_state` of a metric must "
                    "take `sample_weight`, by which tasks that only fill up a "
                    f"replica are left out. Received: '{metric.name}'."
                )
        self.of_queries = True

    @property
    def all(self) -> list:
        """Every metric, for Keras to reset."""
        of_inner_loop = [self._inner_loss, self._nonfinite]
        return [self._loss, *self._of_queries, *of_inner_loop]

    def update(self, tasks: Task, adapted: list, predict, real, counted):
        """Takes in a meta-step.

        Args:
            tasks: A batch of tasks.
            adapted: The state that each ended with.
            predict: A function `(state, x) -> outputs`.
            real: Whether each task counts, booleans of shape `(tasks,)`.
            counted: Whether it is also in the update, having stayed finite.
        """
        failed = tf.cast(real & ~counted, tf.float32)
        self._nonfinite.update_state(failed)
        inner = tf.stack([state.loss for state in adapted])
        inner = _zero_unless(counted, inner / tasks.batches.shape[1])
        self._inner_loss.update_state(inner, _weight(counted))
        each = tasks.query.x.shape[1]
        self.of_queries = each > 0
        if not self.of_queries:
            return
        x, y = (tf.unstack(part, len(adapted)) for part in tasks.query)
        outputs = [
            _zero_unless(counted[t], predict(state, x[t]))
            for t, state in enumerate(adapted)
        ]
        # By task, as a loss may look at the other examples of its batch.
        losses = tf.concat(list(map(self._loss_function, y, outputs)), 0)
        weights = tf.repeat(_weight(counted), each)
        self._loss.update_state(_zero_unless(weights > 0, losses), weights)
        for metric in self._of_queries:
            if type(metric) in _ACCURACIES.values():
                # Means over examples, for which all tasks are one batch.
                _update_one(
                    metric, tf.concat(y, 0), tf.concat(outputs, 0), weights
                )
            else:
                _update_by_task(counted, metric, y, outputs, self._weighted)

    def results(self, total=None) -> dict:
        """Results by name; without queries, those of the inner loop alone.

        Args:
            total: A function from the states of this replica, tensors, to
                their sums over all; `None` where there is one.

        Returns:
            Those of queries are NaN where no task was counted: 0 would be
            the best error there is.
        """
        shown = self.all if self.of_queries else self.all[-2:]
        if total is None:
            return self._by_name(shown)
        variables = [v for metric in shown for v in metric.variables]
        sums = total([tf.convert_to_tensor(v.value) for v in variables])
        with keras.StatelessScope(state_mapping=list(zip(variables, sums))):
            return self._by_name(shown)

    def _by_name(self, metrics):
        none = tf.convert_to_tensor(self._loss.count) == 0

        def unless_none(result):
            result = tf.convert_to_tensor(result)
            if not result.dtype.is_floating:
                return result
            return tf.where(none, tf.cast(math.nan, result.dtype), result)

        results = {metric.name: metric.result() for metric in metrics}
        for metric in self._of_queries if self.of_queries else ():
            results[metric.name] = tf.nest.map_structure(
                unless_none, results[metric.name]
            )
        return results


class _Mean(keras.metrics.Mean):
    """NaN of nothing."""

    def result(self):
        return self.total / self.count


def _update_by_task(counted, metric, y, outputs, weighted):
    for counts, *of_task in zip(tf.unstack(counted), y, outputs):
        if weighted:
            weights = tf.fill(tf.shape(of_task[1])[:1], _weight(counts))
            _update_one(metric, *of_task, sample_weight=weights)
        else:  # Some take none, or fail with some.
            _update_if(counts, metric, *of_task)


def _update_if(counts, metric, y, outputs):
    def update():
        _update_one(metric, y, outputs)
        return tf.constant(0)

    tf.cond(counts, update, lambda: tf.constant(0))


def _update_one(metric, y, outputs, *weights, **named):
    try:
        metric.update_state(y, outputs, *weights, **named)
    except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
        raise ValueError(
            "A metric must take the targets of queries, and the outputs of the "
            f"adapted model. Received: '{metric.name}', targets of shape "
            f"{y.shape} and outputs of shape {outputs.shape}. For labels, "
            "which are integers, choose one such as SparseCategoricalAccuracy, "
            f"or one of your own. It says: {error}"
        ) from error


def _weight(counts):
    return tf.cast(counts, tf.float32)


def _zero_unless(counted, values):
    # Not by a factor: 0 times NaN is NaN.
    return tf.where(counted, values, tf.zeros_like(values))


def _takes_weights(metric):
    parameters = inspect.signature(metric.update_state).parameters
    return "sample_weight" in parameters
