"""SIGTERM: the run ends after the meta-step, and goes on as if it had not."""

import os
import signal

import keras
import numpy as np
import pytest
from conftest import SPEC, all_values, assert_same, meta_model
from watched_run import (
    HELD_OUT,
    TRAIN,
    run,
    scalars,
    settings,
    uninterrupted,
)

import keras_reptile as kr
from keras_reptile import checkpoints, measurements

PROTOCOL = kr.Protocol(
    ways=3,
    shots=3,
    queries=2,
    inner_steps=2,
    num_episodes=12,
    modes="inductive",
)


def terminate():
    os.kill(os.getpid(), signal.SIGTERM)


class TerminateAt(keras.callbacks.Callback):
    """Has SIGTERM arrive during a meta-step."""

    def __init__(self, step, steps_per_call=1):
        super().__init__()
        self.step, self.steps_per_call = step, steps_per_call

    def on_train_batch_begin(self, batch, logs=None):
        if 0 < self.step - self.model.meta_step <= self.steps_per_call:
            terminate()


@pytest.mark.parametrize(
    "step, interval",
    [
        (1, None),
        pytest.param(3, 3, marks=pytest.mark.slow),
        pytest.param(4, None, marks=pytest.mark.slow),
        (12, 3),
    ],
)
def test_it_ends_after_the_meta_step_and_resumes_exactly(
    tmp_path, step, interval
):
    trainer = {"checkpoint_dir": tmp_path, "checkpoint_interval": interval}
    first = meta_model(**settings())
    preempted, _ = run(first, callbacks=[TerminateAt(step)], **trainer)
    assert preempted.preempted and first.meta_step == step
    saved = checkpoints.list_steps(tmp_path)[-1]
    assert saved == checkpoints.step_path(tmp_path, step)
    resumed = meta_model(**settings())
    again, _ = run(resumed, **trainer, resume=True)
    assert not again.preempted and resumed.meta_step == 12
    assert_same(uninterrupted(), all_values(resumed))


def test_several_meta_steps_per_call_end_together(tmp_path):
    model = meta_model(**settings(), steps_per_execution=2)
    trainer, _ = run(
        model, callbacks=[TerminateAt(3, 2)], checkpoint_dir=tmp_path
    )
    assert trainer.preempted and model.meta_step == 4


def during_evaluation(monkeypatch, number):
    """Has SIGTERM arrive half through the n-th evaluation of the process."""
    evaluations = []
    evaluate = measurements.evaluate

    def terminated(model, classes, protocol, stop):
        evaluations.append(model.meta_step)
        asked = []

        def half_through():
            asked.append(None)
            if len(evaluations) == number and len(asked) == 2:
                terminate()
            return stop()

        return evaluate(model, classes, protocol, half_through)

    monkeypatch.setattr(measurements, "evaluate", terminated)


def all_of(folder):
    """What a run with evaluations leaves behind."""
    header, best = checkpoints.read(folder / "best.npz")
    # What follows group and index differs between copies of a model.
    best = {"/".join(k.split("/")[:2]): array for k, array in best.items()}
    accuracies = scalars(folder / "scalars")["val_accuracy"]
    return header["step"], best, sorted(accuracies)


