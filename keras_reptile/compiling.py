"""What `MetaModel.compile` decides and refuses."""

import keras
from absl import logging

from keras_reptile import lowering


def check_outer_loop(optimizer, inner_state: str, replicas: int) -> None:
    """Refuses outer optimizers and devices that a meta-step cannot serve.

    Args:
        optimizer: The outer optimizer.
        inner_state: As given to `MetaModel`.
        replicas: Devices in sync.

    Raises:
        ValueError: If slots are carried over several devices, or the
            optimizer does not step at every meta-step.
    """
    if inner_state == "carry" and replicas > 1:
        raise ValueError(
            'inner_state="carry" passes the slots from task to task, so '
            "the tasks cannot be shared out among devices. Received: "
            f'{replicas} replicas. Use inner_state="average".'
        )
    if optimizer.gradient_accumulation_steps:
        raise ValueError(
            "The outer optimizer must take a step at every meta-step. "
            "Received: one with gradient_accumulation_steps. Raise "
            "`meta_batch_size` instead, which averages over more tasks."
        )


def whether_to_jit(jit_compile, model: keras.Model) -> bool:
    """Whether XLA compiles the inner loop; says why, where it does not.

    Args:
        jit_compile: True, False or `"auto"`.
        model: The inner model.

    Raises:
        ValueError: If `jit_compile` is something else.
    """
    if jit_compile not in (True, False, "auto"):
        raise ValueError(
            '`jit_compile` must be True, False or "auto". Received: '
            f"{jit_compile!r}."
        )
    on_averages = lowering.left_on_moving_averages(model)
    if on_averages:
        logging.warning(
            "The batch normalisation layers %s normalise queries with their "
            "moving averages, which meta-training does not update.",
            ", ".join(on_averages),
        )
    if jit_compile != "auto":
        return jit_compile
    slow = lowering.slow_when_compiled(model)
    if slow:
        logging.info(
            "The inner loop is not compiled by XLA, because of the layers %s.",
            ", ".join(slow),
        )
    return not slow
