"""What goes on bitwise where it was stopped, and what is no such run."""

import contextlib
import dataclasses
import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    SPEC,
    all_values,
    assert_same,
    blobs,
    messages,
    meta_model,
    mlp,
)
from watched_run import (
    HELD_OUT,
    PROTOCOL,
    TRAIN,
    StopAt,
    run,
    settings,
    uninterrupted,
)

import keras_reptile as kr
from keras_reptile import checkpoints, descriptions
from keras_reptile import settings as run_settings

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


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
        ({"inner_state": "accumulate"}, 1, "inner_state.*accumulate here"),
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
        with pytest.raises(ValueError, match="checksum of the data' is"):
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
    with pytest.raises(ValueError, match="checksum of the data' is"):
        fit(PROTOCOL, classes=blobs(seed=9))
    with pytest.raises(ValueError, match="num_episodes' is 13 here, and 12"):
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


def closure(factor):
    def own(learner, state, task):
        return scaled_by(learner, state, task, factor)

    return own


def by_default(factor):
    return lambda learner, state, task, by=factor: scaled_by(
        learner, state, task, by
    )


@pytest.mark.parametrize(
    "algorithm",
    [
        Scaled,
        lambda factor: functools.partial(scaled_by, factor=factor),
        closure,
        by_default,
    ],
    ids=["instance", "partial", "closure", "default"],
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
    with pytest.raises(ValueError, match="'algorithm.*' is 0.25 here, and"):
        fit(0.25, True)


def test_checkpoints_that_name_functions_only_are_gone_on_from():
    here = {"loss": ["own", {"scale": 2.0}], "algorithm": "reptile"}
    before = {"loss": "own", "algorithm": "reptile"}
    assert run_settings.difference(here, before) is None
    assert run_settings.difference(here, {**before, "loss": "other"})


def test_what_cannot_be_written_of_a_function_is_its_kind():
    cycle, table = [1], [np.zeros((2_000, 100))]
    cycle.append(cycle)
    nameless = {}
    exec("def own(a=1): ...", nameless)
    for value in (
        cycle,
        tf.ragged.constant([[1], [2, 3]]),
        table,
        {"a": table},
        np.array([1j]),
        object(),
        functools.partial(print),
    ):
        description = descriptions.described(lambda value=value: value)
        assert len(json.dumps(description)) < 500
    assert descriptions.described(nameless["own"]) == ["own", {"a": 1}]
    one, two = (
        descriptions.described(lambda inner=inner: inner)
        for inner in (closure(1), closure(2))
    )
    assert one != two


def test_what_a_function_is_made_with_is_told_by_its_value():
    def made_with(value):
        return lambda learner, state, task: value

    table = np.arange(5_000.0)
    name, bound = descriptions.described(made_with(table))
    assert name == "<lambda>" and len(str(bound)) < 50
    for same, other in (
        (table.copy(), table + 1),
        (tf.constant([1.0]), tf.constant([2.0])),
        ([1, 2], [2, 1]),
    ):
        one, two, three = (
            descriptions.described(made_with(value))
            for value in (same, same, other)
        )
        assert one == two != three
    first, second = (tf.Variable(float(i)) for i in range(2))
    assert descriptions.described(made_with(first)) == descriptions.described(
        made_with(second)
    )
    assert descriptions.described(kr.algorithms.get("reptile")) == "reptile"


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


def test_the_history_of_a_resumed_run_has_the_epoch_that_was_cut_off(tmp_path):
    trainer = {"checkpoint_dir": tmp_path, "checkpoint_interval": 3}
    with pytest.raises(KeyboardInterrupt):
        run(meta_model(**settings()), callbacks=[StopAt(7)], **trainer)
    _, history = run(meta_model(**settings()), **trainer, resume=True)
    assert len(history["loss"]) == 2  # The second epoch's rest, the third.


@pytest.mark.parametrize("killed_at", [4, 6])
def test_averages_are_no_part_of_what_is_gone_on_from(tmp_path, killed_at):
    def model():
        outer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.9)
        return meta_model(optimizer=outer)

    trainer = {"checkpoint_dir": tmp_path, "checkpoint_interval": 1}
    whole, resumed = model(), model()
    run(whole)
    with pytest.raises(KeyboardInterrupt):
        run(model(), callbacks=[StopAt(killed_at)], **trainer)
    run(resumed, **trainer, resume=True)
    assert_same(all_values(whole), all_values(resumed))


