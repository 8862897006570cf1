"""The picture of a training, out of its TensorBoard logs."""

import pathlib

import tensorflow as tf
from tensorboard.backend.event_processing import event_accumulator

from trainers import common
from trainers.usage import UsageError


def draw(logdir) -> None:
    """Draws accuracy and loss by meta-iteration, where matplotlib is.

    Accuracy is that of the training tasks' queries, and that of validation
    where there was one, with its interval. The logs are read, and not what
    `fit` returns, as they have what was before a resumption. (What was before
    `MetaTrainer` logged the training tasks is not in the picture.)

    Args:
        logdir: The run's folder; the picture is its `training.png`.
    """
    try:
        figure, axes = common.new_figure(2)
    except UsageError as error:  # The run itself is whole.
        common.say(error)
        return
    logdir = pathlib.Path(logdir)
    by_step = logged(logdir / "meta_steps")
    for panel, name in zip(axes[0], ("accuracy", "inner_loss")):
        values = by_step.get(name, {})
        panel.plot(
            list(values),
            list(values.values()),
            marker=".",
            label="training tasks",
        )
        panel.set_xlabel("meta-iterations")
        panel.set_ylabel(name.replace("_", " "))
    validated = by_step.get("val_accuracy", {})
    if validated:
        widths = by_step["val_accuracy_ci95"]
        axes[0, 0].errorbar(
            list(validated),
            list(validated.values()),
            [widths[step] for step in validated],
            marker=".",
            capsize=2,
            label="validation",
        )
    axes[0, 0].legend()
    common.save_figure(figure, logdir / "training.png")
    common.say(f"Picture: {logdir / 'training.png'}.")


def logged(folder) -> dict:
    """Scalars in a folder of TensorBoard's, by name and step.

    Where a step was written twice, as by a run that was killed after its last
    checkpoint and gone on with, the later one counts.
    """
    if not folder.is_dir():
        return {}
    events = event_accumulator.EventAccumulator(
        str(folder),
        size_guidance={event_accumulator.TENSORS: 0},  # All of them.
    )
    events.Reload()
    return {
        name: {
            event.step: tf.make_ndarray(event.tensor_proto).item()
            for event in events.Tensors(name)
            if not event.tensor_proto.tensor_shape.dim
        }
        for name in events.Tags()["tensors"]
    }
