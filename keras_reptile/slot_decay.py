"""How much an inner optimizer's slot keeps of its old value in a step.

Adam's second moment is `v' = 0.999 v + 0.001 g**2`: linear in its old value,
by a factor that is the same in every step. Of such slots one can say what
several tasks, one after another, would leave, from what each of them does
alone: `0.999**n v` plus what the task adds.
"""

from typing import NamedTuple

import keras


class Decay(NamedTuple):
    """Of one slot.

    `factor` is what is left of an old value after one inner step; `adds_only`
    says that whatever a step adds is not negative, as with second moments.
    """

    factor: float
    adds_only: bool


def _of_adam(settings):
    return {
        "momentum": Decay(settings["beta_1"], False),
        "velocity": Decay(settings["beta_2"], True),
    }


# From an optimizer's settings to its slots, by the end of their names. What is
# not linear is left out: the largest velocity of amsgrad, and the momentum of
# RMSprop, which is of another slot as well.
_OF_OPTIMIZERS = {
    keras.optimizers.SGD: lambda settings: {
        "momentum": Decay(settings["momentum"], False)
    },
    keras.optimizers.Adam: _of_adam,
    keras.optimizers.AdamW: _of_adam,
    keras.optimizers.Lamb: _of_adam,
    keras.optimizers.RMSprop: lambda settings: {
        "velocity": Decay(settings["rho"], True),
        "average_gradient": Decay(settings["rho"], False),
    },
    keras.optimizers.Adagrad: lambda _: {"accumulator": Decay(1.0, True)},
    keras.optimizers.Lion: lambda settings: {
        "momentum": Decay(settings["beta_2"], False)
    },
}
_KNOWN = (
    "SGD, Adam, AdamW, Lamb, RMSprop, Adagrad or Lion, without amsgrad and "
    "without RMSprop's momentum"
)


def of_slots(
    optimizer: keras.optimizers.Optimizer, variables: list
) -> list[Decay | None]:
    """The decay of each slot.

    Args:
        optimizer: The inner optimizer as it was given.
        variables: Its variables.

    Returns:
        A list like `variables`; `None` for the counter of steps and for the
        learning rate.

    Raises:
        ValueError: If a slot is not known to be linear in its old value.
    """
    # Not `isinstance`, as a class made from one of these may do anything.
    known = _OF_OPTIMIZERS.get(type(optimizer), lambda _: {})
    by_name = known(optimizer.get_config())
    decays = []
    for variable in variables:
        if variable.name in ("iteration", "learning_rate"):
            decays.append(None)
            continue
        name = next((n for n in by_name if variable.name.endswith(n)), None)
        if name is None:
            raise ValueError(
                'inner_state="accumulate" puts slots together that are known '
                "to be linear in their old values. Received: "
                f"{type(optimizer).__name__} with {optimizer.get_config()}, "
                f"whose slot '{variable.path}' is not. Use {_KNOWN}; or "
                'inner_state="average".'
            )
        decays.append(by_name[name])
    return decays
