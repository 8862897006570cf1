"""`trainers.launch`: one fate, one exit code and one log for all workers."""

import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from trainers import launch, supervisor

# A worker that needs no TensorFlow; what it does follows as its arguments.
TOY = """
import json, os, signal, sys, time
number = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
"""


def supervised(script, workers=2, restarts=0, grace=0.5, **settings):
    """The exit code of toy workers, their lines and the seconds taken."""
    lines, begun = [], time.monotonic()

    def start(attempt):
        command = [sys.executable, "-c", TOY + script, str(attempt)]
        return [(command, e) for e in launch.environments(workers)]

    code = supervisor.Supervisor(
        start, restarts, grace, lines.append, **settings
    ).run()
    return code, lines, time.monotonic() - begun


def test_all_end_well_and_every_line_says_whose_it_is():
    code, lines, _ = supervised(
        "for i in range(3): print('line', i, flush=True)\n"
        "print('step 1\\rstep 2')\n"
        "print('an error', file=sys.stderr)\n"
        "sys.stdout.write('no end of line')",
        workers=3,
    )
    assert code == 0
    for worker in range(3):
        mine = [x for x in lines if x.startswith(f"[worker {worker}] ")]
        texts = [line.partition("] ")[2] for line in mine]
        assert sorted(texts) == sorted(
            ["line 0", "line 1", "line 2", "step 2"]
            + ["an error", "no end of line"]
        )
        assert texts.index("line 0") < texts.index("line 2")
    assert len(lines) == 3 * 6


@pytest.mark.parametrize(
    "cores, workers, shares",
    [
        ({0, 1}, 2, [{0}, {1}]),
        ({2, 5, 7, 9, 11}, 2, [{2, 5}, {7, 9, 11}]),
        ({4, 6}, 3, [{4, 6}, {4, 6}, {4, 6}]),
        ({0, 1, 2}, 1, [{0, 1, 2}]),
    ],
)
def test_cores_are_shared_out(cores, workers, shares):
    assert supervisor.core_shares(cores, workers) == shares


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="Cores cannot be chosen here."
)
@pytest.mark.parametrize("pin_cores", [True, False])
def test_every_worker_has_its_cores(pin_cores):
    _, lines, _ = supervised(
        "print(sorted(os.sched_getaffinity(0)))", pin_cores=pin_cores
    )
    mine = os.sched_getaffinity(0)
    shares = supervisor.core_shares(mine, 2) if pin_cores else [mine, mine]
    expected = [f"[worker {w}] {sorted(s)}" for w, s in enumerate(shares)]
    assert sorted(lines) == expected


def test_the_others_end_with_one_that_died():
    code, lines, seconds = supervised(
        "sys.exit(7) if number == 1 else time.sleep(60)"
    )
    assert code == 7
    assert "[launch] worker 1 ended with exit code 7" in lines
    assert "[launch] SIGKILL to 1 workers" in lines
    assert 0.5 < seconds < 10


def test_a_survivor_has_time_to_say_what_it_saw():
    code, lines, _ = supervised(
        "if number == 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "time.sleep(0.5); print('the other is gone'); sys.exit(1)",
        grace=30,
    )
    assert code == 128 + signal.SIGKILL
    assert "[launch] worker 0 was ended by SIGKILL" in lines
    assert "[worker 1] the other is gone" in lines


def test_all_are_restarted_as_often_as_allowed():
    script = (
        "print('life', sys.argv[1], flush=True)\n"
        "if sys.argv[1] == '2': sys.exit(0)\n"
        "sys.exit(3) if number == 0 else time.sleep(60)"
    )
    code, lines, _ = supervised(script, restarts=2)
    assert code == 0
    lives = [line for line in lines if "life" in line]
    assert sorted(lives) == [
        f"[worker {worker}] life {life}"
        for worker in range(2)
        for life in range(3)
    ]
    code, lines, _ = supervised(script, restarts=1)
    assert code == 3
    assert "[launch] restart 1 of 1" in lines


def test_each_life_has_ports_of_its_own():
    ports = launch.free_ports(4)
    assert len(set(ports)) == 4
    lives = [launch.environments(2)[0]["TF_CONFIG"] for _ in range(2)]
    assert lives[0] != lives[1]
    first, second = (e["TF_CONFIG"] for e in launch.environments(2))
    assert first.replace('"index": 0', '"index": 1') == second


def test_command_lines():
    def flags(program, restarted):
        return launch.command_of(program.split(), restarted)[2:]

    assert flags("trainers.omniglot", False) == [
        "trainers.omniglot",
        "--strategy=multiworker",
    ]
    assert flags("a.b --strategy=none --x", True) == (
        ["a.b", "--strategy=none", "--x", "--resume"]
    )
    assert flags("a.b --strategy=none --resume", True)[-1] == "--resume"
    assert flags("a.b --resume", True).count("--resume") == 1
    assert flags("a.b -strategy=none --resume=true", True) == (
        ["a.b", "-strategy=none", "--resume=true"]
    )


