"""What the programs share: flags, folders, callbacks, tables and pictures."""

import atexit
import os
import pathlib
import signal
import sys
from typing import NoReturn

import keras
from absl import flags

import keras_reptile as kr
from keras_reptile import files
from trainers import strategy
from trainers.usage import UsageError, refuse_flags

flags.adopt_module_key_flags(strategy)

LOGDIR = flags.DEFINE_string(
    "logdir",
    None,
    "Folder of checkpoints, TensorBoard logs and results.json. A folder that "
    "holds a run already is refused without --resume. (default: runs/NAME)",
)
flags.DEFINE_alias("checkpoint", "logdir")  # The original's name for it.
SEED = flags.DEFINE_integer(
    "seed",
    0,
    "Of the initial weights and of the episodes.",
    lower_bound=0,
    upper_bound=2**32 - 1,  # As Keras has it.
)
RESUME = flags.DEFINE_boolean(
    "resume", False, "Goes on from the newest checkpoint in --logdir, if any."
)

# What tells that a folder has been used, also by a program's children.
_WRITTEN = (
    "results.json",
    "*.npz",
    "*/results.json",
    "**/events.out.tfevents*",
    "training.png",
)
_taken = []


def usable_logdir(name: str, resumable: bool = True) -> str:
    """The folder of a run, refused where it holds one that is not resumed.

    Args:
        name: Of the run, for the folder where --logdir is not given.
        resumable: Whether the program can go on with a run.

    Raises:
        UsageError: If there are files that would be written over, or another
            program is at work there.
    """
    logdir = os.path.expanduser(LOGDIR.value or f"runs/{name}")
    folder = pathlib.Path(logdir)
    if not resumable:
        refuse_flags("resume")
    if not strategy.is_chief():
        return logdir
    written = (*_WRITTEN, f"{name}.png")
    found = sorted(p for pattern in written for p in folder.glob(pattern))
    if found and not (resumable and RESUME.value):
        go_on = "Go on with it by --resume, or start" if resumable else "Start"
        raise UsageError(
            f"{logdir} holds a run already ({found[-1].relative_to(folder)}). "
            f"{go_on} another one with another --logdir."
        )
    _take(folder)
    return logdir


def _take(folder):
    """Until the program ends, which is later than `MetaTrainer` does."""
    try:
        files.writable_folder(folder)
        _taken.append(files.FolderLock(folder, ".program-lock"))
    except (ValueError, OSError) as error:
        raise UsageError(str(error)) from error


def say(text: str) -> None:
    """Prints a line at once; of several workers, the chief does."""
    if strategy.is_chief():
        print(text, flush=True)


def stop(logdir) -> NoReturn:
    """Ends the program that SIGTERM came to, which can be gone on with.

    Args:
        logdir: The run's folder, to be named.
    """
    say(
        "Stopped by SIGTERM. Go on by the same command with "
        f"--logdir={logdir} --resume."
    )
    # By which TensorFlow is not taken apart first: half a minute was seen, on
    # a loaded machine, where a cluster waits for ten seconds or so.
    atexit.register(os._exit, 0)
    sys.exit(0)


def stop_on_sigterm(logdir) -> None:
    """Has SIGTERM end the program by `stop`, from here on.

    While a `MetaTrainer` that writes checkpoints is at work, SIGTERM is its
    own: it says by `preempted` that the program is to `stop`.
    """
    signal.signal(signal.SIGTERM, lambda *_: stop(logdir))


def verbosity() -> int:
    """Keras' progress bar on a terminal, a line per epoch elsewhere."""
    if not strategy.is_chief():
        return 0
    return 1 if sys.stdout.isatty() else 2


def tensorboard(logdir) -> keras.callbacks.TensorBoard:
    """Keras' own TensorBoard callback, with scalars by epoch; the chief's."""
    if not strategy.is_chief():
        return keras.callbacks.Callback()
    return keras.callbacks.TensorBoard(str(logdir), write_graph=False)


def steps_per_call(steps: int, most: int = 100) -> int:
    """The largest `steps_per_execution` that divides an epoch's steps."""
    return max(d for d in range(1, most + 1) if steps % d == 0)


def print_table(title: str, header: list, rows: list) -> None:
    """Prints a table with its columns aligned."""
    cells = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths))
        for row in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    say("\n" + title + "\n\n" + "\n".join(lines) + "\n")


def percent(scores: kr.Scores) -> str:
    """Mean and interval as the paper prints them."""
    return f"{100 * scores.mean:.2f} +- {100 * scores.ci95:.2f}"


def new_figure(columns: int, rows: int = 1, **settings):
    """A matplotlib figure and its axes, drawn without a screen.

    Args:
        columns: Panels beside each other.
        rows: Panels below each other.
        **settings: As `matplotlib.pyplot.subplots`.

    Returns:
        `(figure, axes)`, the axes in an array of shape `(rows, columns)`.

    Raises:
        UsageError: If matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise UsageError(
            "The picture is drawn by matplotlib, which is not installed. "
            "Install it by: pip install '.[plots]'."
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot.subplots(
        rows,
        columns,
        squeeze=False,
        figsize=(4 * columns, 3.2 * rows),
        layout="constrained",
        **settings,
    )


def save_figure(figure, path) -> None:
    """Writes a figure as PNG, atomically, and the folder it goes to."""
    if not strategy.is_chief():
        return
    path = pathlib.Path(os.path.expanduser(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)
