"""Time spent on training, and on nothing else."""

import time


class Clock:
    """Meta-steps per second of an epoch, its first call left out.

    The first call compiles; evaluations and checkpoints are not training.
    """

    def __init__(self):
        self.restart()

    def restart(self):
        self.rate = None
        self._first = None
        self._paused = 0.0

    def tick(self, step):
        now = time.perf_counter()
        if self._first is None:
            self._first = step, now
            self._paused = 0.0
        elif step > self._first[0]:
            elapsed = now - self._first[1] - self._paused
            self.rate = (step - self._first[0]) / max(elapsed, 1e-9)

    def stopped(self):
        return _Pause(self)


class _Pause:
    def __init__(self, clock):
        self._clock = clock

    def __enter__(self):
        self._start = time.perf_counter()

    def __exit__(self, *_):
        self._clock._paused += time.perf_counter() - self._start
