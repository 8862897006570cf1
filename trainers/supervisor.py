"""Processes that end together, and are restarted together."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

from trainers import usage

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
        pin_cores: Gives every worker cores of its own.
    """

    def __init__(
        self, start, restarts: int, grace: float, write, pin_cores=False
    ):
        self._start = start
        self._restarts = restarts
        self._grace = grace
        self._write = write
        self._pin_cores = pin_cores
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
            if self._pin_cores and hasattr(os, "sched_getaffinity"):
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
