"""One contestant in a process of its own, which waits for its turn.

Started by `benchmarks.run`: `python -m benchmarks.worker MODULE NAME WORK`.
Prints a line of JSON when it is ready and after every turn, which a line with
a number of meta-iterations on its standard input starts.
"""

import importlib
import json
import sys
import time

from benchmarks.work import WORK


def main(module, name, work):
    """Prepares, and takes turns until the input ends."""
    contestants = importlib.import_module(f"benchmarks.{module}").contestants()
    start = time.perf_counter()
    run = contestants[name](WORK[work])
    loss = run(WORK[work].compared)
    _say({"loss": loss, "seconds_to_start": time.perf_counter() - start})
    for line in sys.stdin:
        count = int(line)
        start = time.perf_counter()
        run(count)
        # A contestant may tell its own time, as the wall's holds more.
        seconds = getattr(run, "seconds", None)
        seconds = seconds or time.perf_counter() - start
        _say({"per_second": count / seconds})


def _say(record):
    print("@" + json.dumps(record), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
