"""What the programs of the paper's experiments are made of."""

import json

import keras
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver

import keras_reptile as kr
from trainers import (
    agreement,
    common,
    gradient_combinations,
    overlap,
    plain_descent,
    run_series,
)
from trainers.usage import UsageError


@pytest.fixture(autouse=True)
def _as_started_without_flags():
    flags.FLAGS.mark_as_parsed()
    yield
    flags.FLAGS.unparse_flags()


def test_tasks_of_the_combinations_are_partitioned():
    for run in gradient_combinations.all_runs():
        steps = len(run.algorithm.coefficients)
        batches = kr.episodes.draw_indices([20] * 5, run.spec, 0, 3).batches
        assert sorted(np.ravel(batches)) == list(range(25 * steps))


def test_the_combinations_are_those_of_the_figure():
    runs = {
        run.name: run.algorithm.coefficients
        for run in gradient_combinations.all_runs()
    }
    assert len(runs) == 10
    assert runs["g1"] == [1]
    assert runs["g3"] == [0, 0, 1]
    assert runs["g1+g2+g3+g4"] == [1, 1, 1, 1]
    assert runs["mean of g1+g2"] == [0.5, 0.5]


# A task has 100 examples: at five steps of 25 cycling begins again.
@pytest.mark.parametrize(
    ("method", "steps", "size", "expected"),
    [
        (overlap.METHODS[1], 8, 25, 0.0),
        (overlap.METHODS[2], 4, 25, 0.0),
        (overlap.METHODS[2], 5, 25, 1.0),
        (overlap.METHODS[2], 4, 30, 0.9 * 20 / 30),
        (overlap.METHODS[3], 5, 25, 1 - 0.75**4),
        (overlap.METHODS[0], 4, 100, 1.0),
    ],
)
def test_overlap_of_the_last_batch(method, steps, size, expected):
    run = overlap.run_of(method, steps, size)
    assert overlap.overlap_of(run) == pytest.approx(expected, abs=0.02)


def test_overlap_of_a_tail_is_counted():
    support_and_tail = [[0, 3, 1, 3], [5, 4, 2, 0]]
    drawn = kr.episodes.EpisodeIndices(None, np.array(support_and_tail), None)
    assert overlap._overlap_of_tails([drawn], 2) == 0.25


def test_a_separate_tail_has_as_many_steps_and_examples():
    run = overlap.run_of(overlap.METHODS[1], 4, 100)
    assert (run.spec.inner_steps, run.spec.shots, run.spec.queries) == (
        3,
        15,
        5,
    )
    assert run.spec.batch_size == 75


def test_batch_overlap():
    assert kr.analysis.batch_overlap([[0, 1], [2, 3], [1, 4]]) == 0.5
    assert kr.analysis.batch_overlap([[0, 1]]) == 0.0
    nothing = kr.Examples(np.zeros((5, 1)), np.zeros(5))
    task = kr.Task(nothing, nothing, np.array([[0, 1], [2, 3], [1, 4]]))
    assert kr.analysis.batch_overlap(task) == 0.5
    tasks = [[[0, 1], [2, 3]], [[0, 1], [1, 0]]]
    assert kr.analysis.batch_overlap(tasks) == 0.5
    with pytest.raises(ValueError, match=r"Received: shape \(2,\)"):
        kr.analysis.batch_overlap([1, 2])


def test_smoothing_keeps_the_ends_and_a_line():
    curve = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert plain_descent.smoothed(curve) == curve
    assert plain_descent.smoothed([3.0, 0.0, 0.0, 3.0]) == [3.0, 1.0, 1.0, 3.0]


def test_every_run_is_one_that_the_model_takes():
    runs = gradient_combinations.all_runs()
    for method in overlap.METHODS:
        for panel, (full, short) in overlap._PANELS.items():
            for value in {*full, *short}:
                settings = overlap.settings_of(panel, value)
                runs.append(overlap.run_of(method, **settings))
    drawings = kr.data.ClassDataset(
        np.zeros((100, 28, 28, 1), "uint8"), [20] * 5
    )
    network = kr.models.omniglot_cnn(5)
    for run in runs:
        drawings.check(run.spec)
        kr.MetaModel(network, run.algorithm)
    keras.backend.clear_session()


@flagsaver.flagsaver(outer_step=0.9)
def test_the_outer_step_is_that_of_the_flag():
    runs = [*gradient_combinations.all_runs(), *agreement.all_runs()]
    runs.append(overlap.run_of(overlap.METHODS[0], 4, 25))
    assert {run.step for run in runs} == {0.9}
    # Where it is the experiment, it is that of the panel.
    settings = overlap.settings_of("outer step size", 0.1)
    assert overlap.run_of(overlap.METHODS[0], **settings).step == 0.1


@pytest.mark.parametrize(("short", "expected"), [(False, 0.25), (True, 0.5)])
def test_a_short_schedule_goes_as_far(short, expected):
    with flagsaver.flagsaver(short=short):
        runs = gradient_combinations.all_runs()
        assert {run.step for run in runs} == {expected}
        assert {run.step for run in agreement.all_runs()} == {0.25}


