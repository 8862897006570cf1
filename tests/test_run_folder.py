"""The folder of a run: one run at a time, full disks, damaged files."""

import contextlib
import errno
import os
import resource
import subprocess

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import LOSS, SPEC, all_values, assert_same, meta_model
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
from keras_reptile import checkpoints, files, workers
from keras_reptile.run import Run
from keras_reptile.run_folder import RunFolder
from keras_reptile.scalars import Scalars

# Of a checkpoint, without which there is room for part of one.
HALF = 5_000


def names(folder):
    """All that is in a folder but the lock."""
    return sorted({path.name for path in folder.iterdir()} - {".lock"})


class Do(keras.callbacks.Callback):
    """Calls functions after meta-steps."""

    def __init__(self, **functions):
        super().__init__()
        self.functions = functions

    def on_train_batch_end(self, batch, logs=None):
        self.functions.get(f"after_{self.model.meta_step}", lambda: None)()


@pytest.mark.parametrize(
    ("raised", "told"), [(ValueError, ValueError), (RuntimeError, OSError)]
)
def test_all_workers_are_told_of_what_kind_an_error_is(
    tmp_path, monkeypatch, raised, told
):
    """By which a program knows whether to be started again."""
    folder = RunFolder(tmp_path, 3, True, on_write_error="stop")
    monkeypatch.setattr(workers, "number_of_workers", lambda strategy: 2)
    monkeypatch.setattr(workers, "from_chief", lambda strategy, sent: sent)

    def fail(*arguments):
        raise raised("of the chief")

    monkeypatch.setattr(checkpoints, "latest", fail)
    with pytest.raises(told, match=f"{raised.__name__}: of the chief"):
        folder.begin(meta_model(), {}, goes_on=False)


def test_a_second_run_is_refused(tmp_path):
    def second():
        message = f"in use by process {os.getpid()} of .*use another folder"
        for resume in (True, False):
            with pytest.raises(ValueError, match=message):
                run(meta_model(), checkpoint_dir=tmp_path, resume=resume)

    whole, first = meta_model(), meta_model()
    run(whole, epochs=1)
    run(
        first, epochs=1, callbacks=[Do(after_2=second)], checkpoint_dir=tmp_path
    )
    assert_same(all_values(whole), all_values(first))
    with pytest.raises(KeyboardInterrupt):
        run(
            meta_model(),
            callbacks=[StopAt(5)],
            checkpoint_dir=tmp_path,
            resume=True,
        )
    run(meta_model(), checkpoint_dir=tmp_path, resume=True)


def test_a_file_system_without_locks_is_no_hindrance(
    tmp_path, monkeypatch, caplog
):
    def flock(file, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with caplog.at_level("WARNING"):
        run(meta_model(), epochs=1, checkpoint_dir=tmp_path)
    assert "cannot be locked" in caplog.text


@contextlib.contextmanager
def small_tmpfs(path, size="256k"):
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", path]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.fixture(params=["tmpfs", "limit"])
def full(request, tmp_path):
    """A folder, and functions that fill its disk and make room again.

    On a real disk of 256 KB; and by the system's limit of a file's size, which
    needs no rights, and by which as well half a file is written.
    """
    if request.param == "limit":
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

        def limit(soft):
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, unlimited[1]))

        yield (
            tmp_path,
            lambda: limit(HALF),
            lambda: limit(unlimited[0]),
            "File too large",
        )
        limit(unlimited[0])
        return
    with small_tmpfs(tmp_path / "small") as folder:
        filling = folder / "filling"

        def fill():
            free = os.statvfs(folder)
            free = free.f_bavail * free.f_bsize
            filling.write_bytes(bytes(max(0, free - HALF)))

        yield folder, fill, filling.unlink, "No space left"


def whole_checkpoints(folder):
    """The steps of those in a folder; no other file is there."""
    paths = checkpoints.list_steps(folder)
    assert set(names(folder)) <= {p.name for p in paths} | {
        "filling",
        "best.npz",
    }
    return [checkpoints.read(path)[0]["step"] for path in paths]


