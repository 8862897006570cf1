"""Whole numbers from outside."""

import numpy as np

_LARGEST = np.iinfo(np.int64).max


def check_integer(
    name: str, value: object, least: int, remark: str = ""
) -> None:
    """Refuses what is no integer, or one that is out of range.

    Args:
        name: Of the argument.
        value: What was given for it.
        least: The smallest allowed; the largest is that of int64.
        remark: What else to say.

    Raises:
        ValueError: If it is refused.
    """
    integer = isinstance(value, (int, np.integer)) and not isinstance(
        value, bool
    )
    if not integer or value < least:
        allowed = f"an integer of at least {least}"
    elif value > _LARGEST:
        allowed = "less than 2**63"
    else:
        return
    raise ValueError(
        f"`{name}` must be {allowed}. Received: {name}={value!r}.{remark}"
    )
