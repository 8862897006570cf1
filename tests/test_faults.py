"""Real processes that are killed, and what is left of their runs."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import assert_same
from test_trainers import QUICK, ROOT

from keras_reptile import checkpoints, files

HERE = pathlib.Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
STEPS = 200


def start(program, *arguments, **settings):
    return subprocess.Popen(
        [sys.executable, HERE / program, *arguments],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        **settings,
    )


def wait_for(process, step):
    """Until a run has done a meta-step; the last line if it ends before."""
    line = ""
    for line in process.stdout:
        if line.strip().isdecimal() and int(line) >= step:
            break
    return line


def end(process, number):
    process.send_signal(number)
    process.communicate(timeout=60)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing befalls, with a checkpoint of every meta-step.

    A resumed run has one more, where it ended the epoch that was cut off.
    """
    folder = tmp_path_factory.mktemp("whole")
    process = start(
        "run_to_kill.py", folder, '{"keep": 1000, "checkpoint_interval": 1}'
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0 and output.endswith("whole\n")
    return folder


def newest(folder):
    paths = checkpoints.list_steps(folder)
    return paths[-1] if paths else None


def assert_as_in(whole, path):
    """A checkpoint is bitwise the uninterrupted run's."""
    assert_same(
        checkpoints.read(path)[1], checkpoints.read(whole / path.name)[1]
    )


def kill_at(steps, folder, whole):
    """Kills a run, that resumes itself, at or just after each step."""
    rng = np.random.default_rng(int(steps[0]))
    for step in steps:
        process = start("run_to_kill.py", folder, "{}", str(step))
        reached = wait_for(process, step)
        # Somewhere in the step, or in the writing of its checkpoint.
        time.sleep(rng.uniform(0, 0.01))
        end(process, signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL, reached
        if newest(folder):
            assert_as_in(whole, newest(folder))


def check_kills(whole, folder, steps):
    folder.mkdir()
    kill_at(steps, folder, whole)
    process = start("run_to_kill.py", folder)
    assert process.communicate(timeout=300)[0].endswith("whole\n")
    assert newest(folder) == checkpoints.step_path(folder, STEPS)
    assert_as_in(whole, newest(folder))


def test_every_resumption_after_kill_9_is_exact(whole, tmp_path):
    check_kills(whole, tmp_path / "killed", [5, 93])


@pytest.mark.slow
def test_twenty_kills(whole, tmp_path):
    """Two runs of ten, at other steps each time; those are printed."""
    steps = np.random.default_rng().choice(np.arange(1, STEPS - 7), 20, False)
    for run in range(2):
        ours = np.sort(steps[run::2])
        print("Killed at", ours)
        check_kills(whole, tmp_path / f"run{run}", ours)


def kill_while_saving(folder, kills):
    """How many checkpoints were written, and files half written."""
    saver = start("run_to_save.py")
    assert saver.stdout.readline() == "ready\n"
    rng, written, partial = np.random.default_rng(), 0, 0
    for _ in range(kills):
        saver.stdin.write(f"{folder}\n")
        saver.stdin.flush()
        process = int(saver.stdout.readline())
        deadline = time.monotonic() + 60
        while not (folder / "done").exists() or not (
            (folder / "done").stat().st_size
        ):
            assert time.monotonic() < deadline
            time.sleep(1e-4)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(process, signal.SIGKILL)
        assert saver.stdout.readline() == "ended\n"
        done = (folder / "done").read_bytes()[-8:]
        written += check_saved(folder, int.from_bytes(done, "little"))
        partial += bool(list(folder.glob(".keras-reptile-partial-*")))
        files.FolderLock(folder).release()
        for path in folder.iterdir():
            path.unlink()
    saver.communicate()
    return written, partial


def check_saved(folder, done):
    """All that has a checkpoint's name is whole; none that was done lacks."""
    paths = checkpoints.list_steps(folder)
    assert 1 <= len(paths) <= 4
    for path in [*paths, folder / "best.npz"]:
        header, arrays = checkpoints.read(path)
        for array in arrays.values():
            np.testing.assert_array_equal(array, header["step"])
    assert header["step"] in (done, done + 1)
    header, _ = checkpoints.read(paths[-1])
    assert header["step"] in (done, done + 1)
    return done


def test_a_kill_while_saving_leaves_no_half_checkpoint(tmp_path):
    written, _ = kill_while_saving(tmp_path, 20)
    assert written >= 20


@pytest.mark.slow
def test_two_hundred_kills_while_saving(tmp_path):
    written, partial = kill_while_saving(tmp_path, 200)
    print(f"{written} checkpoints; in {partial} of 200 kills one half written")
    # Else no kill has met what it is to meet.
    assert partial > 20


def test_sigterm_saves_and_ends_with_0(whole, tmp_path):
    process = start("run_to_kill.py", tmp_path, "{}", "30")
    wait_for(process, 30)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    print(f"Ended after {time.monotonic() - began:.1f} s.")
    assert process.returncode == 0 and output.endswith("preempted\n")
    reached = int(output.split()[-2])
    assert reached < STEPS
    assert newest(tmp_path) == checkpoints.step_path(tmp_path, reached)
    process = start("run_to_kill.py", tmp_path)
    assert process.communicate(timeout=300)[0].endswith("whole\n")
    assert_as_in(whole, newest(tmp_path))


def test_a_second_run_on_the_folder_is_refused_until_the_first_ends(tmp_path):
    first = start("run_to_kill.py", tmp_path)
    wait_for(first, 10)
    os.kill(first.pid, signal.SIGSTOP)  # It lives, and does not end meanwhile.
    second = start("run_to_kill.py", tmp_path, stderr=subprocess.PIPE)
    _, said = second.communicate(timeout=300)
    assert second.returncode == 1
    assert f"in use by process {first.pid} of" in said
    end(first, signal.SIGKILL)
    third = start("run_to_kill.py", tmp_path)
    assert third.communicate(timeout=300)[0].endswith("whole\n")


def test_a_program_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "trainers.quickstart", *QUICK]
        + ["--meta_iters=500", f"--logdir={tmp_path}"],
        cwd=ROOT,
        env={**ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 600
    while not checkpoints.list_steps(tmp_path):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    print(f"Ended after {time.monotonic() - began:.1f} s.")
    assert process.returncode == 0
    assert f"--logdir={tmp_path} --resume" in output
    assert not (tmp_path / "results.json").exists()
    assert len(checkpoints.list_steps(tmp_path)) == 2
