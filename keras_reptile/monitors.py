"""Which way is better, where a callback of Keras' monitors a measure."""

import keras


def choose_modes(callbacks, metrics: list) -> None:
    """Sets the `mode` of callbacks that leave it at `"auto"`.

    Keras then looks among the metrics of its own `compile`, where a MetaModel
    has none, and would give up at the end of the first epoch.

    Args:
        callbacks: As given to `fit`.
        metrics: Of the model.

    Raises:
        ValueError: If nothing says which way is better.
    """
    for callback in keras.tree.flatten(callbacks or []):
        # EarlyStopping, ModelCheckpoint, ReduceLROnPlateau and their like.
        asks = getattr(callback, "monitor_op", False) is None
        if asks and getattr(callback, "mode", None) == "auto":
            callback.mode = _better(callback, metrics)


def _better(callback, metrics):
    monitor = callback.monitor
    name = monitor.removeprefix("val_")
    directions = {m.name: getattr(m, "_direction", None) for m in metrics}
    if direction := directions.get(name):
        return {"up": "max", "down": "min"}[direction]
    if name.endswith("loss"):
        return "min"
    # Those that a MetaTrainer puts into the logs need no metric.
    if monitor.startswith("val_accuracy") and not monitor.endswith("_ci95"):
        return "max"
    raise ValueError(
        f"{type(callback).__name__} must be told which way '{monitor}' is "
        "better, if there is such a measure. Received: mode='auto', and of "
        f"metrics {', '.join(directions)}. Pass mode='max' or mode='min', or "
        "another `monitor`."
    )
