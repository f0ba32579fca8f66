"""The state directory belongs to one daemon at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
from pathlib import Path

from ingestd.errors import AlreadyRunningError, IngestdError, UnreachableError, UsageError


def unusable(directory: Path, error: OSError) -> IngestdError:
    """What is said of a state directory that cannot be used."""
    known = error.errno in (errno.EEXIST, errno.ENOTDIR)
    cause = "is not a directory" if known else f"cannot be used: {error.strerror}"
    kind = UnreachableError if error.errno in (errno.ENOSPC, errno.EDQUOT) else UsageError
    look = ["df", "-h"] if kind is UnreachableError else ["ls", "-ld"]
    command = shlex.join([*look, str(directory)])
    return kind(f"the state directory {directory} {cause}", command=command)


class Lock:
    """The state directory belongs to one daemon at a time. Raises `AlreadyRunningError` with the pid of the other."""

    def __init__(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(directory / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise unusable(directory, error) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise AlreadyRunningError(
                f"another daemon (pid {pid}) holds the state directory {directory}", command="ingestd status"
            ) from None
        try:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, str(os.getpid()).encode(), 0)
        except OSError as error:
            os.close(self._file)
            raise unusable(directory, error) from None

    def release(self) -> None:
        os.close(self._file)
