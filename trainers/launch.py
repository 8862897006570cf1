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
again; --nopin_cores lets each have all.

SIGTERM and SIGINT are passed on to the workers and end the program; SIGHUP is
passed on as SIGTERM, and so is what ends the program without a word. The exit
code is 0 if all workers ended with 0, and else that of the first that did not
(128 and the signal's number, if a signal ended it).
"""

import importlib.util
import json
import os
import signal
import socket
import sys

from absl import flags

from trainers import usage
from trainers.supervisor import Supervisor

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
_PIN_CORES = flags.DEFINE_boolean(
    "pin_cores", True, "Gives every worker cores of its own."
)


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
        pin_cores=_PIN_CORES.value,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, supervisor.pass_on)
    signal.signal(signal.SIGHUP, lambda *_: supervisor.pass_on(signal.SIGTERM))
    return supervisor.run()


if __name__ == "__main__":
    usage.run(main, takes_arguments=True)
