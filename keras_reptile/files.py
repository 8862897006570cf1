"""Files that are either whole or not there."""

import contextlib
import errno
import os
import pathlib
import socket
import tempfile
import time

from absl import logging

try:
    import fcntl
except ImportError:  # Not a Unix.
    fcntl = None

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

    Raises:
        OSError: If it cannot be written.
    """
    path = pathlib.Path(path)
    if not path.parent.is_dir():  # `mkstemp` names its own file.
        raise FileNotFoundError(
            errno.ENOENT, "There is no folder for it", str(path)
        )
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


def remove_partial(folder, everything: bool = False) -> None:
    """Removes what a process that was killed while writing left behind.

    Args:
        folder: The folder.
        everything: Also what is less than an hour old, because no other
            process can be writing it.
    """
    for path in pathlib.Path(folder).glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):
            if everything or path.stat().st_mtime < time.time() - 3600:
                path.unlink()


class FolderLock:
    """A folder taken by one process; the system gives it back at its end.

    Args:
        folder: The folder.
        name: Of the file in it that names who has it.

    Raises:
        ValueError: If another process has it.
    """

    def __init__(self, folder, name: str = ".lock"):
        self._file = None
        if fcntl is None:
            return
        # Without a buffer, as a full disk is no reason to fail here.
        try:
            file = open(pathlib.Path(folder, name), "ab+", buffering=0)
        except OSError as error:  # Of another user, perhaps.
            raise ValueError(
                "A folder can hold one run at a time, and says so in a file. "
                f"Received: {folder}, whose {name} cannot be opened "
                f"({error.strerror}). Use another folder."
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().decode(errors="replace") or "another process"
            file.close()
            raise ValueError(
                "A folder can hold one run at a time. Received: "
                f"{folder}, which is in use by {owner}. Wait for its end, "
                "stop it, or use another folder."
            ) from None
        except OSError as error:  # A file system without locks.
            file.close()
            logging.warning("%s cannot be locked: %s.", folder, error)
            return
        self._file = file
        with contextlib.suppress(OSError):
            file.truncate(0)
            owner = f"process {os.getpid()} of {socket.gethostname()}"
            file.write(owner.encode())

    @property
    def held(self) -> bool:
        """Whether others are kept out, which not every system can."""
        return self._file is not None

    def release(self) -> None:
        """Lets others in."""
        if self._file is not None:
            # Closing alone does not, while a child has it open, too.
            fcntl.flock(self._file, fcntl.LOCK_UN)
            self._file.close()
            self._file = None


def _sync_folder(folder):
    """Makes the new name itself survive a power cut, where that exists."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot, and the file is in its place.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
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
    try:
        path = pathlib.Path(path).expanduser()
        path.mkdir(parents=True, exist_ok=True)
        # Nameless, so that several workers can do it at once.
        with tempfile.TemporaryFile(dir=path):
            pass
    # Besides the disk's own, of "~nobody" and of what is no path.
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            "Checkpoints and logs need a folder that can be written to. "
            f"Received: {path} ({error}). Choose another one."
        ) from error
    return path
