"""MetaTrainer: evaluation, logs and checkpoints."""

import contextlib
import os

import keras
import numpy as np
import pytest
from conftest import (
    SPEC,
    all_values,
    assert_same,
    messages,
    meta_model,
)
from watched_run import HELD_OUT, PROTOCOL, TRAIN, run, scalars, settings

import keras_reptile as kr
from keras_reptile import checkpoints


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
    for name in ("loss", "accuracy", "inner_loss"):
        assert [step for step, _ in tags[name]] == [4, 8, 12]
        np.testing.assert_allclose([v for _, v in tags[name]], history[name])
    np.testing.assert_allclose(
        [value for _, value in tags["val_accuracy"]], history["val_accuracy"]
    )
    assert "epoch_accuracy_ci95" in scalars(tmp_path / "epochs" / "validation")


@pytest.mark.parametrize(
    "monitor, better, metric",
    [
        ("val_accuracy", "max", "accuracy"),
        ("val_accuracy_transductive", "max", None),
        ("accuracy", "max", "accuracy"),
        (
            "entropy",
            "min",
            keras.metrics.SparseCategoricalCrossentropy("entropy", None, True),
        ),
        (
            "accuracy_error",
            "min",
            keras.metrics.SparseCategoricalCrossentropy("accuracy_error"),
        ),
        ("inner_loss", "min", None),
        ("loss", "min", None),
    ],
)
def test_callbacks_of_keras_find_which_way_is_better(
    tmp_path, monitor, better, metric
):
    callbacks = [
        keras.callbacks.EarlyStopping(monitor, min_delta=9, patience=1),
        keras.callbacks.ModelCheckpoint(
            str(tmp_path / "m.weights.h5"), monitor, save_weights_only=True
        ),
        keras.callbacks.ReduceLROnPlateau(monitor, min_delta=9, patience=9),
    ]
    model = meta_model(metrics=metric)
    _, history = run(
        model, callbacks=callbacks, validation=HELD_OUT, protocol=PROTOCOL
    )
    assert [callback.mode for callback in callbacks] == [better] * 3
    # Nothing gets better by 9.
    assert len(history["loss"]) == 2


def test_a_monitor_that_says_not_which_way_is_better_is_refused():
    stopping = keras.callbacks.EarlyStopping("gradient_cosine")
    model = meta_model()
    with pytest.raises(ValueError, match="'gradient_cosine' is better.*'max'"):
        run(model, callbacks=[stopping])
    assert model.meta_step == 0
    stopping.monitor = "val_acuracy"
    with pytest.raises(ValueError, match="of metrics loss, accuracy, inner_l"):
        run(model, callbacks=[stopping])
    stopping.monitor, stopping.mode = "gradient_cosine", "max"
    run(model, callbacks=[stopping], gradient_agreement=True)


def test_two_kinds_of_validation_are_told_apart(log):
    given = {"validation": HELD_OUT, "protocol": PROTOCOL}
    text = "`val_loss` and the others are of `validation_data`"
    for of_fit, of_trainer in ((0, 0), (1, 0), (0, 1), (1, 1)):
        data = {"validation_data": TRAIN.episodes(SPEC).take(1)}
        meta_model().fit(
            TRAIN.episodes(SPEC),
            steps_per_epoch=1,
            callbacks=[kr.MetaTrainer(**(given if of_trainer else {}))],
            verbose=0,
            **(data if of_fit else {}),
        )
        assert (text in messages(log)) == (of_fit and of_trainer)


def test_validation_on_what_is_trained_on_is_said(log):
    run(meta_model(), epochs=1, validation=HELD_OUT, protocol=PROTOCOL)
    assert "classes that are trained on" not in messages(log)
    some = HELD_OUT.subset([0, 1]), TRAIN.subset([2])
    mixed = kr.data.ClassDataset(
        np.concatenate([part.x for part in some]),
        np.concatenate([part.counts for part in some]),
    )
    for validation, number in ((TRAIN, TRAIN.num_classes), (mixed, 1)):
        log.clear()
        run(meta_model(), epochs=1, validation=validation, protocol=PROTOCOL)
        text = f"the MetaTrainer, {number} are of the classes that are trained"
        assert text in messages(log)


def test_checkpoints_that_cannot_be_resumed_are_said(log, tmp_path):
    text = "cannot be resumed exactly"
    run(meta_model(), epochs=1, checkpoint_dir=tmp_path / "stream")
    assert text not in messages(log)
    data = TRAIN.episodes(SPEC).take(4).repeat()
    for folder in (None, tmp_path / "dataset"):
        trainer = kr.MetaTrainer(checkpoint_dir=folder)
        model = meta_model()
        model.fit(data, steps_per_epoch=1, callbacks=[trainer], verbose=0)
        assert (text in messages(log)) == (folder is not None)
    # What the refusal to resume says to do.
    trainer = kr.MetaTrainer(checkpoint_dir=folder, resume=True)
    with pytest.raises(ValueError, match="kr.checkpoints.latest"):
        model.fit(data, steps_per_epoch=1, callbacks=[trainer], verbose=0)
    other = meta_model(dropout=False)
    checkpoints.restore(checkpoints.latest(folder, other), other)
    assert_same(all_values(other), all_values(model))


