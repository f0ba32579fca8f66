"""Room on the disk below the scratch directory: without it loading waits, since no file is to blame."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

log = logging.getLogger("ingestd.load")

ENOUGH = 16 << 20
"""Bytes that must be free."""


class Room:
    """Notices that the disk is full, and that it no longer is. `trouble` says so, else it is None."""

    def __init__(self, directory: Path) -> None:
        self.trouble: str | None = None
        self._directory = directory

    async def lacking(self, reason: str) -> bool:
        """A loader found no room, for this reason: whether there is little for anybody, now that it has cleaned up."""
        full = not await asyncio.to_thread(self._enough)
        if full and self.trouble is None:
            self.trouble = f"the disk of {self._directory} is full: {reason}"
            log.error("%s; loading waits", self.trouble)
        return full

    async def found(self) -> bool:
        """Whether there is room, as far as is known; where there was none it is tried."""
        if self.trouble is not None and await asyncio.to_thread(self._enough):
            self.trouble = None
            log.info("there is room on the disk of %s again", self._directory)
        return self.trouble is None

    def _enough(self) -> bool:
        """Tried, not asked for, since a quota is in no file system's statistics."""
        try:
            descriptor = os.open(self._directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, ENOUGH)
            finally:
                os.close(descriptor)
        except OSError:
            return False
        return True
