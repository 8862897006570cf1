"""The paper's settings for Omniglot, and a flag for each of their entries.

Source: Nichol, Achiam & Schulman 2018, appendix A. Flags have the names of
the original's (openai/supervised-reptile).
"""

from absl import app, flags

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
}
_TWENTY_WAY = {
    **_FIVE_WAY,
    "classes": 20,
    "inner_batch": 20,
    "inner_iters": 10,
    "learning_rate": 5e-4,
    "meta_iters": 200_000,
    "eval_batch": 10,
}
# Not the paper's: the same figures in a quarter of the meta-iterations. Chosen
# on 120 characters held out of the training ones, see BUILD_NOTES.md.
_FAST_FIVE_WAY = {**_FIVE_WAY, "learning_rate": 4e-3, "meta_iters": 25_000}
PRESETS = {
    "fast5": _FAST_FIVE_WAY,
    "o15": _FIVE_WAY,
    "o55": _FIVE_WAY,
    "o120": _TWENTY_WAY,
    "o520": _TWENTY_WAY,
}


def _said(name, text):
    """A flag's help with what the presets have for it."""
    five, twenty = _FIVE_WAY[name], _TWENTY_WAY[name]
    both = f"{five}" if five == twenty else f"{five} in 5-way, {twenty} in 20"
    return f"{text} (preset: {both})"


def _integer(name, text, lower_bound=1):
    flags.DEFINE_integer(name, None, _said(name, text), lower_bound=lower_bound)


def _float(name, text):
    flags.DEFINE_float(name, None, _said(name, text), lower_bound=0.0)


PRESET = flags.DEFINE_enum(
    "preset", "o15", sorted(PRESETS), "Row of the paper's table to start from."
)
_integer("classes", "Ways: classes per episode.", lower_bound=2)
flags.DEFINE_multi_integer(
    "shots",
    None,
    _said("shots", "Shots at evaluation; may be given more than once."),
    lower_bound=1,
)
_integer("train_shots", "Shots in training; 0 takes the first of --shots.", 0)
_integer("inner_batch", "Examples per inner step.")
_integer("inner_iters", "Inner steps in training.")
_float("learning_rate", "Of the inner optimizer.")
_float("meta_step", "Outer step size of the first meta-iteration.")
_float("meta_step_final", "Outer step size it is annealed to, linearly.")
_integer("meta_batch", "Tasks per meta-iteration.")
_integer("meta_iters", "Meta-iterations.")
_integer("eval_batch", "Examples per inner step at evaluation.")
_integer("eval_iters", "Inner steps at evaluation.")
_integer("eval_samples", "Episodes of the final evaluation.", lower_bound=2)

_FOML = flags.DEFINE_boolean(
    "foml", False, "First-order MAML: the last inner step is the update."
)
_FOML_TAIL = flags.DEFINE_integer(
    "foml_tail",
    None,
    "With --foml, shots set apart for the last inner step, which takes all of "
    "them at once; they are of --train_shots.",
    lower_bound=1,
)


def chosen() -> dict:
    """The preset's entries, with those given on the command line.

    Besides them, the `algorithm` and the shots of its `tail`, 0 for none.

    Raises:
        app.UsageError: If a tail leaves nothing for the steps before it.
    """
    settings = dict(PRESETS[PRESET.value])
    given = {name: flags.FLAGS[name].value for name in settings}
    settings |= {name: v for name, v in given.items() if v is not None}
    settings["train_shots"] = settings["train_shots"] or settings["shots"][0]
    settings["algorithm"] = "foml" if _FOML.value else "reptile"
    settings["tail"] = _FOML_TAIL.value or 0
    if settings["tail"]:
        _check_tail(settings)
        settings["algorithm"] = "foml_tail"
    return settings


def _check_tail(settings):
    tail = settings["tail"]
    shots, steps = settings["train_shots"], settings["inner_iters"]
    if not _FOML.value or tail >= shots or steps < 2:
        raise app.UsageError(
            "--foml_tail goes with --foml, and leaves at least one shot of "
            "--train_shots and one step of --inner_iters before it. Received: "
            f"--foml={_FOML.value}, --foml_tail={tail}, {shots} training shots "
            f"and {steps} inner steps."
        )
