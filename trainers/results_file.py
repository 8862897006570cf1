"""The results file of a program."""

import itertools
import json
import math
import pathlib
import platform
import sys

import keras
import tensorflow as tf
from absl import flags

import keras_reptile as kr
from keras_reptile import files
from trainers import common, strategy
from trainers.usage import UsageError


def summary(scores: kr.Scores) -> dict:
    """What a results file holds of a set of scores."""
    return {
        "mean": scores.mean,
        "ci95": scores.ci95,
        "num_episodes": scores.num_episodes,
        "mean_before": scores.mean_before,
    }


def write(logdir, results: dict, replace: bool = False) -> pathlib.Path:
    """Writes `results.json`, with flags and versions; the chief does.

    Results of other flags, such as those of more episodes before, are kept
    under another name.

    Args:
        logdir: The run's folder.
        results: What to write.
        replace: Whether they hold all that is there already.

    Returns:
        The file's path.
    """
    path = pathlib.Path(logdir) / "results.json"
    settings = {
        name: flag.value
        for name, flag in flags.FLAGS._flags().items()
        if flags.FLAGS.find_module_defining_flag(name) == sys.argv[0]
        or "trainers" in (flags.FLAGS.find_module_defining_flag(name) or "")
    }
    versions = {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "keras_reptile": kr.__version__,
    }
    record = {**results, "flags": settings, "versions": versions}
    if strategy.is_chief():
        if path.exists() and not replace:
            _keep_others(path, settings)
        with files.atomic_write(path, "w") as file:
            json.dump(_strict(record), file, indent=2, allow_nan=False)
    return path


def parsed(content: bytes, path) -> dict:
    """What a results file holds, of a program that goes on with it.

    Args:
        content: Of the file.
        path: Its path, to be named.

    Raises:
        UsageError: If it is damaged, or not of a program.
    """
    try:
        record = json.loads(content)
        if isinstance(record, dict) and isinstance(record["flags"], dict):
            return record
        reason = "it is of another form"
    except (ValueError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}"
    raise UsageError(
        "To go on, a program reads what it has written before. Received: "
        f"{path}, which cannot be read ({reason}). Remove it, or give another "
        "--logdir."
    )


def _strict(value):
    """Without NaN and infinity, which JSON has not."""
    if isinstance(value, dict):
        return {key: _strict(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(entry) for entry in value]
    nonfinite = isinstance(value, float) and not math.isfinite(value)
    return None if nonfinite else value


def _keep_others(path, settings):
    """Gives results of other flags a name of their own."""
    try:
        there = json.loads(path.read_text())["flags"]
    except (ValueError, KeyError, TypeError):
        there = None  # No program's here, and all the more somebody's.
    if isinstance(there, dict) and _alike(there) == _alike(settings):
        return
    numbered = (path.with_name(f"results-{n}.json") for n in itertools.count(1))
    kept = next(name for name in numbered if not name.exists())
    path.rename(kept)
    common.say(f"The results that were in {path} are in {kept} now.")


def _alike(settings):
    # None of these changes what comes out.
    other = ("resume", "logdir", "checkpoint")
    return {name: v for name, v in settings.items() if name not in other}
