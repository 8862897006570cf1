"""SIGTERM, as a cluster sends it before it takes a machine away."""

import signal
import threading


class Preemption:
    """Takes notice of SIGTERM, and leaves it to the run when to end."""

    def __init__(self):
        self.noticed = False
        self._before = None

    def watch(self) -> None:
        """Begins to take notice; outside of the main thread it cannot."""
        self.noticed = False
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._notice)

    def release(self) -> None:
        """Gives the signal back to whom it belonged."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _notice(self, number, frame):
        self.noticed = True
