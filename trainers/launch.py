"""Starts several workers of one program on this machine, and keeps them going.

Usage:
    python -m trainers.launch --workers=2 --restarts=3 -- \\
        trainers.omniglot --preset=o15 --logdir=runs/o15

Every worker runs the program after the `--`, with TF_CONFIG and with
--strategy=multiworker unless a strategy is named. Their lines are printed as
they come, with the number of the worker. Workers wait for each other in every
meta-step, so that none goes on without another: when one dies, all are
restarted, with --resume. A program that cannot be resumed wants --restarts=0.
One that ends with exit code 2, as the programs here do where the command line
is wrong or the folder holds a run already, is not restarted.

Each worker has cores of its own, as two that share theirs take half as long
again; --noshare_cores lets each have all.

SIGTERM and SIGINT are passed on to the workers and end the program; SIGHUP is
passed on as SIGTERM, and so is what ends the program without a word. The exit
code is 0 if all workers ended with 0, and else that of the first that did not
(128 and the signal's number, if a signal ended it).
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from absl import flags

from trainers import usage

_WORKERS = flags.DEFINE_integer(
    "workers", 2, "Processes that train together.", lower_bound=1
)
_RESTARTS = flags.DEFINE_integer(
    "restarts", 0, "How often all may be restarted.", lower_bound=0
)
_GRACE = flags.DEFINE_float(
    "grace",
    30.0,
    "Seconds in which the others are to end, after one died or a signal came; "
    "then they are killed.",
    lower_bound=0.0,
)
_SHARE_CORES = flags.DEFINE_boolean(
    "share_cores", True, "Gives every worker cores of its own."
)

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Supervisor:
    """Processes that end together, and are restarted together.

    Args:
        start: A function of the number of restarts so far, to a list of
            `(command, environment)` by worker.
        restarts: How often all may be restarted.
        grace: Seconds in which the others are to end by themselves.
        write: Takes a line of a worker, with its number in front.
        share_cores: Gives every worker cores of its own.
    """

    def __init__(
        self, start, restarts: int, grace: float, write, share_cores=False
    ):
        self._start = start
        self._restarts = restarts
        self._grace = grace
        self._write = write
        self._share_cores = share_cores
        self._lock = threading.Lock()
        self._processes, self._readers = [], []
        self._signal = None

    def run(self) -> int:
        """Runs the workers to their end; the exit code is the program's."""
        code = 0
        for attempt in range(self._restarts + 1):
            if attempt:
                self._say(f"restart {attempt} of {self._restarts}")
            code = self._once(attempt)
            if code in (0, usage.EXIT_CODE) or self._signal is not None:
                break
        return code

    def pass_on(self, number: int, frame=None) -> None:
        """Has a signal sent to all workers; they are not restarted after it.

        Only noted here, as it may come while a worker is being started.
        """
        self._signal = number

    def _once(self, attempt):
        """One life of all workers, to the exit code."""
        try:
            started = self._start(attempt)
            shares = [None] * len(started)
            if self._share_cores and hasattr(os, "sched_getaffinity"):
                shares = core_shares(os.sched_getaffinity(0), len(started))
            for (command, environment), cores in zip(started, shares):
                self._add(command, environment, cores)
            return self._wait()
        finally:
            self._clean_up()

    def _add(self, command, environment, cores):
        # A session of its own: the terminal's Ctrl-C comes by `pass_on` only.
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: _begin_worker(cores),
        )
        reader = threading.Thread(
            target=self._read,
            args=(len(self._processes), process.stdout),
            daemon=True,
        )
        reader.start()
        self._processes.append(process)
        self._readers.append(reader)

    def _wait(self):
        """Waits for the end of all, and for some not longer than `grace`."""
        failed, until, passed_on = None, None, False
        while True:
            codes = [process.poll() for process in self._processes]
            if failed is None:
                failed = self._first_failed(codes)
            if None not in codes:
                # What one was not started for, none is started again for.
                wrong = usage.EXIT_CODE in codes
                return usage.EXIT_CODE if wrong else _exit_code(failed or 0)
            if self._signal is not None and not passed_on:
                self._send(self._signal)
                passed_on = True
            if until is None and (passed_on or failed is not None):
                until = time.monotonic() + self._grace
            if until is not None and time.monotonic() > until:
                self._send(signal.SIGKILL)
                until = float("inf")
            time.sleep(0.05)

    def _first_failed(self, codes):
        for worker, code in enumerate(codes):
            if code:
                self._say(f"worker {worker} {_how_it_ended(code)}")
                return code
        return None

    def _send(self, number):
        running = [p for p in self._processes if p.poll() is None]
        self._say(f"{signal.Signals(number).name} to {len(running)} workers")
        for process in running:
            process.send_signal(number)

    def _clean_up(self):
        for process in self._processes:
            # Its session, with what it may have started itself.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        for reader in self._readers:
            # A child of a worker's may hold the pipe open.
            reader.join(timeout=5)
        self._processes, self._readers = [], []

    def _read(self, worker, pipe):
        with pipe:
            for line in pipe:
                text = line.decode(errors="replace").rstrip()
                # A progress bar overwrites itself; its last state is kept.
                self._put(f"[worker {worker}] " + text.rpartition("\r")[2])

    def _say(self, text):
        self._put(f"[launch] {text}")

    def _put(self, line):
        with self._lock:
            self._write(line)


