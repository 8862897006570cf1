"""The programs, started as a user starts them, at their smallest."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
import tensorflow as tf
from absl import flags
from mini_imagenet_tree import write_tree
from test_data import TFDS, needs_omniglot

from keras_reptile import files, scalars
from trainers import (
    accuracy_over_time,
    algorithm_flags,
    curves,
    presets,
    results_file,
    usage,
)
from trainers.usage import UsageError

ROOT = pathlib.Path(__file__).parent.parent


def run(program, *arguments, timeout=300, **environment):
    return subprocess.run(
        [sys.executable, "-m", f"trainers.{program}", *arguments],
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


QUICK = ("--meta_iters=5", "--train_classes=10", "--eval_samples=2")


def test_quickstart(tmp_path):
    ended = run("quickstart", *QUICK, f"--logdir={tmp_path}")
    assert ended.returncode == 0, ended.stderr
    for text in ("trained from scratch", "1-shot", "tensorboard --logdir"):
        assert text in ended.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["reptile"]["5-shot"]["num_episodes"] == 2
    assert results["flags"]["meta_iters"] == 5
    again = run("quickstart", *QUICK, f"--logdir={tmp_path}")
    assert again.returncode == 2
    assert "by --resume" in again.stdout + again.stderr
    # As another program has it, that evaluates after its training.
    lock = files.FolderLock(tmp_path, ".program-lock")
    again = run("quickstart", *QUICK, f"--logdir={tmp_path}", "--resume")
    lock.release()
    assert again.returncode == 2
    assert f"in use by process {os.getpid()}" in again.stdout + again.stderr


def test_sine(tmp_path):
    quick = ("--meta_iters=10", "--eval_samples=4", "--activation=relu")
    ended = run("sine", *quick, f"--logdir={tmp_path}")
    assert ended.returncode == 0, ended.stderr
    assert "after steps on 10, 4 waves" in ended.stdout
    results = json.loads((tmp_path / "results.json").read_text())
    for name in ("random", "joint", "maml", "reptile"):
        assert set(results[name]["mse"]) == {"0", "1", "8", "32"}
    for name in ("random", "maml"):
        logged = curves.logged(tmp_path / name / "test")
        errors = logged["mse_after_inner_steps"]
        assert errors == pytest.approx(
            {int(n): e for n, e in results[name]["mse"].items()}
        )
    assert (tmp_path / "sine.png").read_bytes().startswith(b"\x89PNG")
    again = run("sine", *quick, f"--logdir={tmp_path}")
    assert again.returncode == 2
    assert "another --logdir" in again.stdout + again.stderr


@pytest.mark.slow
def test_sine_meets_its_bands(tmp_path):
    """At full length: a minute and a half, alone."""
    ended = run("sine", f"--logdir={tmp_path}", timeout=1800)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    reptile, joint = found["reptile"], found["joint"]
    assert reptile["mse"]["32"] < min(0.3, 0.1 * joint["mse"]["32"])
    assert found["maml"]["mse"]["32"] < 0.3
    assert reptile["mean_absolute_output"] < 0.1


def test_theory(tmp_path):
    quick = ("--tasks=2", "--units=4", "--batches=2", "--rates=1e-3")
    home = {"HOME": str(tmp_path)}
    ended = run("theory", *quick, "--rates=5e-4", "--logdir=~/runs", **home)
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / "runs/results.json").read_text())
    for name, paper in {"maml": [1, 2], "reptile": [2, 1]}.items():
        found = results["batches"]["2"][name]
        assert found["paper"] == paper
        assert abs(found["measured"][-1][1] - paper[1]) < 0.1
        assert 1.8 < found["slope"] < 2.2
        assert 0.999 < found["cosine"][-1] <= 1.0
    logged = curves.logged(tmp_path / "runs/reptile")
    assert logged["average_gradient_inner/paper"] == {2: 1.0}
    measured = results["batches"]["2"]["reptile"]["measured"][-1][1]
    assert logged["average_gradient_inner/fit"] == pytest.approx({2: measured})
    picture = (tmp_path / "runs/theory.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    ended = run("theory", "--rates=nan", "--rates=1", f"--logdir={tmp_path}/x")
    assert ended.returncode == 2
    assert "two or more --rates" in ended.stdout + ended.stderr
    ended = run("theory", "--strategy=mirrored", f"--logdir={tmp_path}/x")
    assert ended.returncode == 2
    assert "no --strategy" in ended.stdout + ended.stderr
    (tmp_path / "file").write_text("in the way")
    ended = run("theory", f"--logdir={tmp_path}/file/runs")
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2 and "Traceback" not in said
    assert "can be written to" in said


def test_accuracy_over_time(tmp_path):
    picture, results = tmp_path / "x.png", ROOT / "docs" / "results"
    runs = [results / f"{name}.json" for name in ("fast5-seed0", "o15-seed1")]
    ended = run("accuracy_over_time", *runs, f"--picture={picture}")
    assert ended.returncode == 0, ended.stderr
    line = next(x for x in ended.stdout.splitlines() if x.startswith("fast5"))
    assert line.split()[3:6] == ["0", "13.7", "94.01"]
    assert picture.read_bytes().startswith(b"\x89PNG")
    ended = run("accuracy_over_time", results / "sine.json")
    assert ended.returncode == 2
    assert "finished 5-way runs" in ended.stdout + ended.stderr


def test_trainings_that_differ_are_of_several_kinds(tmp_path):
    results = json.loads((ROOT / "docs/results/o15-seed1.json").read_text())
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    assert accuracy_over_time.read(path)["kind"] == (
        "o15, 100,000 meta-iterations"
    )
    results["settings"] |= {"learning_rate": 0.1, "eval_iters": 5}
    results["settings"]["inner_state"] = "carry"
    results["flags"] |= {"replacement": True, "split": "tfds"}
    path.write_text(json.dumps(results))
    assert accuracy_over_time.read(path)["kind"] == (
        "o15, 100,000 meta-iterations, inner_state=carry, replacement, "
        "split=tfds, learning_rate=0.1"
    )
    del results["flags"]["split"]
    path.write_text(json.dumps(results))
    with pytest.raises(UsageError, match="of mini-ImageNet"):
        accuracy_over_time.read(path)


EXPERIMENT = (
    *("--meta_iters=2", "--points=1", "--eval_samples=2"),
    *("--validation_samples=2", f"--data_dir={TFDS}"),
)


@needs_omniglot
def test_gradient_combinations(tmp_path):
    arguments = (*EXPERIMENT, f"--logdir={tmp_path}")
    ended = run("gradient_combinations", *arguments, "--only=g2")
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["runs"]) == {"g2"}
    assert results["runs"]["g2"]["meta_iters"] == [2]
    logged = curves.logged(tmp_path / "g2/test")["test_accuracy"]
    assert logged == pytest.approx({2: results["runs"]["g2"]["final"]})
    picture = tmp_path / "gradient_combinations.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    ended = run("gradient_combinations", *arguments, "--only=g2", "--resume")
    assert ended.returncode == 0, ended.stderr
    assert "g2...\n" not in ended.stdout  # Was done already.


@needs_omniglot
@pytest.mark.slow
def test_gradient_combinations_that_are_not_the_same_run(tmp_path):
    arguments = (*EXPERIMENT, f"--logdir={tmp_path}")
    ended = run("gradient_combinations", *arguments, "--only=g2", "--only=g1")
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["runs"]) == {"g1", "g2"}
    again = run("gradient_combinations", *arguments, "--resume", "--seed=1")
    assert "settings it was started with" in again.stdout + again.stderr


@needs_omniglot
@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "runs"), [("overlap", 40), ("agreement", 4)]
)
def test_experiments_with_many_runs(tmp_path, program, runs):
    ended = run(
        program, *EXPERIMENT, "--short", f"--logdir={tmp_path}", timeout=1800
    )
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / f"{program}.png").read_bytes().startswith(b"\x89PNG")
    found = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert len(found) == runs
    for name, results in found.items():
        logged = curves.logged(tmp_path / name / "test")["test_accuracy"]
        assert logged == pytest.approx({2: results["final"]})


@needs_omniglot
def test_omniglot(tmp_path):
    arguments = (
        "--classes=3",
        "--inner_batch=6",
        "--train_shots=1",  # A batch larger than the support set.
        "--eval_iters=2",
        "--eval_samples=2",
        "--validation_characters=20",
        "--validation_samples=2",
        "--eval_interval=2",
        f"--data_dir={TFDS}",
        f"--logdir={tmp_path}",
    )
    ended = run("omniglot", "--meta_iters=2", *arguments)
    assert ended.returncode == 0, ended.stderr
    for text in ("1-shot  inductive", "5-shot  transductive", "results.json"):
        assert text in ended.stdout
    drawn = (tmp_path / "training.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")
    logged = curves.logged(tmp_path / "test")
    assert set(logged["test_accuracy/5-shot_transductive"]) == {2}
    other = run("omniglot", "--meta_iters=4", *arguments, "--resume")
    assert other.returncode == 2 and "Traceback" not in other.stderr
    assert "with the settings it was started with" in other.stderr


@needs_omniglot
@pytest.mark.slow
def test_omniglot_by_foml_with_a_tail(tmp_path):
    ended = run(
        "omniglot",
        *("--foml", "--foml_tail=2", "--train_shots=4", "--meta_iters=2"),
        *("--eval_iters=2", "--eval_samples=2", f"--data_dir={TFDS}"),
        f"--logdir={tmp_path}",
    )
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["settings"]["algorithm"] == "foml_tail"
    assert "5-shot  transductive" in ended.stdout


@needs_omniglot
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["maml", "joint"])
def test_omniglot_by_another_algorithm(tmp_path, algorithm):
    ended = run(
        "omniglot",
        *(f"--algorithm={algorithm}", "--meta_iters=2", "--eval_samples=2"),
        *(f"--data_dir={TFDS}", f"--logdir={tmp_path}"),
    )
    assert ended.returncode == 0, ended.stderr
    settings = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert settings["algorithm"] == algorithm
    of_maml = algorithm == "maml"
    assert settings["sgd"] == of_maml
    assert settings["outer_optimizer"] == ("adam" if of_maml else "sgd")
    assert settings["queries"] == (10 if of_maml else None)
    assert settings["inner_batch"] == (None if of_maml else 10)


@needs_omniglot
@pytest.mark.slow
def test_omniglot_with_every_drawing_as_the_original_has_it(tmp_path):
    ended = run(
        "omniglot",
        *("--train_shots=20", "--meta_iters=2", "--eval_iters=2"),
        *("--eval_samples=2", f"--data_dir={TFDS}", f"--logdir={tmp_path}"),
    )
    assert ended.returncode == 0, ended.stderr


@needs_omniglot
def test_omniglot_by_a_tail_that_leaves_too_few(tmp_path):
    ended = run(
        "omniglot",
        *("--foml", "--foml_tail=9", "--replacement", f"--data_dir={TFDS}"),
        f"--logdir={tmp_path}",
    )
    assert ended.returncode == 2
    assert "inner_batch_size" in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr


def mini_imagenet(tmp_path, *arguments):
    return run(
        "mini_imagenet",
        *("--any_classes", "--eval_iters=2", "--eval_samples=2"),
        *("--validation_samples=2", "--eval_interval=2"),
        f"--data_dir={tmp_path / 'tree'}",
        f"--cache_dir={tmp_path / 'cache'}",
        f"--logdir={tmp_path / 'run'}",
        *arguments,
    )


def test_mini_imagenet(tmp_path):
    write_tree(tmp_path / "tree", classes=5, images=16)
    ended = mini_imagenet(tmp_path, "--meta_iters=4")
    assert ended.returncode == 0, ended.stderr
    for text in ("mini-ImageNet, 5-way", "1-shot  inductive", "val_accuracy"):
        assert text in ended.stdout
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert set(results["scores"]) == {"1-shot"}
    entries = ("train_shots", "inner_batch", "inner_iters", "eval_batch")
    settings = results["settings"]
    assert [settings[name] for name in entries] == [15, 10, 8, 5]
    score = results["scores"]["1-shot"]["inductive"]["mean"]
    logged = curves.logged(tmp_path / "run/test")
    assert logged["test_accuracy/1-shot_inductive"] == pytest.approx({4: score})
    drawn = (tmp_path / "run/training.png").read_bytes()
    assert drawn.startswith(b"\x89PNG")
    resumed = mini_imagenet(
        tmp_path, "--meta_iters=4", "--resume", "--eval_samples=3"
    )
    assert resumed.returncode == 0, resumed.stderr
    again = json.loads((tmp_path / "run/results.json").read_text())
    assert again["scores"]["1-shot"]["inductive"]["num_episodes"] == 3
    kept = json.loads((tmp_path / "run/results-1.json").read_text())
    assert kept == results


def test_the_papers_rows():
    entries = ("train_shots", "inner_batch", "inner_iters", "learning_rate")
    entries += ("meta_iters", "eval_batch", "shots", "inner_state")
    rows = {
        name: [row[entry] for entry in entries]
        for name, row in (presets.MINI_IMAGENET | presets.OMNIGLOT).items()
    }
    assert rows["m15"] == [15, 10, 8, 1e-3, 100_000, 5, [1], "average"]
    assert rows["m55"] == [15, 10, 8, 1e-3, 100_000, 15, [5], "average"]
    assert rows["o15"] == [10, 10, 5, 1e-3, 100_000, 5, [1, 5], "average"]
    assert rows["o520"] == [10, 20, 10, 5e-4, 200_000, 10, [1, 5], "carry"]
    assert rows["original"] == [0, 5, 20, 1e-3, 400_000, 5, [5], "carry"]


@pytest.mark.parametrize(
    ("given", "reduction", "rates"),
    [
        ((), "sum", (1e-3, 1.0)),
        (("--foml",), "sum", (1e-3, 1.0)),
        (("--algorithm=maml",), "mean", (0.2, 5e-3)),
        (("--algorithm=fomaml",), "mean", (0.1, 5e-3)),
    ],
)
def test_rates_go_with_their_losses(given, reduction, rates):
    flags.FLAGS(["program", *given])
    try:
        settings = presets.OMNIGLOT["o15"] | algorithm_flags.replaced()
        settings = algorithm_flags.complete(settings)
    finally:
        flags.FLAGS.unparse_flags()
        for name in ("algorithm", "foml"):
            flags.FLAGS[name].unparse()
    assert settings["inner_reduction"] == reduction
    assert (settings["learning_rate"], settings["meta_step"]) == rates


@pytest.mark.parametrize(
    "given", [("--foml", "--foml_tail=2"), ("--algorithm=foml_tail",)]
)
def test_the_step_on_a_tail_comes_after_another(given):
    """The original hangs where there is none before it."""
    flags.FLAGS(["program", *given])
    settings = presets.OMNIGLOT["o15"] | {"inner_iters": 1}
    try:
        with pytest.raises(UsageError, match="1 inner steps"):
            algorithm_flags.complete(settings)
    finally:
        flags.FLAGS.unparse_flags()
        for name in ("algorithm", "foml", "foml_tail"):
            flags.FLAGS[name].unparse()


def test_a_flag_that_does_nothing_is_refused():
    flags.FLAGS(["program", "--foml_tail=2"])
    try:
        usage.refuse_without(True, "foml", "foml_tail")
        with pytest.raises(UsageError, match="_tail does nothing without --f"):
            usage.refuse_without(False, "foml", "foml_tail")
    finally:
        flags.FLAGS.unparse_flags()
        flags.FLAGS["foml_tail"].unparse()


@pytest.mark.parametrize("table", ["OMNIGLOT", "MINI_IMAGENET"])
def test_the_outer_rate_of_maml_falls_to_0(table):
    flags.FLAGS(["program", "--algorithm=maml"])
    try:
        for settings in getattr(presets, table).values():
            settings = settings | algorithm_flags.replaced()
            rates = settings["meta_step"], settings["meta_step_final"]
            assert rates == (5e-3, 0.0)
    finally:
        flags.FLAGS.unparse_flags()
        flags.FLAGS["algorithm"].unparse()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), "carry"),
        (("--sgd",), "average"),
        (("--algorithm=maml",), "average"),
        (("--algorithm=maml", "--nosgd"), "carry"),
    ],
)
def test_tasks_run_in_a_row_only_where_there_are_slots(given, expected):
    flags.FLAGS(["program", *given])
    try:
        settings = presets.OMNIGLOT["o520"] | algorithm_flags.replaced()
        assert settings["inner_state"] == expected
    finally:
        flags.FLAGS.unparse_flags()
        for name in ("algorithm", "sgd"):
            flags.FLAGS[name].unparse()


def test_results_are_strict_json():
    value = {"a": [1.0, float("nan")], "b": {"c": (float("inf"), "x")}}
    strict = results_file._strict(value)
    assert strict == {"a": [1.0, None], "b": {"c": [None, "x"]}}


def test_curves_have_every_step_and_the_last_of_each(tmp_path):
    for steps in (range(30), range(20, 40)):  # Killed, and gone on with.
        writer = scalars.Scalars(tmp_path)
        writer.open(tf.distribute.get_strategy())
        for step in steps:
            writer.write(step, {"accuracy": step + len(steps)})
        writer.close()
        time.sleep(1)  # TensorFlow names its files by the second.
    logged = curves.logged(tmp_path)["accuracy"]
    expected = {s: s + (30 if s < 20 else 20) for s in range(40)}
    assert logged == expected
    assert curves.logged(tmp_path / "none") == {}


def test_mini_imagenet_that_is_absent(tmp_path):
    logdir = f"--logdir={tmp_path}/run"
    ended = run(
        *("mini_imagenet", f"--data_dir={tmp_path}", "--preset=m55", logdir)
    )
    said = ended.stdout + ended.stderr
    assert ended.returncode == 2 and "Traceback" not in said
    assert f"{tmp_path}/train/n01532829/*.JPEG and 63 more folders" in said
    ended = run("mini_imagenet", logdir)
    assert "data_dir=None" in ended.stdout + ended.stderr


@pytest.mark.parametrize(
    "program",
    [
        *("omniglot", "sine"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("quickstart", "mini_imagenet", "sheet")
        ),
    ],
)
def test_help_names_every_flag(program):
    ended = run(program, "--help")
    shared = {"quickstart": "--resume", "sine": "--activation"}
    assert shared.get(program, "--data_dir") in ended.stdout
    assert "Usage:" in ended.stdout


def test_what_cannot_be_is_refused_before_training():
    ended = run("omniglot", "--meta_iters=1500")
    assert "multiple of --eval_interval" in ended.stdout + ended.stderr
    assert ended.returncode == 2
    ended = run("omniglot", "--foml", "--foml_tail=10")
    assert "--foml_tail=10, 10 training shots" in ended.stdout + ended.stderr
    assert ended.returncode == 2
    ended = run("omniglot", "--seed=4294967296")
    assert "seed" in ended.stderr and "Traceback" not in ended.stderr
    assert ended.returncode == 2
    two = ("--strategy=mirrored", "--devices=2")
    for carrying in ("--inner_state=carry", "--preset=o120"):
        ended = run("omniglot", carrying, *two)
        assert "2 replicas by --strategy=mirr" in ended.stdout + ended.stderr
    ended = run("algorithms", "--strategy=multiworker")
    assert "Give --here" in ended.stdout + ended.stderr


@needs_omniglot
@pytest.mark.slow
def test_algorithms(tmp_path):
    ended = run(
        "algorithms",
        *("--meta_iters=20", "--eval_samples=2", "--only=joint"),
        *(f"--data_dir={TFDS}", f"--logdir={tmp_path}"),
    )
    assert ended.returncode == 0, ended.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert set(results["joint"]["scores"]) == {"1-shot", "5-shot"}
    assert results["joint"]["peak_memory"] > 1e8
    assert (
        len(curves.logged(tmp_path / "joint/train")["epoch_inner_loss"]) == 10
    )
    logged = curves.logged(tmp_path / "joint/test")
    scores = results["joint"]["scores"]["5-shot"]["transductive"]
    assert logged["test_accuracy/5-shot_transductive"] == pytest.approx(
        {20: scores["mean"]}
    )
    assert (tmp_path / "algorithms.png").stat().st_size > 5_000
    ended = run("algorithms", "--only=mamml", f"--logdir={tmp_path}")
    assert "--only must be of" in ended.stdout + ended.stderr
    ended = run("algorithms", "--here", f"--logdir={tmp_path}")
    assert "--here carries out one" in ended.stdout + ended.stderr