def four_runs():
    return [overlap.run_of(method, 4, 25) for method in overlap.METHODS]


@pytest.fixture
def carry_out_all(monkeypatch):
    """Of runs that take no time."""

    def carry_out(run, *_):
        return {"final": 0.5, "name": run.name}

    monkeypatch.setattr(plain_descent, "carry_out", carry_out)
    monkeypatch.setattr(common, "stop_on_sigterm", lambda logdir: None)

    def carry_out_all(program, runs, logdir, facts=None):
        return run_series.carry_out_all(
            program, runs, None, None, logdir, facts
        )

    return carry_out_all


def test_results_have_facts_of_runs_that_were_carried_out_before(
    carry_out_all, tmp_path
):
    runs = four_runs()
    carry_out_all("overlap", runs[:2], tmp_path)
    # The outer steps, which are settings, too, are the same of all.
    done = carry_out_all(
        "overlap", runs, tmp_path, lambda run: {"overlap": len(run.name)}
    )
    written = json.loads((tmp_path / "results.json").read_text())["runs"]
    assert written == done
    assert list(done) == [run.name for run in runs]
    for name, result in done.items():
        assert result == {"final": 0.5, "name": name, "overlap": len(name)}


def test_agreement_that_was_not_measured_from_the_start_is_measured(
    carry_out_all, tmp_path, monkeypatch
):
    runs = agreement.all_runs()
    carry_out_all("agreement", runs, tmp_path)
    calls = []

    def carry_out(run, *_):
        calls.append(run.name)
        return {"final": 0.5, "start": {}}

    monkeypatch.setattr(plain_descent, "carry_out", carry_out)
    for _ in range(2):
        carry_out_all("agreement", runs, tmp_path)
        assert calls == [run.name for run in runs]


def small_network(ways):
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Flatten(), keras.layers.Dense(ways)]
    return keras.Sequential([keras.Input((28, 28, 1)), *layers])


def test_agreement_is_measured_before_and_on_classes_held_out(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(kr.models, "omniglot_cnn", small_network)
    train, held_out = (kr.data.scribbles(6, seed=i) for i in range(2))
    splits = kr.data.Splits(train, held_out, held_out)
    run = agreement.all_runs()[1]
    few = {"validation_samples": 2, "eval_samples": 2}
    with flagsaver.flagsaver(short=True, meta_iters=2, points=1, **few):
        result = plain_descent.carry_out(run, splits, held_out, tmp_path)
        untrained = plain_descent.build_model(run)
        start = plain_descent.agreement_of(untrained, run, train, 20)
        agreement.report({run.name: result})
    assert result["start"] == pytest.approx(start, rel=1e-5)
    printed = capsys.readouterr().out
    for measure in agreement._MEASURES:
        late, new = *result[measure], result["held_out"][measure]
        first = result["start"][measure]
        assert len({first, late, new}) == 3
        assert f"{first:.3g} / {late:.3g} / {new:.3g}" in printed


def test_a_program_does_not_go_on_with_anothers_results(
    carry_out_all, tmp_path
):
    runs = four_runs()
    carry_out_all("overlap", runs, tmp_path)
    with pytest.raises(UsageError, match="'overlap'.*Received:.*'agreement'"):
        carry_out_all("agreement", runs, tmp_path)
    path = tmp_path / "results.json"
    record = json.loads(path.read_text())
    del record["settings"]["program"]  # As files of before.
    path.write_text(json.dumps(record))
    carry_out_all("overlap", runs, tmp_path)
    for others in ({"settings": [1]}, {"runs": []}):
        path.write_text(json.dumps({**record, **others}))
        with pytest.raises(UsageError, match="the settings it was started"):
            carry_out_all("overlap", runs, tmp_path)


@pytest.mark.parametrize(
    "content", ['{"settings": ', "[1, 2]", '{"settings": {}}', "\xff"]
)
def test_damaged_results_are_named(carry_out_all, tmp_path, content):
    path = tmp_path / "results.json"
    path.write_bytes(content.encode("latin1"))
    with pytest.raises(UsageError, match="results.json, which cannot be read"):
        carry_out_all("overlap", four_runs(), tmp_path)
    assert path.read_bytes() == content.encode("latin1")


def test_results_that_are_whole_are_left_as_they_are(
    carry_out_all, tmp_path, monkeypatch
):
    carry_out_all("overlap", four_runs(), tmp_path)
    monkeypatch.setattr(run_series.results_file, "write", None)
    carry_out_all("overlap", four_runs(), tmp_path)


def test_a_folder_with_a_picture_is_not_drawn_over(tmp_path):
    (tmp_path / "theory.png").write_bytes(b"mine")
    with flagsaver.flagsaver(logdir=str(tmp_path)):
        with pytest.raises(UsageError, match=r"already \(theory.png\)"):
            common.usable_logdir("theory", resumable=False)
