"""Several workers, in processes of their own, and several replicas in one:
the weights, logs, scores and checkpoints of one device.

Processes are few, as each takes seconds to start: `workers` starts those of
one number once, and they carry out all parts after each other.
"""

import contextlib
import functools
import pathlib
import shutil
import sys

import numpy as np
import pytest
import run_worker
import tensorflow as tf

from trainers import launch

WORKER = pathlib.Path(run_worker.__file__)
PARTS = {2: ("whole", "resumed", "begun"), 3: ("whole", "one_idle")}


@pytest.fixture(autouse=True, scope="module")
def _few_episodes_at_once():
    """As in the workers."""
    before = run_worker.evaluation._AT_ONCE
    run_worker.evaluation._AT_ONCE = 2
    yield
    run_worker.evaluation._AT_ONCE = before


@functools.cache
def mirrored(replicas):
    """So many of the logical devices; one strategy each for all tests."""
    return tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])


def scope_of(replicas):
    if replicas == 1:
        return contextlib.nullcontext()
    return mirrored(replicas).scope()


def run(part, replicas, folder):
    with scope_of(replicas):
        return run_worker.PARTS[part](folder)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """By part, what one device comes to."""
    folder = tmp_path_factory.mktemp("alone")
    return {part: run(part, 1, folder / part) for part in ("whole", "one_idle")}


@pytest.fixture(scope="module")
def begun_by_four(tmp_path_factory):
    folder = tmp_path_factory.mktemp("four")
    run("begun", 4, folder)
    return folder


@pytest.fixture(scope="module", params=sorted(PARTS))
def workers(request, tmp_path_factory, begun_by_four):
    """The number of workers, their folder, and by part what each came to."""
    count, folder = request.param, tmp_path_factory.mktemp("workers")
    shutil.copytree(begun_by_four, folder / "resumed")
    parts = PARTS[count]
    lines = []

    def start(restarts):
        command = [sys.executable, str(WORKER), str(folder), *parts]
        return [(command, e) for e in launch.environments(count)]

    code = launch.Supervisor(start, 0, 20.0, lines.append).run()
    assert code == 0, "\n".join(lines[-60:])
    results = {
        part: [
            dict(np.load(folder / f"{part}-{worker}.npz"))
            for worker in range(count)
        ]
        for part in parts
    }
    return count, folder, results


def largest_difference(ours, theirs) -> float:
    """Relative to the largest value of an array, over all arrays."""
    assert ours.keys() == theirs.keys()
    return max(
        np.max(np.abs(np.subtract(ours[key], theirs[key])))
        / max(np.max(np.abs(theirs[key])), 1e-6)
        for key in ours
    )


def assert_equal(ours, theirs, label):
    """Within 1e-5; the scores of `MetaTrainer`'s episodes to the bit."""
    difference = largest_difference(ours, theirs)
    print(f"{label}: largest relative difference {difference:.1e}")
    assert difference < 1e-5
    for key in theirs:
        if key.startswith("logs/val_accuracy"):
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-7)


@pytest.mark.parametrize("replicas", [2, 4])
def test_replicas(replicas, alone, tmp_path):
    assert_equal(
        run("whole", replicas, tmp_path), alone["whole"], f"{replicas} replicas"
    )


def test_workers(workers, alone):
    count, _, results = workers
    for part in set(results) & set(alone):
        for worker, values in enumerate(results[part]):
            label = f"{count} workers, {part}, worker {worker}"
            assert_equal(values, alone[part], label)
            # What is trained is the same on all, to the bit.
            for key in values:
                np.testing.assert_array_equal(
                    values[key], results[part][0][key]
                )


def test_workers_leave_the_files_of_one(workers):
    _, folder, _ = workers
    run_folder = folder / "whole"
    names = [path.name for path in run_folder.glob("*.npz")]
    steps = run_worker.STEPS * run_worker.EPOCHS
    assert "best.npz" in names and any(str(steps) in name for name in names)
    events = [p for p in run_folder.rglob("*.tfevents.*")]
    # Of MetaTrainer, and of Keras' training and validation.
    assert len(events) == 3


def test_a_checkpoint_of_four_replicas_goes_on_on_workers(workers, alone):
    count, _, results = workers
    if "resumed" not in results:
        pytest.skip("the workers of another number do")
    for values in results["resumed"]:
        assert_equal(
            values, alone["whole"], f"4 replicas, then {count} workers"
        )


@pytest.mark.parametrize("replicas", [1, 4])
def test_a_checkpoint_of_workers_goes_on_elsewhere(
    workers, alone, replicas, tmp_path
):
    count, folder, results = workers
    if "begun" not in results:
        pytest.skip("the workers of another number do")
    shutil.copytree(folder / "begun", tmp_path / "here")
    values = run("resumed", replicas, tmp_path / "here")
    label = f"{count} workers, then {replicas} replicas"
    assert_equal(values, alone["whole"], label)


def test_a_checkpoint_of_four_goes_on_on_one(begun_by_four, alone, tmp_path):
    shutil.copytree(begun_by_four, tmp_path / "here")
    values = run("resumed", 1, tmp_path / "here")
    assert_equal(values, alone["whole"], "4 replicas, then 1")