def test_averages_swapped_in_for_evaluations_are_no_part_of_it(tmp_path):
    def trained(stop=(), **trainer):
        outer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.9)
        model, swap = (
            meta_model(optimizer=outer),
            keras.callbacks.SwapEMAWeights(),
        )
        watch = kr.MetaTrainer(**trainer)
        model.fit(
            TRAIN.episodes(SPEC, meta_batch_size=5),
            validation_data=HELD_OUT.episodes(SPEC, meta_batch_size=5),
            validation_steps=1,
            steps_per_epoch=4,
            epochs=3,
            verbose=0,
            callbacks=[swap, watch, *stop],
        )
        return model

    trainer = {"checkpoint_dir": tmp_path, "checkpoint_interval": 3}
    whole = trained()
    with pytest.raises(KeyboardInterrupt):
        trained([StopAt(10)], **trainer)
    assert_same(all_values(whole), all_values(trained(resume=True, **trainer)))


def test_averages_that_checkpoints_would_hold_are_refused(tmp_path):
    outer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.9)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model = meta_model(optimizer=outer)
    run(model, callbacks=[swap])  # Nothing is written.
    with pytest.raises(ValueError, match=r"Use SwapEMAWeights\(\)"):
        run(model, callbacks=[swap], checkpoint_dir=tmp_path)


class StopTrainingAt(StopAt):
    """As EarlyStopping would, in the middle of an epoch."""

    def on_train_batch_end(self, batch, logs=None):
        if self.model.meta_step == self.step:
            self.model.stop_training = True


def test_an_epoch_that_ends_the_run_ends_with_averages(tmp_path):
    outer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.9)
    trainer = {"checkpoint_dir": tmp_path, "checkpoint_interval": 1}
    with pytest.raises(KeyboardInterrupt):
        run(meta_model(optimizer=outer), callbacks=[StopAt(5)], **trainer)
    outer = keras.optimizers.SGD(0.5, use_ema=True, ema_momentum=0.9)
    model = meta_model(optimizer=outer)
    run(model, callbacks=[StopTrainingAt(7)], **trainer, resume=True)
    averages = model.optimizer._model_variables_moving_average
    for weight, average in zip(model.trainable_variables, averages):
        np.testing.assert_array_equal(weight.numpy(), average.numpy())


def test_a_history_of_ones_own_has_every_epoch_once(tmp_path):
    trainer = {"checkpoint_dir": tmp_path, "checkpoint_interval": 1}
    with pytest.raises(KeyboardInterrupt):
        run(meta_model(**settings()), callbacks=[StopAt(6)], **trainer)
    history = keras.callbacks.History()
    model = meta_model(**settings())
    run(model, callbacks=[history], **trainer, resume=True)
    assert history.epoch == [1, 2] and len(history.history["loss"]) == 2


def test_callbacks_that_begin_anew_are_said(tmp_path, log):
    for resume in (False, True):
        early = keras.callbacks.EarlyStopping(monitor="loss")
        best = keras.callbacks.ModelCheckpoint(
            tmp_path / "best.keras", "loss", save_best_only=True
        )
        trainer = {"checkpoint_dir": tmp_path, "resume": resume}
        run(meta_model(), epochs=1 + resume, callbacks=[early, best], **trainer)
        said = "EarlyStopping, ModelCheckpoint begin anew" in messages(log)
        assert said == resume


def test_a_best_one_by_itself_is_not_replaced_by_a_worse_one(tmp_path):
    trainer = {"validation": HELD_OUT, "protocol": PROTOCOL}
    trainer |= {"checkpoint_dir": tmp_path, "resume": True}
    first, _ = run(meta_model(**settings()), **trainer)
    for path in checkpoints.list_steps(tmp_path):
        path.unlink()
    best = (tmp_path / "best.npz").read_bytes()
    # The same run, which does not come as far.
    again, history = run(meta_model(**settings()), epochs=1, **trainer)
    assert history["val_accuracy"][-1] < again.best_accuracy
    assert again.best_accuracy == first.best_accuracy
    assert (tmp_path / "best.npz").read_bytes() == best


