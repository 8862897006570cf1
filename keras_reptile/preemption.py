"""SIGTERM, as a cluster sends it before it takes a machine away."""

import os
import signal
import threading


class Preemption:
    """Takes notice of SIGTERM, and leaves it to the run when to end.

    Several may watch at a time, and all take notice; they are released in the
    reverse of the order in which they began.
    """

    def __init__(self):
        self.noticed = False
        self._before = None

    def watch(self) -> None:
        """Begins to take notice; outside of the main thread it cannot."""
        if self._before is not None:
            return
        self.noticed = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._notice)

    def release(self, heeded: bool = True) -> None:
        """Gives the signal back to whom it belonged.

        Args:
            heeded: Whether the run ended by it, if it came. One that came too
                late for that is passed on.
        """
        before, self._before = self._before, None
        if before is not None:
            signal.signal(signal.SIGTERM, before)
            if self.noticed and not heeded:
                os.kill(os.getpid(), signal.SIGTERM)

    def _notice(self, number, frame):
        self.noticed = True
        owner = getattr(self._before, "__self__", None)
        if isinstance(owner, Preemption):
            owner._notice(number, frame)