@pytest.mark.parametrize(
    "number, arguments, step",
    [
        (3, {}, 12),  # At the end of all.
        pytest.param(2, {"eval_interval": 3}, 6, marks=pytest.mark.slow),
        pytest.param(1, {"checkpoint_interval": 2}, 4, marks=pytest.mark.slow),
    ],
)
def test_an_evaluation_given_up_is_made_up_for(
    tmp_path, monkeypatch, number, arguments, step
):
    def start(name, model, **more):
        return run(
            model,
            validation=HELD_OUT,
            protocol=PROTOCOL,
            checkpoint_dir=tmp_path / name,
            log_dir=tmp_path / name / "scalars",
            **arguments,
            **more,
        )

    whole, interrupted = meta_model(**settings()), meta_model(**settings())
    start("whole", whole)
    with monkeypatch.context() as patch:
        during_evaluation(patch, number)
        trainer, _ = start("other", interrupted)
    assert trainer.preempted and interrupted.meta_step == step
    # And once more, while it is being made up for: nothing is trained.
    interrupted = meta_model(**settings())
    with monkeypatch.context() as patch:
        during_evaluation(patch, 1)
        trainer, history = start("other", interrupted, resume=True)
    assert trainer.preempted and interrupted.meta_step == step
    assert history == {}
    resumed = meta_model(**settings())
    start("other", resumed, resume=True)
    assert_same(all_values(whole), all_values(resumed))
    ours, theirs = all_of(tmp_path / "whole"), all_of(tmp_path / "other")
    assert ours[0] == theirs[0] and ours[2] == theirs[2]
    assert_same(ours[1], theirs[1])


def test_an_epoch_that_is_cut_off_is_evaluated_at_its_end(tmp_path):
    trainer = {
        "validation": HELD_OUT,
        "protocol": PROTOCOL,
        "checkpoint_dir": tmp_path,
        "log_dir": tmp_path / "scalars",
    }
    run(meta_model(**settings()), callbacks=[TerminateAt(6)], **trainer)
    run(meta_model(**settings()), **trainer, resume=True)
    accuracies = scalars(tmp_path / "scalars")["val_accuracy"]
    assert sorted(step for step, _ in accuracies) == [4, 8, 12]


def test_after_the_run_the_signal_is_its_owners_again(tmp_path):
    def of_the_owner(number, frame):
        """Not called."""

    class Fail(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert signal.getsignal(signal.SIGTERM) != of_the_owner
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, of_the_owner)
    try:
        with pytest.raises(KeyboardInterrupt):
            run(meta_model(), callbacks=[Fail()], checkpoint_dir=tmp_path)
        assert signal.getsignal(signal.SIGTERM) == of_the_owner
        run(meta_model(), epochs=1, checkpoint_dir=tmp_path)
        with pytest.raises(ValueError, match="must not write over"):
            run(meta_model(), checkpoint_dir=tmp_path)
        assert signal.getsignal(signal.SIGTERM) == of_the_owner
    finally:
        signal.signal(signal.SIGTERM, before)


def test_two_trainers_take_notice_and_give_it_back(tmp_path):
    trainers = [kr.MetaTrainer(checkpoint_dir=tmp_path / name) for name in "ab"]
    before = signal.getsignal(signal.SIGTERM)
    model = meta_model(**settings())
    model.fit(
        TRAIN.episodes(SPEC, meta_batch_size=2, seed=1),
        steps_per_epoch=4,
        callbacks=[*trainers, TerminateAt(2)],
        verbose=0,
    )
    assert all(trainer.preempted for trainer in trainers)
    assert model.meta_step == 2
    assert signal.getsignal(signal.SIGTERM) == before


def test_one_that_comes_too_late_is_its_owners(tmp_path):
    heard = []

    class Late(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            terminate()

    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(None))
    try:
        run(meta_model(), callbacks=[Late()], checkpoint_dir=tmp_path)
        assert heard == [None]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_checkpoints_there_is_nothing_to_wait_for():
    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            self.handler = signal.getsignal(signal.SIGTERM)

    look, before = Look(), signal.getsignal(signal.SIGTERM)
    run(meta_model(), epochs=1, callbacks=[look])
    assert look.handler == before


def test_an_evaluation_can_be_given_up():
    model = meta_model()
    asked = []

    def stop():
        asked.append(None)
        return len(asked) == 2

    assert kr.evaluate(model, TRAIN, PROTOCOL, stop=stop) is None
    assert len(asked) == 2
    scores = kr.evaluate(model, TRAIN, PROTOCOL, stop=lambda: False)
    np.testing.assert_array_equal(
        scores["inductive"].per_episode,
        kr.evaluate(model, TRAIN, PROTOCOL)["inductive"].per_episode,
    )