def test_a_full_disk_stops_the_run(full):
    folder, fill, make_room, said = full
    message = f"step-000000008.npz could not be written .*{said}.*Make room"
    with pytest.raises(OSError, match=message):
        run(
            meta_model(**settings()),
            callbacks=[Do(after_6=fill)],
            checkpoint_dir=folder,
        )
    assert whole_checkpoints(folder) == [4]
    make_room()
    resumed = meta_model(**settings())
    run(resumed, checkpoint_dir=folder, resume=True)
    assert_same(uninterrupted(), all_values(resumed))


def test_or_it_goes_on(full, caplog):
    folder, fill, make_room, said = full
    model = meta_model(**settings())

    def look():
        assert whole_checkpoints(folder) == [2, 4]

    with caplog.at_level("ERROR"):
        run(
            model,
            callbacks=[Do(after_5=fill, after_9=look, after_11=make_room)],
            checkpoint_dir=folder,
            checkpoint_interval=2,
            on_write_error="continue",
        )
    assert_same(uninterrupted(), all_values(model))
    assert whole_checkpoints(folder) == [2, 4, 12]
    for step in (6, 8, 10):
        assert f"step-{step:09d}.npz could not be written" in caplog.text
    assert said in caplog.text and "Training goes on" in caplog.text


@pytest.mark.parametrize("on_write_error", ["stop", "continue"])
def test_scalars_on_a_full_disk(tmp_path, caplog, on_write_error):
    scalars = Scalars(tmp_path, on_write_error)
    scalars.open(tf.distribute.get_strategy())
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, unlimited[1]))
    stops = pytest.raises(OSError, match="meta-step 7 could not be written")
    try:
        with stops if on_write_error == "stop" else contextlib.nullcontext():
            scalars.write(7, {"val_accuracy": 0.5})
        scalars.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    if on_write_error == "continue":
        assert "could not be written" in caplog.text
    # Nor does it stay where the next writer finds it.
    assert tf.summary.experimental.get_step() is None
    assert not tf.summary.should_record_summaries()


def test_a_best_one_that_could_not_be_written_is_not_the_best(
    tmp_path, monkeypatch
):
    from keras_reptile import run_folder

    def fails(path, *arguments):
        if path.name == "best.npz":
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_folder.checkpoints, "write", fails)
    trainer, _ = run(
        meta_model(),
        epochs=1,
        validation=HELD_OUT,
        protocol=PROTOCOL,
        checkpoint_dir=tmp_path,
        on_write_error="continue",
    )
    assert trainer.best_accuracy is None


def truncate(content):
    return content[: len(content) // 2]


def flip_a_bit(content):
    """In the middle of the largest array's bytes."""
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 4
    return bytes(flipped)


DAMAGES = [truncate, lambda content: b"", flip_a_bit]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(
            damage, id=name, marks=() if name == "bit" else pytest.mark.slow
        )
        for name, damage in zip(["half", "empty", "bit"], DAMAGES)
    ],
)
def test_the_one_before_a_damaged_one_is_used(tmp_path, caplog, damage):
    whole = meta_model(**settings())
    run(whole, checkpoint_dir=tmp_path, checkpoint_interval=4)
    for path in checkpoints.list_steps(tmp_path)[1:]:
        path.write_bytes(damage(path.read_bytes()))
    resumed = meta_model(**settings())
    with caplog.at_level("WARNING"):
        run(resumed, checkpoint_dir=tmp_path, resume=True)
    for step in (8, 12):
        assert f"step-{step:09d}.npz" in caplog.text
    assert caplog.text.count("the one before it is used") == 2
    assert_same(all_values(whole), all_values(resumed))


