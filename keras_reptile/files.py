"""Files that are either whole or not there."""

import contextlib
import os
import pathlib
import tempfile
import time

_PREFIX = ".keras-reptile-partial-"
# It can only be read by being set.
_UMASK = os.umask(0o077)
os.umask(_UMASK)


@contextlib.contextmanager
def atomic_write(path, mode: str = "wb"):
    """Opens a file that takes its place only when it is whole and on disk.

    A reader, or a run that starts after a crash, sees the file as it was
    before or as it is afterwards.

    Args:
        path: Where the file is to be.
        mode: As `open` has it.
    """
    path = pathlib.Path(path)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=_PREFIX)
    try:
        with os.fdopen(handle, mode) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_UMASK)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    _sync_folder(path.parent)


def remove_partial(folder) -> None:
    """Removes what a process that was killed while writing left behind.

    Files of the last hour stay: another process may be writing them.
    """
    for path in pathlib.Path(folder).glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - 3600:
                path.unlink()


def _sync_folder(folder):
    """Makes the new name itself survive a power cut, where that exists."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def writable_folder(path) -> pathlib.Path | None:
    """Makes a folder, and finds out now whether it can be written to.

    Args:
        path: Of the folder, or `None`, which is returned as it is.

    Raises:
        ValueError: If it cannot be made or written to.
    """
    if path is None:
        return None
    path = pathlib.Path(path).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with atomic_write(path / ".writable"):
            pass
        (path / ".writable").unlink()
    except OSError as error:
        raise ValueError(
            "Checkpoints and logs need a folder that can be written to. "
            f"Received: {path} ({error}). Choose another one."
        ) from error
    return path
