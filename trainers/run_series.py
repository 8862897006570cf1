"""Runs of `plain_descent` in one results file, none carried out twice."""

import pathlib

import tensorflow as tf

from keras_reptile import workers
from trainers import (
    common,
    plain_descent,
    results_file,
    strategy,
    tensorboard_log,
)
from trainers.usage import UsageError


def carry_out_all(program, runs, omniglot, classes, logdir, facts=None) -> dict:
    """Results by name; runs of an interrupted program are not repeated.

    Args:
        program: Its name, which the results file has.
        runs: What to train.
        omniglot: From `load`.
        classes: Those of the final accuracy.
        logdir: The program's folder.
        facts: From a run to a dict of what its results have besides.

    Returns:
        What was carried out by now, others of the folder's included.

    Raises:
        UsageError: If they had other settings.
    """
    settings = {
        "program": program,
        "meta_iters": plain_descent.meta_iters(),
        "points": plain_descent.points(),
        "validation_samples": plain_descent.validation_samples(),
        "eval_samples": plain_descent.eval_samples(),
        "outer_steps": sorted({run.step for run in runs}),
        "seed": common.SEED.value,
    }
    done = _already_done(logdir, settings)
    common.stop_on_sigterm(logdir)  # A run that is cut off is begun anew.
    # It warns of a function per model, which is what is wanted here.
    tf.get_logger().setLevel("ERROR")
    for run in runs:
        before = done.get(run.name)
        if before and run.agreement and "start" not in before:
            before = None  # Of before that was measured.
        results = before or plain_descent.carry_out(
            run, omniglot, classes, logdir
        )
        if before is None:
            numbers = {"test_accuracy": results["final"]}
            tensorboard_log.write(
                pathlib.Path(logdir, run.name, "test"),
                {settings["meta_iters"]: numbers},
            )
        done[run.name] = results | (facts(run) if facts is not None else {})
        if done[run.name] != before:
            results_file.write(
                logdir, {"settings": settings, "runs": done}, replace=True
            )
    return done


def _already_done(logdir, settings):
    path = pathlib.Path(logdir, "results.json")
    # All workers go on with what the chief finds.
    text = b""
    if strategy.is_chief() and path.exists():
        text = path.read_bytes()
    text = workers.from_chief(strategy.chosen(), text)
    if not text:
        return {}
    record = results_file.parsed(text, path)
    there = record.get("settings")
    if isinstance(there, dict):
        # Files of before do not say which program's they are.
        there = {"program": settings["program"], **there}
    if there != settings or not isinstance(record.get("runs"), dict):
        raise UsageError(
            "A program goes on with the settings it was started with: "
            f"{there} in {path}. Received: {settings}. Give the same, or "
            "another --logdir."
        )
    return record["runs"]