def test_evaluation_by_meta_steps_with_several_per_call():
    model = meta_model(**settings(), steps_per_execution=2)
    _, history = run(
        model, validation=HELD_OUT, protocol=PROTOCOL, eval_interval=8
    )
    # After steps 8 of the second epoch, and none in the others.
    assert len(history["val_accuracy"]) == 1


def test_an_interval_that_no_fit_comes_to_is_said(log, tmp_path):
    for interval, said in ((12, False), (13, True)):
        trainer = {"validation": HELD_OUT, "protocol": PROTOCOL}
        run(meta_model(), eval_interval=interval, **trainer)
        text = "MetaTrainer(eval_interval=13) is longer than this `fit` of 12"
        assert (text in messages(log)) == said
    log.clear()
    # It evaluates nothing, but writes checkpoints.
    run(meta_model(), epochs=1, eval_interval=100, checkpoint_dir=tmp_path)
    assert "is longer" not in messages(log)


def test_intervals_of_nothing_are_refused():
    with pytest.raises(ValueError, match="belongs to a `checkpoint_dir`"):
        kr.MetaTrainer(checkpoint_interval=5)
    with pytest.raises(ValueError, match="belongs to `validation`"):
        kr.MetaTrainer(eval_interval=5)
    kr.MetaTrainer(eval_interval=5, gradient_agreement=True)


@pytest.mark.parametrize("first", [False, True])
def test_a_callback_that_waits_before_the_trainer_is_named(log, first):
    trainer = kr.MetaTrainer(validation=HELD_OUT, protocol=PROTOCOL)
    waiting = keras.callbacks.EarlyStopping("val_accuracy_ci95", mode="max")
    callbacks = [waiting, [trainer]][:: -1 if first else 1]
    if not first:  # Keras says so, too, at the end of an epoch.
        context = pytest.warns(UserWarning, match="val_accuracy_ci95")
    else:
        context = contextlib.nullcontext()
    with context:
        meta_model().fit(
            TRAIN.episodes(SPEC), steps_per_epoch=1, callbacks=callbacks
        )
    text = "EarlyStopping comes before the MetaTrainer"
    assert (text in messages(log)) != first


def test_a_trainer_of_another_fit_is_refused():
    plain = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    plain.compile(loss="mse")
    x = np.zeros((2, 2))
    with pytest.raises(ValueError, match="`fit` of Sequential"):
        plain.fit(x, x[:, :1], callbacks=[kr.MetaTrainer()], verbose=0)
    model, episodes = meta_model(), TRAIN.episodes(SPEC)
    around = keras.callbacks.CallbackList([kr.MetaTrainer()], model=model)
    with pytest.raises(ValueError, match="or a CallbackList around it"):
        model.fit(episodes, steps_per_epoch=1, callbacks=around, verbose=0)


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
    # Of equals the later one.
    best = 5 - int(np.argmax(history["val_accuracy"][::-1]))
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


def test_keras_validation_is_no_part_of_the_accuracies():
    model = meta_model(**settings())
    trainer = kr.MetaTrainer(HELD_OUT, PROTOCOL, eval_interval=4)
    history = model.fit(
        TRAIN.episodes(SPEC, meta_batch_size=2),
        steps_per_epoch=2,
        epochs=4,
        validation_data=HELD_OUT.episodes(SPEC, meta_batch_size=2),
        validation_steps=1,
        callbacks=[trainer],
        verbose=0,
    ).history
    assert len(history["val_loss"]) == 4
    assert len(history["val_accuracy"]) == 2
    assert len(history["val_accuracy_ci95"]) == 2


class Vector(keras.metrics.Metric):
    def update_state(self, targets, outputs, sample_weight=None):
        pass

    def result(self):
        return keras.ops.zeros(2)


class Saying(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        logs["said"] = "something"


def test_what_is_logged_need_not_be_a_number(tmp_path):
    model = meta_model(metrics=[Vector()])
    model.fit(  # Before the trainer sees the logs.
        TRAIN.episodes(SPEC, meta_batch_size=2),
        steps_per_epoch=1,
        callbacks=[Saying(), kr.MetaTrainer()],
        verbose=0,
    )
    _, history = run(
        model,
        epochs=1,
        log_dir=tmp_path,
    )
    assert history["vector"][0].shape == (2,)
    assert {"loss", "inner_loss"} <= set(scalars(tmp_path))
    assert "vector" not in scalars(tmp_path)