def test_damaged_ones_do_not_count_among_those_that_stay(tmp_path):
    run(meta_model(**settings()), checkpoint_dir=tmp_path)
    checkpoints.list_steps(tmp_path)[-1].write_bytes(b"")
    with pytest.raises(KeyboardInterrupt):
        run(
            meta_model(**settings()),
            callbacks=[StopAt(10)],
            checkpoint_dir=tmp_path,
            checkpoint_interval=1,
            keep=1,
            resume=True,
        )
    steps = [p.name for p in checkpoints.list_steps(tmp_path)]
    assert steps == ["step-000000010.npz", "step-000000012.npz"]
    resumed = meta_model(**settings())
    run(resumed, checkpoint_dir=tmp_path, resume=True)
    assert_same(uninterrupted(), all_values(resumed))


def test_a_disk_that_fails_is_no_damage(tmp_path, monkeypatch):
    run(meta_model(), checkpoint_dir=tmp_path)

    def fails(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(checkpoints.pathlib.Path, "read_bytes", fails)
    with pytest.raises(OSError, match="Input/output error"):
        run(meta_model(), checkpoint_dir=tmp_path, resume=True)


def test_a_model_that_begins_anew_leaves_the_folder_alone(tmp_path):
    model = meta_model(**settings())
    trainer, _ = run(model, checkpoint_dir=tmp_path)
    model.compile(loss=LOSS, jit_compile=False)
    with pytest.raises(ValueError, match="must not write over"):
        model.fit(
            TRAIN.episodes(SPEC, meta_batch_size=2, seed=1),
            steps_per_epoch=1,
            callbacks=[trainer],
        )


@pytest.mark.parametrize("damage", DAMAGES[2:], ids=["bit"])
def test_a_damaged_best_one_is_said_and_replaced(tmp_path, caplog, damage):
    arguments = {
        "validation": HELD_OUT,
        "protocol": PROTOCOL,
        "checkpoint_dir": tmp_path,
    }
    run(meta_model(**settings()), epochs=2, **arguments)
    best = tmp_path / "best.npz"
    best.write_bytes(damage(best.read_bytes()))
    with caplog.at_level("WARNING"):
        trainer, history = run(
            meta_model(**settings()), **arguments, resume=True
        )
    assert (
        "best.npz" in caplog.text and "next evaluation replaces" in caplog.text
    )
    header, _ = checkpoints.read(best)
    assert header["step"] == 12
    assert header["extra"]["best_accuracy"] == trainer.best_accuracy
    np.testing.assert_equal(history["val_accuracy"], [trainer.best_accuracy])


def test_an_answer_to_write_errors_is_one_of_two():
    with pytest.raises(ValueError, match="on_write_error='ignore'"):
        kr.MetaTrainer(on_write_error="ignore")


def test_a_user_who_is_not_there_has_no_folder():
    with pytest.raises(ValueError, match="Choose another one"):
        files.writable_folder("~nobody-of-this-name/runs")


@pytest.mark.parametrize("folder", [5, "with\0null"])
def test_what_is_no_path_is_refused(folder):
    with pytest.raises(ValueError, match="Checkpoints and logs need a folder"):
        kr.MetaTrainer(checkpoint_dir=folder)


def test_old_checkpoints_that_cannot_go_stop_nothing(
    tmp_path, monkeypatch, caplog
):
    def unlink(path, missing_ok=False):
        raise PermissionError(errno.EACCES, "Permission denied")

    model = meta_model(**settings())
    with monkeypatch.context() as patched, caplog.at_level("WARNING"):
        patched.setattr(checkpoints.pathlib.Path, "unlink", unlink)
        run(model, checkpoint_dir=tmp_path, checkpoint_interval=1)
    assert "Old checkpoints could not go" in caplog.text
    assert len(checkpoints.list_steps(tmp_path)) == model.meta_step == 12


def test_of_equals_the_later_one_is_the_best(tmp_path):
    model = meta_model()
    run = Run(str(tmp_path), keep=3, resume=False, on_write_error="stop")
    run.takes_another(model)
    run.begin_fit({})
    for step, accuracy in enumerate([0.5, 0.9, 0.9, 0.8]):
        model.optimizer.iterations.assign(step)
        run.save_best(accuracy)
    run.end_fit()
    assert checkpoints.read(tmp_path / "best.npz")[0]["step"] == 2
