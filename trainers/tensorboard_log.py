"""Results in TensorBoard, beside the curves of the training."""

from keras_reptile import scalars
from trainers import strategy


def write(folder, by_step: dict) -> None:
    """Adds numbers to what TensorBoard shows; all workers call it.

    Args:
        folder: Of a run of its own, by which TensorBoard names it.
        by_step: From a step to its numbers by name.
    """
    writer = scalars.Scalars(str(folder))
    writer.open(strategy.chosen())
    for step, numbers in by_step.items():
        writer.write(int(step), numbers)
    writer.close()