@pytest.mark.parametrize("killed_at", [10, 15])
def test_epochs_are_counted_from_where_a_run_began(tmp_path, killed_at):
    first = meta_model()
    run(first, epochs=2)
    checkpoints.write(tmp_path / "first.npz", first)

    def begun():
        model = meta_model()
        checkpoints.restore(tmp_path / "first.npz", model)
        return model

    whole, resumed = begun(), begun()
    run(whole)
    trainer = {"checkpoint_dir": tmp_path / "run", "checkpoint_interval": 1}
    with pytest.raises(KeyboardInterrupt):
        run(begun(), callbacks=[StopAt(killed_at)], **trainer, resume=True)
    run(resumed, **trainer, resume=True)
    assert whole.meta_step == 8 + 12
    assert_same(all_values(whole), all_values(resumed))


@pytest.mark.parametrize("killed_at", [3, 4, 6, 10])
def test_a_run_of_several_fits_goes_on_in_the_one_that_was_cut_off(
    tmp_path, killed_at
):
    def fit_twice(model, *callbacks):
        trainer = kr.MetaTrainer(
            checkpoint_dir=tmp_path, checkpoint_interval=1, resume=True
        )
        stream = TRAIN.episodes(SPEC, meta_batch_size=2, seed=1)
        for epochs in (1, 2):
            model.fit(
                stream,
                steps_per_epoch=4,
                epochs=epochs,
                callbacks=[trainer, *callbacks],
                verbose=0,
            )

    with pytest.raises(KeyboardInterrupt):
        fit_twice(meta_model(**settings()), StopAt(killed_at))
    model = meta_model(**settings())
    fit_twice(model)
    assert model.meta_step == 12
    assert_same(uninterrupted(), all_values(model))


def test_a_run_of_several_fits_is_gone_on_with_by_a_longer_one(tmp_path):
    """As where a notebook's cell is run twice, and once after a restart."""
    stream = TRAIN.episodes(SPEC, meta_batch_size=2, seed=1)

    def fit(model, trainer, epochs):
        model.fit(
            stream,
            steps_per_epoch=4,
            epochs=epochs,
            callbacks=[trainer],
            verbose=0,
        )

    def trainer():
        return kr.MetaTrainer(checkpoint_dir=tmp_path, resume=True)

    first, again = meta_model(**settings()), trainer()
    fit(first, again, 1)
    fit(first, again, 1)
    assert first.meta_step == 8
    model, later = meta_model(**settings()), trainer()
    fit(model, later, 3)
    assert_same(uninterrupted(), all_values(model))
    fit(model, later, 1)  # A further part of it.
    assert model.meta_step == 16


def test_a_fit_that_was_cut_off_is_finished_by_the_next_call(tmp_path):
    model = meta_model(**settings())
    trainer = kr.MetaTrainer(
        checkpoint_dir=tmp_path, checkpoint_interval=1, resume=True
    )
    stop = [StopAt(6)]
    for _ in range(2):
        with contextlib.suppress(KeyboardInterrupt):
            model.fit(
                TRAIN.episodes(SPEC, meta_batch_size=2, seed=1),
                steps_per_epoch=4,
                epochs=3,
                callbacks=[trainer, *stop],
                verbose=0,
            )
        stop = []
    assert_same(uninterrupted(), all_values(model))


def test_a_finished_run_says_that_nothing_is_left(tmp_path, log):
    for resume in (False, True):
        run(meta_model(), epochs=1, checkpoint_dir=tmp_path, resume=resume)
        assert ("nothing is left to train" in messages(log)) == resume


def test_a_run_does_not_go_on_with_other_episodes(tmp_path):
    model = meta_model()
    trainer, _ = run(
        model, checkpoint_dir=tmp_path, validation=HELD_OUT, protocol=PROTOCOL
    )
    stream = TRAIN.episodes(SPEC, meta_batch_size=2, seed=2)
    with pytest.raises(ValueError, match="'seed' is 2 now, and 1 when"):
        model.fit(stream, steps_per_epoch=1, callbacks=[trainer])
    stream = TRAIN.episodes(SPEC, meta_batch_size=2, seed=1)
    model.fit(stream, steps_per_epoch=1, callbacks=[trainer], verbose=0)
    assert model.meta_step == 13