def program(tmp_path, script, *arguments):
    """`trainers.launch` with a toy module, as a process of its own."""
    (tmp_path / "toy_worker.py").write_text(TOY + script)
    root = pathlib.Path(launch.__file__).parent.parent
    return subprocess.Popen(
        [sys.executable, "-m", "trainers.launch", *arguments],
        env={**os.environ, "PYTHONPATH": f"{root}:{tmp_path}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_passed_on_and_end_the_restarts(tmp_path, number):
    script = (
        "def end(n, frame): print('got', n, flush=True); sys.exit(number)\n"
        "for s in (signal.SIGTERM, signal.SIGINT): signal.signal(s, end)\n"
        "cores = sorted(os.sched_getaffinity(0))\n"
        "print('ready', sys.argv[1:], cores, flush=True)\n"
        "time.sleep(60)"
    )
    started = program(
        tmp_path, script, "--restarts=5", "--", "toy_worker", "--some=flag"
    )
    said = [started.stdout.readline() for _ in range(2)]
    shares = supervisor.core_shares(os.sched_getaffinity(0), 2)
    assert sorted(said) == [
        f"[worker {w}] ready ['--some=flag', '--strategy=multiworker'] "
        f"{sorted(shares[w])}\n"
        for w in range(2)
    ]
    started.send_signal(number)
    rest = started.communicate(timeout=30)[0]
    assert f"[worker 0] got {int(number)}" in rest
    assert f"[worker 1] got {int(number)}" in rest
    assert "restart" not in rest
    assert started.returncode == 1  # Of worker 1; worker 0 ended with 0.


def test_a_program_that_is_not_there(tmp_path):
    started = program(tmp_path, "", "--workers=2", "--", "no_such_module")
    said = started.communicate(timeout=30)[0]
    assert started.returncode == 2
    assert "Received: ['no_such_module']" in said
    started = program(tmp_path, "", "--workers=2", "--", "no/such.py")
    assert "Received: ['no/such.py']" in started.communicate(timeout=30)[0]


def test_a_wrong_command_line_is_not_tried_again():
    code, lines, _ = supervised("sys.exit(2)", restarts=3)
    assert code == 2
    assert not [line for line in lines if "restart" in line]


def test_nor_if_another_worker_failed_first():
    script = (
        "if number == 0: time.sleep(0.5); sys.exit(2)\n"
        "print('life', flush=True); sys.exit(1)"
    )
    code, lines, _ = supervised(script, restarts=2, grace=30)
    assert code == 2 and lines.count("[worker 1] life") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' prctl")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_workers_do_not_outlive_it(tmp_path, number):
    script = "print(os.getpid(), flush=True); time.sleep(60)"
    started = program(tmp_path, script, "--", "toy_worker")
    workers = [int(started.stdout.readline().split()[-1]) for _ in range(2)]
    started.send_signal(number)
    started.communicate(timeout=30)
    # The launcher is gone; they are told so, and end a moment later.
    deadline = time.monotonic() + 30
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(process):
    """Whether a process runs; one that nobody waits for has no files."""
    try:
        return bool(os.listdir(f"/proc/{process}/fd"))
    except FileNotFoundError:
        return False


def trained(folder, steps, kills, grace):
    """A real run of two workers: its end, its exit code and what it said."""
    tests = pathlib.Path(__file__).parent
    done = subprocess.run(
        [
            *(sys.executable, "-m", "trainers.launch", "--workers=2"),
            *(f"--restarts={len(kills)}", f"--grace={grace}", "--"),
            *("run_launched", f"--logdir={folder}", f"--steps={steps}"),
            f"--kills={','.join(kills)}",
        ],
        env={**os.environ, "PYTHONPATH": f"{tests.parent}:{tests}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=600 + 300 * len(kills),
    )
    assert done.returncode == 0, done.stdout[-6000:]
    assert len(list(folder.glob("killed-*"))) == len(kills)
    # Killed, and restarted, as often as it was to be.
    assert done.stdout.count("was ended by SIGKILL") == len(kills)
    return dict(np.load(folder / "end.npz"))


def assert_survived(tmp_path, steps, kills, grace=30.0):
    whole = trained(tmp_path / "whole", steps, [], grace)
    resumed = trained(tmp_path / "resumed", steps, kills, grace)
    assert whole.keys() == resumed.keys()
    for key in whole:
        np.testing.assert_array_equal(whole[key], resumed[key], key)


def test_killed_workers_change_nothing(tmp_path):
    """A worker first, then the chief, of whom both writes and reads are."""
    kills = [f"{who}@{random.randint(*when)}" for who, when in KILLED_IN_CI]
    assert_survived(tmp_path, 40, kills, grace=2.0)


KILLED_IN_CI = ((1, (1, 15)), (0, (20, 35)))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_ten_kills_change_nothing(tmp_path, victim):
    """At one random step of every twenty."""
    kills = [
        f"{victim}@{random.randint(20 * life + 1, 20 * life + 15)}"
        for life in range(10)
    ]
    print(kills)
    assert_survived(tmp_path, 200, kills)
