"""MetaTrainer: evaluation, checkpoints, and exact resumption."""

import dataclasses
import functools
import os
import pathlib

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    SPEC,
    all_values,
    assert_same,
    blobs,
    meta_model,
    mlp,
)

import keras_reptile as kr
from keras_reptile import checkpoints

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TRAIN, HELD_OUT = blobs(seed=0), blobs(seed=1)
PROTOCOL = kr.Protocol(
    ways=3, shots=3, queries=2, inner_steps=4, num_episodes=12
)


def settings():
    return {
        "optimizer": keras.optimizers.SGD(kr.schedules.linear(1.0, 0.0, 12)),
        "dropout": True,
    }


def run(model, steps_per_epoch=4, epochs=3, callbacks=(), **trainer):
    trainer = kr.MetaTrainer(**trainer)
    stream = TRAIN.episodes(SPEC, meta_batch_size=2, seed=1)
    history = model.fit(
        stream,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        callbacks=[trainer, *callbacks],
        verbose=0,
    )
    return trainer, history.history


@functools.cache
def uninterrupted():
    """All values of the run of 12 meta-steps that nothing befalls."""
    model = meta_model(**settings())
    run(model)
    return all_values(model)


class StopAt(keras.callbacks.Callback):
    """As a kill would, but for the final checkpoint."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if self.model.meta_step == self.step:
            raise KeyboardInterrupt


def test_validation_goes_into_the_logs_and_to_tensorboard(tmp_path):
    tensorboard = keras.callbacks.TensorBoard(str(tmp_path / "epochs"))
    trainer, history = run(
        meta_model(**settings()),
        callbacks=[tensorboard],
        validation=HELD_OUT,
        protocol=PROTOCOL,
        log_dir=tmp_path / "steps",
    )
    assert len(history["val_accuracy"]) == 3
    for name in (
        "val_accuracy_ci95",
        "val_accuracy_transductive",
        "val_accuracy_before",
    ):
        assert len(history[name]) == 3
    np.testing.assert_allclose(
        history["outer_step_size"], [8 / 12, 4 / 12, 0], atol=1e-6
    )
    assert all(rate > 0 for rate in history["meta_steps_per_second"])
    tags = scalars(tmp_path / "steps")
    assert [step for step, _ in tags["val_accuracy"]] == [4, 8, 12]
    np.testing.assert_allclose(
        [value for _, value in tags["val_accuracy"]], history["val_accuracy"]
    )
    assert "epoch_accuracy_ci95" in scalars(tmp_path / "epochs" / "validation")


def scalars(folder):
    found = {}
    for path in pathlib.Path(folder).iterdir():
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                number = tf.make_ndarray(value.tensor)
                if number.ndim == 0 and number.dtype.kind == "f":
                    found.setdefault(value.tag, []).append(
                        (event.step, float(number))
                    )
    return found


def test_evaluation_by_meta_steps_with_several_per_call():
    model = meta_model(**settings(), steps_per_execution=2)
    _, history = run(
        model, validation=HELD_OUT, protocol=PROTOCOL, eval_interval=8
    )
    # After steps 8 of the second epoch, and none in the others.
    assert len(history["val_accuracy"]) == 1


def test_training_is_the_same_with_and_without_a_trainer(tmp_path):
    with_it, without = meta_model(**settings()), meta_model(**settings())
    run(
        with_it,
        validation=HELD_OUT,
        protocol=PROTOCOL,
        eval_interval=3,
        checkpoint_dir=tmp_path,
    )
    run(without)
    assert_same(all_values(with_it), all_values(without))


@pytest.mark.parametrize(
    "killed_at, interval",
    [
        (1, 3),
        pytest.param(4, None, marks=pytest.mark.slow),
        (5, 3),
        (11, None),
    ],
)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    tmp_path, killed_at, interval
):
    trainer = {"checkpoint_dir": tmp_path, "checkpoint_interval": interval}
    with pytest.raises(KeyboardInterrupt):
        run(meta_model(**settings()), callbacks=[StopAt(killed_at)], **trainer)
    resumed = meta_model(**settings())
    run(resumed, **trainer, resume=True)
    assert resumed.meta_step == 12
    assert_same(uninterrupted(), all_values(resumed))


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    whole = meta_model(**settings())
    run(whole, checkpoint_dir=tmp_path)
    again = meta_model(**settings())
    run(again, checkpoint_dir=tmp_path, resume=True)
    assert_same(all_values(whole), all_values(again))


def test_resume_without_a_checkpoint_starts_anew(tmp_path):
    model = meta_model(**settings())
    run(model, checkpoint_dir=tmp_path, resume=True)
    assert model.meta_step == 12


def test_another_runs_checkpoints_are_not_written_over(tmp_path):
    run(meta_model(**settings()), checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match="resume=True, or use another folder"):
        run(meta_model(**settings()), checkpoint_dir=tmp_path)


def test_the_newest_and_the_best_are_kept(tmp_path):
    trainer, history = run(
        meta_model(**settings()),
        epochs=6,
        steps_per_epoch=2,
        validation=HELD_OUT,
        protocol=PROTOCOL,
        checkpoint_dir=tmp_path,
        keep=2,
    )
    names = [path.name for path in checkpoints.list_steps(tmp_path)]
    assert names == ["step-000000010.npz", "step-000000012.npz"]
    best = int(np.argmax(history["val_accuracy"]))
    header, _ = checkpoints.read(tmp_path / "best.npz")
    assert header["step"] == 2 * (best + 1)
    assert trainer.best_accuracy == max(history["val_accuracy"])
    assert not list(tmp_path.glob(".keras-reptile*"))


@pytest.mark.parametrize(
    "arguments, text",
    [
        ({"validation": HELD_OUT}, "belong together"),
        ({"protocol": PROTOCOL}, "belong together"),
        ({"eval_interval": 0}, "`eval_interval`.*at least 1"),
        ({"checkpoint_interval": -1}, "`checkpoint_interval`.*at least 1"),
        ({"keep": 0}, "`keep`.*at least 1"),
        ({"resume": True}, "checkpoint_dir=None"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, text):
    with pytest.raises(ValueError, match=text):
        kr.MetaTrainer(**arguments)


@pytest.mark.parametrize("argument", ["checkpoint_dir", "log_dir"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, argument):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match="can be written to.*Choose another"):
        kr.MetaTrainer(**{argument: tmp_path / "file" / "runs"})


def test_resuming_needs_the_stream_itself(tmp_path):
    run(meta_model(**settings()), checkpoint_dir=tmp_path)
    trainer = kr.MetaTrainer(checkpoint_dir=tmp_path, resume=True)
    with pytest.raises(ValueError, match="not a dataset made from it"):
        meta_model(**settings()).fit(
            TRAIN.episodes(SPEC, 2).take(5),
            steps_per_epoch=4,
            callbacks=[trainer],
        )


def test_a_stream_that_starts_later_is_resumed_and_continued(tmp_path):
    def fit(model, **trainer):
        stream = TRAIN.episodes(SPEC, 2, seed=1, start=100)
        trainer = kr.MetaTrainer(**trainer)
        model.fit(
            stream, steps_per_epoch=4, epochs=2, callbacks=trainer, verbose=0
        )

    whole = meta_model()
    fit(whole)
    first, second = meta_model(), meta_model()
    stream = TRAIN.episodes(SPEC, 2, seed=1, start=100)
    for _ in range(2):
        first.fit(stream, steps_per_epoch=4, verbose=0)
    fit(second, checkpoint_dir=tmp_path, checkpoint_interval=4)
    checkpoints.step_path(tmp_path, 8).unlink()
    resumed = meta_model()
    fit(resumed, checkpoint_dir=tmp_path, checkpoint_interval=4, resume=True)
    assert_same(all_values(whole), all_values(first))
    assert_same(all_values(whole), all_values(resumed))


@pytest.mark.parametrize(
    "changes, seed, text",
    [
        ({"inner_optimizer": keras.optimizers.Adam(0.5, 0.0)}, 1, "inner_opt"),
        ({"optimizer": keras.optimizers.SGD(0.1)}, 1, "outer optimizer"),
        ({"inner_weight_decay": 0.9}, 1, "inner_weight_decay.*0.9 here"),
        ({"inner_state": "carry"}, 1, "inner_state.*carry here, and average"),
        ({}, 2, "'seed' is 2 here, and 1"),
        # A number of its own, as streams of equal ones are made once.
        ({}, np.int64(3), "'seed' is 3 here, and 1"),
    ],
)
def test_a_run_is_not_resumed_as_another_one(tmp_path, changes, seed, text):
    def fit(model, seed, resume):
        trainer = kr.MetaTrainer(checkpoint_dir=tmp_path, resume=resume)
        stream = TRAIN.episodes(SPEC, 2, seed)
        model.fit(stream, steps_per_epoch=1, callbacks=[trainer], verbose=0)

    fit(meta_model(), 1, False)
    other = meta_model(**changes)
    before = all_values(other)
    with pytest.raises(ValueError, match=text):
        fit(other, seed, True)
    assert_same(before, all_values(other))


def test_a_run_is_not_resumed_on_other_data(tmp_path):
    def fit(classes, **settings):
        trainer = kr.MetaTrainer(checkpoint_dir=tmp_path, **settings)
        stream = classes.episodes(SPEC, 2)
        model = meta_model()
        model.fit(stream, steps_per_epoch=1, callbacks=[trainer], verbose=0)

    fit(blobs())
    changed = blobs()
    changed.x[-1, -1] += 1e-6
    for other in (changed, kr.data.ClassDataset(blobs().x, [5, 7] * 4)):
        with pytest.raises(ValueError, match="'checksum of the data'"):
            fit(other, resume=True)
    fit(blobs(), resume=True)


def test_accuracies_of_a_run_are_of_one_protocol(tmp_path):
    def fit(protocol, resume=True, epochs=1, classes=HELD_OUT):
        run(
            meta_model(),
            epochs=epochs,
            checkpoint_dir=tmp_path,
            resume=resume,
            validation=protocol and classes,
            protocol=protocol,
        )

    fit(PROTOCOL, resume=False)
    with pytest.raises(ValueError, match="'checksum of the data'"):
        fit(PROTOCOL, classes=blobs(seed=9))
    with pytest.raises(ValueError, match="'num_episodes': 13.* here, and"):
        fit(dataclasses.replace(PROTOCOL, num_episodes=13))
    fit(None, epochs=2)  # Nothing that could be compared.
    with pytest.raises(ValueError, match="best.npz"):
        fit(dataclasses.replace(PROTOCOL, num_episodes=13), epochs=3)
    fit(PROTOCOL, epochs=3)


class Scaled:
    """An algorithm that is an instance and has no `get_config`."""

    def __init__(self, factor):
        self.factor = factor
        self.table = np.ones(2)
        self.other = blobs  # Told apart by its place in memory, if at all.

    def __call__(self, learner, state, task):
        return scaled_by(learner, state, task, self.factor)


def scaled_by(learner, state, task, factor):
    gradient, adapted = kr.algorithms.get("reptile")(learner, state, task)
    return [g * factor for g in gradient], adapted


@pytest.mark.parametrize(
    "algorithm",
    [Scaled, lambda factor: functools.partial(scaled_by, factor=factor)],
    ids=["instance", "partial"],
)
def test_nor_by_an_algorithm_made_otherwise(tmp_path, algorithm):
    def fit(factor, resume):
        model = kr.MetaModel(mlp(), algorithm(factor))
        model.compile(loss=LOSS)
        trainer = kr.MetaTrainer(checkpoint_dir=tmp_path, resume=resume)
        stream = TRAIN.episodes(SPEC, 2, seed=1)
        model.fit(stream, steps_per_epoch=1, callbacks=[trainer], verbose=0)

    fit(0.5, False)
    fit(0.5, True)
    with pytest.raises(ValueError, match="'algorithm' is .*0.25.* here, and"):
        fit(0.25, True)


def test_the_best_survives_a_resumption(tmp_path):
    trainer = {
        "validation": HELD_OUT,
        "protocol": PROTOCOL,
        "checkpoint_dir": tmp_path,
        # Saved before the evaluation at the end of the epoch.
        "checkpoint_interval": 4,
    }
    run(meta_model(**settings()), **trainer)
    header, _ = checkpoints.read(tmp_path / "best.npz")
    again, _ = run(meta_model(**settings()), **trainer, resume=True)
    assert again.best_accuracy == header["extra"]["best_accuracy"] > 0


def test_a_folder_with_only_a_best_one_is_not_written_over(tmp_path):
    checkpoints.write(tmp_path / "best.npz", meta_model())
    with pytest.raises(ValueError, match="must not write over"):
        run(meta_model(), checkpoint_dir=tmp_path)


def test_a_trainer_used_for_another_model_starts_anew(tmp_path):
    trainer = kr.MetaTrainer(checkpoint_dir=tmp_path)
    arguments = {"steps_per_epoch": 1, "callbacks": [trainer], "verbose": 0}
    meta_model().fit(TRAIN.episodes(SPEC), **arguments)
    with pytest.raises(ValueError, match="must not write over"):
        meta_model().fit(TRAIN.episodes(SPEC), **arguments)


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    old, new = (tmp_path / f".keras-reptile-partial-{n}" for n in "ab")
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    run(meta_model(), epochs=1, checkpoint_dir=tmp_path)
    # The folder is this run's alone, so no other one can be writing them.
    assert not new.exists() and not old.exists()


def test_validation_that_does_not_suit_is_refused_before_training():
    model = meta_model()
    for protocol, text in (
        (kr.Protocol(ways=4, shots=1), "width 3, and ways=4"),
        (kr.Protocol(ways=3, shots=9), "shots=9"),
    ):
        with pytest.raises(ValueError, match=text):
            run(model, validation=HELD_OUT, protocol=protocol)
    assert model.meta_step == 0


def test_the_history_of_a_resumed_run_has_the_epoch_that_was_cut_off(tmp_path):
    trainer = {"checkpoint_dir": tmp_path, "checkpoint_interval": 3}
    with pytest.raises(KeyboardInterrupt):
        run(meta_model(**settings()), callbacks=[StopAt(7)], **trainer)
    _, history = run(meta_model(**settings()), **trainer, resume=True)
    assert len(history["loss"]) == 2  # The second epoch's rest, the third.
