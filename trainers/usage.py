"""A command line that cannot be carried out, and what a program says then."""

import pathlib
import sys
import traceback

from absl import app, flags

EXIT_CODE = 2


class UsageError(app.UsageError):
    """Ends a program with an exit code by which others know it.

    `trainers.launch` does not start a program again that ended so: nothing
    would be otherwise, and to go on with a run that is there already is for
    its user to say.
    """

    def __init__(self, message: str):
        super().__init__(message, exitcode=EXIT_CODE)


def run(main, takes_arguments: bool = False) -> None:
    """Runs a program, as `absl.app.run`, to an exit code that tells.

    What the library refuses is the command line's fault, or the data's, and
    ends the program as a `UsageError` does, without a traceback.

    Args:
        main: The program; what it returns is the exit code.
        takes_arguments: Whether `main` takes `argv`, with what the command
            line has besides flags. Without, that is refused.
    """

    def refusing(argv):
        if len(argv) > 1 and not takes_arguments:
            raise UsageError(f"Expected flags only, got {argv[1:]}.")
        try:
            return main(argv) if takes_arguments else main()
        except ValueError as error:
            if not _is_refusal(error):
                raise
            raise UsageError(str(error)) from None

    app.run(refusing, flags_parser=_parse)


def refuse_flags(*names: str) -> None:
    """Refuses flags that other programs have and this one would ignore.

    Raises:
        UsageError: If one of them was given.
    """
    for name in names:
        if flags.FLAGS[name].present:
            raise UsageError(f"This program has no --{name}. Leave it out.")


def refuse_without(given, needed: str, *names: str) -> None:
    """Refuses flags that do nothing without another one.

    Args:
        given: What the other one says; nothing if it is false.
        needed: Its name.
        *names: Of those that need it.

    Raises:
        UsageError: If one of them was given.
    """
    for name in names:
        if not given and flags.FLAGS[name].present:
            raise UsageError(
                f"--{name} does nothing without --{needed}. Received: "
                f"--{name}={flags.FLAGS[name].value}. Give both, or none."
            )


def _is_refusal(error):
    """Whether it is raised by this project itself, not by what it uses."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    # Not imported here, as `trainers.launch` need not wait for TensorFlow.
    packages = [sys.modules.get(name) for name in ("trainers", "keras_reptile")]
    folders = [path for p in packages if p is not None for path in p.__path__]
    of_project = any(
        pathlib.Path(last.filename).is_relative_to(folder) for folder in folders
    )
    # By the line as well: Keras takes its own frames out of tracebacks, and
    # functions in C have none.
    return of_project and (last.line or "").startswith("raise ")


def _parse(argv):
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"{error}\nThe flags are listed by --helpshort.", file=sys.stderr)
        sys.exit(EXIT_CODE)
