"""Several workers, and several replicas: the weights, logs, scores and
checkpoints of one device.

Workers are processes of their own, which take seconds to start; so those of
one number are started once, and carry out all parts after each other.
"""

import contextlib
import os
import pathlib
import shutil
import sys

import numpy as np
import pytest
import run_worker

from trainers import launch, supervisor

# By replicas and workers, what their processes carry out. The four replicas
# are this process' own.
PARTS = {
    (2, 1): ("whole", "single"),
    (2, 2): (
        *("whole", "resumed", "begun", "single", "keras_own"),
        "disagreeing",
    ),
    (3, 3): ("one_idle", "single"),
}

# With what one device comes to, and with what part of it.
COMPARED = {
    "whole": "whole",
    "resumed": "whole",
    "one_idle": "one_idle",
    "single": "single",
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """By part, what one device comes to."""
    folder = tmp_path_factory.mktemp("alone")
    return {
        part: run_worker.PARTS[part](folder / part)
        for part in ("whole", "one_idle", "single")
    }


@pytest.fixture(scope="module")
def begun_by_four(strategy, tmp_path_factory):
    """The folder of a run that four replicas have done half of."""
    folder = tmp_path_factory.mktemp("four")
    with strategy.scope():
        run_worker.begun(folder)
    return folder


def carry_out(count, replicas, folder, parts=None):
    """By part, what each of the workers came to."""
    parts, lines = parts or PARTS[replicas, count], []

    def start(restarts):
        script = str(pathlib.Path(run_worker.__file__))
        command = [sys.executable, script, str(replicas), str(folder), *parts]
        # One worker is a process that knows of no others.
        environments = launch.environments(count) if count > 1 else [os.environ]
        root = pathlib.Path(launch.__file__).parent.parent
        return [(command, {**e, "PYTHONPATH": str(root)}) for e in environments]

    code = supervisor.Supervisor(start, 0, 20.0, lines.append).run()
    assert code == 0, "\n".join(lines[-60:])
    return {
        part: [dict(np.load(f"{folder}/{part}-{w}.npz")) for w in range(count)]
        for part in parts
    }


# Of the largest of an array. Keras' metrics are float32 everywhere.
BOUNDS = {
    "float64": {"weights": 1e-9, "slots": 1e-9, "logs": 1e-6},
    "float32": {"weights": 1e-5, "slots": 1e-4},
}


def assert_equal(ours, theirs, label, precision="float64"):
    """Within `BOUNDS`; the differences are printed, for the notes."""
    assert ours.keys() == theirs.keys()
    differences = {
        kind: max(
            np.max(np.abs(ours[key] - value)) / max(np.max(np.abs(value)), 1e-6)
            for key, value in theirs.items()
            if key.startswith(kind)
        )
        for kind in BOUNDS[precision]
    }
    print(label, *(f"{k} {v:.1e}" for k, v in differences.items()), sep=", ")
    for kind, difference in differences.items():
        assert difference < BOUNDS[precision][kind]
    # Scores are counts of hits.
    for key in theirs:
        if key.startswith("logs/val_accuracy"):
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-6)


def assert_all_equal(results, alone, label):
    for part, of_workers in results.items():
        for values in of_workers if part in COMPARED else ():
            precision = "float32" if part == "single" else "float64"
            expected = alone[COMPARED[part]]
            assert_equal(values, expected, f"{label}, {part}", precision)
            # What is trained is the same on all, to the bit.
            for key, value in values.items():
                np.testing.assert_array_equal(value, of_workers[0][key], key)


def test_three_workers_one_of_them_without_a_task(alone, tmp_path):
    assert_all_equal(carry_out(3, 3, tmp_path), alone, "3 workers")


@pytest.mark.slow
def test_two_replicas(alone, tmp_path):
    assert_all_equal(carry_out(1, 2, tmp_path), alone, "2 replicas")


def test_two_workers(alone, strategy, begun_by_four, tmp_path):
    """One of their parts is to finish what four replicas began.

    One test, as pytest's processes would each start the workers.
    """
    shutil.copytree(begun_by_four, tmp_path / "resumed")
    results = carry_out(2, 2, tmp_path)
    assert_all_equal(results, alone, "2 workers")
    check_files(tmp_path / "whole")
    # When this fails, `_maybe_symbolic_build` need not be replaced.
    for values in results["keras_own"]:
        assert "PerReplica" in str(values["error"])
    check_disagreements(*results["disagreeing"])
    check_goes_on(tmp_path / "begun", 1, strategy, alone)


@pytest.mark.slow
def test_two_workers_and_then_four_replicas(alone, strategy, tmp_path):
    carry_out(2, 2, tmp_path, ["begun"])
    check_goes_on(tmp_path / "begun", 4, strategy, alone)


def check_files(folder):
    """Several workers leave those of one."""
    names = [path.name for path in folder.glob("*.npz")]
    steps = run_worker.STEPS * run_worker.EPOCHS
    assert "best.npz" in names
    assert any(str(steps) in name for name in names)
    # Of the chief alone: MetaTrainer's, and Keras' of training and validation.
    assert len(list(folder.rglob("*.tfevents.*"))) == 3


def check_disagreements(of_chief, of_other):
    """Both are refused, and the one that differs hears in what."""
    told = zip(of_chief["messages"], of_other["messages"], strict=True)
    for (_, given, name), messages in zip(
        run_worker.DISAGREEMENTS, told, strict=True
    ):
        for message in messages:
            assert "must be given the same" in message, given
        assert "another worker" in messages[0], given
        assert f"'{name}' is " in messages[1], given


def check_goes_on(begun, replicas, strategy, alone):
    """What others began is finished, to the same end."""
    here = begun.with_name(f"{begun.name}, then {replicas} replicas")
    shutil.copytree(begun, here)
    scope = contextlib.nullcontext() if replicas == 1 else strategy.scope()
    with scope:
        values = run_worker.resumed(here)
    assert_equal(values, alone["whole"], here.name)


def test_four_replicas(alone, strategy, tmp_path):
    with strategy.scope():
        values = run_worker.single(tmp_path)
    assert_equal(values, alone["single"], "4 replicas, single", "float32")


@pytest.mark.parametrize(
    "replicas", [1, pytest.param(4, marks=pytest.mark.slow)]
)
def test_four_replicas_and_then(alone, strategy, begun_by_four, replicas):
    check_goes_on(begun_by_four, replicas, strategy, alone)
