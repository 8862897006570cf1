"""A command line that cannot be carried out."""

from absl import app

EXIT_CODE = 2


class UsageError(app.UsageError):
    """Ends a program with an exit code by which others know it.

    `trainers.launch` does not start a program again that ended so: nothing
    would be otherwise, and to go on with a run that is there already is for
    its user to say.
    """

    def __init__(self, message: str):
        super().__init__(message, exitcode=EXIT_CODE)