def _begin_worker(cores):
    """In a worker: its cores, and SIGTERM when the launcher is no more."""
    if cores is not None:
        with contextlib.suppress(OSError):  # It is not needed.
            os.sched_setaffinity(0, cores)
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _how_it_ended(code):
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with exit code {code}"


def _exit_code(code):
    return 128 - code if code < 0 else code


def core_shares(cores, workers: int) -> list[set[int]]:
    """Which cores each worker has: its own, or all if there are too few.

    Args:
        cores: Numbers of the cores there are.
        workers: How many share them.
    """
    cores, count = sorted(cores), len(cores)
    if workers > count:
        return [set(cores)] * workers
    ends = [worker * count // workers for worker in range(workers + 1)]
    return [set(cores[a:b]) for a, b in zip(ends, ends[1:])]


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens at just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def environments(workers: int) -> list[dict]:
    """What each of the workers is to be started with, TF_CONFIG for one."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(workers)]
    return [
        {
            **os.environ,
            "PYTHONUNBUFFERED": "1",
            "TF_CONFIG": json.dumps(
                {
                    "cluster": {"worker": addresses},
                    "task": {"type": "worker", "index": worker},
                }
            ),
        }
        for worker in range(workers)
    ]


def command_of(program: list[str], restarted: bool) -> list[str]:
    """The command line of a worker.

    Args:
        program: A module and its flags.
        restarted: Whether it was started before.
    """
    command = [sys.executable, "-m", *program]
    names = {flag.lstrip("-").partition("=")[0] for flag in program[1:]}
    if "strategy" not in names:
        command.append("--strategy=multiworker")
    if restarted and "resume" not in names:
        command.append("--resume")
    return command


def _is_module(name):
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):  # Of what it would be in, or no name.
        return False


def main(argv):
    program = argv[1:]
    if not program or not _is_module(program[0]):
        raise usage.UsageError(
            "After `--` comes the module that the workers run, and its flags: "
            "python -m trainers.launch --workers=2 -- trainers.omniglot "
            f"--preset=o15. Received: {program}."
        )

    def start(restarts):
        command = command_of(program, restarted=restarts > 0)
        return [(command, e) for e in environments(_WORKERS.value)]

    supervisor = Supervisor(
        start,
        _RESTARTS.value,
        _GRACE.value,
        write=lambda line: print(line, flush=True),
        share_cores=_SHARE_CORES.value,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.pass_on)
    signal.signal(
        signal.SIGHUP, lambda *_: supervisor.pass_on(signal.SIGTERM)
    )
    return supervisor.run()


if __name__ == "__main__":
    usage.run(main, takes_arguments=True)
