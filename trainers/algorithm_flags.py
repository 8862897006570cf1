"""The flags that choose an algorithm, and the settings that go with it.

--foml and --foml_tail are the original's (openai/supervised-reptile).
"""

from absl import flags

import keras_reptile as kr
from trainers.algorithm_trainings import EVAL_STEPS, INNER_STEPS, OUTER_RATE
from trainers.usage import UsageError

_ALGORITHM = flags.DEFINE_enum(
    "algorithm",
    None,
    kr.algorithms.names(),
    "In place of --foml and --foml_tail. maml and those of fomaml come with "
    "settings of their own: gradient descent inside, of 3 steps of 0.2 or 5 of "
    "0.1 on the whole support set, which a shared tail has then seen, and an "
    "outer Adam of 5e-3. (default: reptile)",
)
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
_QUERIES = flags.DEFINE_integer(
    "queries",
    None,
    "Query examples per class in training, besides --train_shots. (default: "
    "10 where the algorithm learns from them, else 1, for the log)",
    lower_bound=0,
)
_SGD = flags.DEFINE_boolean(
    "sgd", None, "Gradient descent inside, in place of Adam without momentum."
)
_OUTER = flags.DEFINE_enum(
    "outer_optimizer",
    None,
    ["sgd", "adam"],
    "Takes --meta_step. (default: adam for maml and fomaml, else sgd)",
)


def replaced() -> dict:
    """What takes the place of a preset's entries, by the algorithm.

    A meta-gradient that is the gradient of a query loss wants an outer Adam,
    and an inner loop that is short, of large steps, and at the shots asked
    for. Chosen for 5 ways, see `trainers.algorithms`.
    """
    # Gradient descent has no slots; to carry them would put tasks in a row.
    slots = {"inner_state": "average"} if _descends() else {}
    if _name() not in INNER_STEPS:
        return slots
    steps, rate = INNER_STEPS[_name()]
    return slots | {
        "train_shots": 0,
        "inner_batch": None,
        "inner_iters": steps,
        "learning_rate": rate,
        "meta_step": OUTER_RATE,
        "meta_step_final": 0.0,
        "eval_batch": None,
        "eval_iters": EVAL_STEPS,
    }


def complete(settings: dict) -> dict:
    """Adds to the settings what the algorithm's flags say.

    Args:
        settings: A preset's entries, with what the command line has of them.

    Returns:
        The settings with `algorithm`; the `queries` per class, `None` for
        what is left of a class; `sgd` inside or not; the `inner_reduction`;
        the `outer_optimizer`; and the shots of the `tail`, 0 for none.

    Raises:
        UsageError: If a tail leaves nothing for the steps before it, or
            there are no queries for an algorithm that learns from them.
    """
    name, tail, queries = _name(), _FOML_TAIL.value or 0, _QUERIES.value
    of_query_loss = name in INNER_STEPS
    if name == "foml_tail" and settings["inner_iters"] < 2:
        raise UsageError(
            "The last inner step is that on the queries, and there is at least "
            f"one before it. Received: {settings['inner_iters']} inner steps. "
            "Give --inner_iters of at least 2."
        )
    if tail:
        _check_tail(settings)
        queries = tail
    elif name in ("fomaml", "foml_tail", "maml"):
        queries = 10 if queries is None else queries
        if queries == 0:
            raise UsageError(
                f"--algorithm={name} learns from query examples. Received: "
                "--queries=0. Give at least 1."
            )
    outer = "adam" if of_query_loss else "sgd"
    return settings | {
        "algorithm": name,
        "queries": queries,
        "sgd": _descends(),
        # The original descends sums; the rates of these are for a mean.
        "inner_reduction": "mean" if of_query_loss else "sum",
        "outer_optimizer": _OUTER.value or outer,
        "tail": tail,
    }


def _descends():
    """Whether the inner steps are plain gradient descent."""
    return _name() in INNER_STEPS if _SGD.value is None else _SGD.value


def _name():
    by_flags = "foml" if _FOML.value else "reptile"
    by_flags = "foml_tail" if _FOML_TAIL.value else by_flags
    if _ALGORITHM.value and by_flags != "reptile":
        raise UsageError(
            "--algorithm takes the place of --foml and --foml_tail. Received: "
            f"--algorithm={_ALGORITHM.value}, --foml={_FOML.value}, "
            f"--foml_tail={_FOML_TAIL.value}."
        )
    return _ALGORITHM.value or by_flags


def _check_tail(settings):
    tail = _FOML_TAIL.value
    shots, steps = settings["train_shots"], settings["inner_iters"]
    if (
        not _FOML.value
        or tail >= shots
        or steps < 2
        or _QUERIES.value is not None
    ):
        raise UsageError(
            "--foml_tail goes with --foml and without --queries, and leaves "
            "at least one shot of --train_shots and one step of --inner_iters "
            f"before it. Received: --foml={_FOML.value}, --foml_tail={tail}, "
            f"{shots} training shots, {steps} inner steps and "
            f"--queries={_QUERIES.value}."
        )
