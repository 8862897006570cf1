"""The paper's settings, and a flag for each of their entries.

Source: Nichol, Achiam & Schulman 2018, appendix A. Flags have the names of
the original's (openai/supervised-reptile).
"""

from absl import flags

import keras_reptile as kr
from trainers import algorithm_flags

flags.adopt_module_key_flags(algorithm_flags)

_FIVE_WAY = {
    "classes": 5,
    "shots": [1, 5],
    "train_shots": 10,
    "inner_batch": 10,
    "inner_iters": 5,
    "learning_rate": 1e-3,
    "meta_step": 1.0,
    "meta_step_final": 0.0,
    "meta_batch": 5,
    "meta_iters": 100_000,
    "eval_batch": 5,
    "eval_iters": 50,
    "eval_samples": 10_000,
    "inner_state": "average",
}
_TWENTY_WAY = {
    **_FIVE_WAY,
    "classes": 20,
    "inner_batch": 20,
    "inner_iters": 10,
    "learning_rate": 5e-4,
    "meta_iters": 200_000,
    "eval_batch": 10,
    # Where slots are averaged, 1-shot is lower here, see BUILD_NOTES.md.
    "inner_state": "carry",
}
# Not the paper's: a quarter of the meta-iterations, and 1 to 2 points less at
# one shot. Chosen on 120 characters held out of the training ones, see
# BUILD_NOTES.md.
_FAST_FIVE_WAY = {**_FIVE_WAY, "learning_rate": 4e-3, "meta_iters": 25_000}
_MINI_IMAGENET = {
    **_FIVE_WAY,
    "shots": [1],
    "train_shots": 15,
    "inner_iters": 8,
}
# What the original takes where its command line says nothing else.
_ORIGINAL = {
    **_FIVE_WAY,
    "shots": [5],
    "train_shots": 0,
    "inner_batch": 5,
    "inner_iters": 20,
    "meta_step": 0.1,
    "meta_step_final": 0.1,
    "meta_batch": 1,
    "meta_iters": 400_000,
    "inner_state": "carry",
}
OMNIGLOT = {
    "original": _ORIGINAL,
    "fast5": _FAST_FIVE_WAY,
    "o15": _FIVE_WAY,
    "o55": _FIVE_WAY,
    "o120": _TWENTY_WAY,
    "o520": _TWENTY_WAY,
}
# Of one training, but with inner batches of their own at evaluation.
MINI_IMAGENET = {
    "original": _ORIGINAL,
    "m15": _MINI_IMAGENET,
    "m55": {**_MINI_IMAGENET, "shots": [5], "eval_batch": 15},
}
# By name: the kind of flag, its help and its lower bound.
_ENTRIES = {
    "classes": (flags.DEFINE_integer, "Ways: classes per episode.", 2),
    "shots": (
        flags.DEFINE_multi_integer,
        "Shots at evaluation; may be given more than once.",
        1,
    ),
    "train_shots": (
        flags.DEFINE_integer,
        "Shots in training; 0 takes the first of --shots.",
        0,
    ),
    "inner_batch": (flags.DEFINE_integer, "Examples per inner step.", 1),
    "inner_iters": (flags.DEFINE_integer, "Inner steps in training.", 1),
    "learning_rate": (flags.DEFINE_float, "Of the inner optimizer.", 0.0),
    "meta_step": (
        flags.DEFINE_float,
        "Outer step size of the first meta-iteration.",
        0.0,
    ),
    "meta_step_final": (
        flags.DEFINE_float,
        "Outer step size it is annealed to, linearly.",
        0.0,
    ),
    "meta_batch": (flags.DEFINE_integer, "Tasks per meta-iteration.", 1),
    "meta_iters": (flags.DEFINE_integer, "Meta-iterations.", 1),
    "eval_batch": (
        flags.DEFINE_integer,
        "Examples per inner step at evaluation.",
        1,
    ),
    "eval_iters": (flags.DEFINE_integer, "Inner steps at evaluation.", 1),
    "eval_samples": (
        flags.DEFINE_integer,
        "Episodes of the final evaluation.",
        2,
    ),
}
_INNER_STATE = (
    "What becomes of the inner optimizer's slots. carry: from task to task, as "
    "the original. average: the mean of the tasks' of a meta-iteration goes "
    "on. accumulate: as if carried, for tasks side by side. reset: none."
)


def define(table: dict, default: str) -> None:
    """Defines --preset and a flag for each entry of the presets.

    Args:
        table: `OMNIGLOT` or `MINI_IMAGENET`, the program's own.
        default: The preset of a start without --preset.
    """
    flags.DEFINE_enum(
        "preset",
        default,
        sorted(table),
        "Row of the paper's table to start from, or the original's defaults.",
    )
    for name, (kind, text, lower_bound) in _ENTRIES.items():
        kind(name, None, _said(table, name, text), lower_bound=lower_bound)
    flags.DEFINE_enum(
        "inner_state",
        None,
        kr.meta_model.INNER_STATES,
        _said(table, "inner_state", _INNER_STATE),
    )


def _said(table, name, text):
    """A flag's help with what the presets have for it."""
    presets = {}
    for preset, entries in table.items():
        presets.setdefault(str(entries[name]), []).append(preset)
    values = [
        value if len(presets) == 1 else f"{value} in {', '.join(where)}"
        for value, where in presets.items()
    ]
    return f"{text} (preset: {'; '.join(values)})"


def chosen(table: dict) -> dict:
    """The preset's entries, with those given on the command line.

    Args:
        table: As `define` was given it.

    Returns:
        The entries by name, and those of `algorithm_flags.complete`.

    Raises:
        UsageError: If flags contradict each other.
    """
    settings = table[flags.FLAGS.preset] | algorithm_flags.replaced()
    given = {name: flags.FLAGS[name].value for name in settings}
    settings |= {name: v for name, v in given.items() if v is not None}
    settings["train_shots"] = settings["train_shots"] or settings["shots"][0]
    return algorithm_flags.complete(settings)
