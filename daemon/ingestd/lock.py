"""The state directory belongs to one daemon at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from ingestd.errors import AlreadyRunningError


class Lock:
    """The state directory belongs to one daemon at a time. Raises `AlreadyRunningError` with the pid of the other."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(directory / "daemon.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(self._file, 32, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            raise AlreadyRunningError(
                f"another daemon (pid {pid}) holds the state directory {directory}", command="ingestd status"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        os.close(self._file)
