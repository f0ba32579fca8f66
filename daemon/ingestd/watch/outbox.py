"""Changes on their way to the journal: fresh ones first, a few frames at a time, none twice while unacknowledged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ingestd.messages.load import Stat
from ingestd.messages.watch import Change, Changes

WINDOW: Final = 4
"""Frames that may be unacknowledged."""
FRAME_CHANGES: Final = 64
FRAME_BYTES: Final = 48 * 1024
CHANGE_BYTES: Final = 64
"""What a change takes in a frame beside its path, at most."""
ROOM: Final = 2048
"""Waiting changes beyond which nothing more is looked for."""


class Outbox:
    """What one source has to report. A later change of a path replaces one that has not left yet."""

    def __init__(self, job: int, send: Callable[[Changes], None]) -> None:
        self._job = job
        self._send = send
        self._fresh: dict[bytes, Change] = {}
        self._backlog: dict[bytes, Change] = {}
        self._frames: dict[int, list[Change]] = {}
        self._flying: dict[bytes, Change] = {}
        self._serial = 0

    def __len__(self) -> int:
        """Changes that are not acknowledged yet."""
        return len(self._fresh) + len(self._backlog) + sum(map(len, self._frames.values()))

    @property
    def room(self) -> bool:
        return len(self._fresh) + len(self._backlog) < ROOM

    @property
    def backlog(self) -> int:
        """Findings of scans that have not left yet."""
        return len(self._backlog)

    def flying(self, path: bytes) -> Change | None:
        """The last change of the path that left and is not acknowledged."""
        return self._flying.get(path)

    def put(self, change: Change) -> None:
        path = change.path
        if change.fresh or path in self._fresh:
            self._backlog.pop(path, None)
            self._fresh[path] = change
        else:
            self._backlog[path] = change

    def withdraw(self, path: bytes) -> None:
        """The path is again as the journal has it, or will have it."""
        self._fresh.pop(path, None)
        self._backlog.pop(path, None)

    def flush(self) -> None:
        """Send what the window has room for."""
        while len(self._frames) < WINDOW and (self._fresh or self._backlog):
            changes: list[Change] = []
            size = 0
            for queue in (self._fresh, self._backlog):
                while queue and len(changes) < FRAME_CHANGES:
                    path = next(iter(queue))
                    size += len(path) + CHANGE_BYTES
                    if size > FRAME_BYTES and changes:
                        break
                    changes.append(queue.pop(path))
            self._serial += 1
            self._frames[self._serial] = changes
            self._flying.update((change.path, change) for change in changes)
            self._send(Changes(job=self._job, serial=self._serial, changes=changes))

    def taken(self, serial: int) -> list[Change]:
        """The frame is in the journal: its changes, without those that a later frame overtook."""
        last = [change for change in self._frames.pop(serial, ()) if self._flying.get(change.path) is change]
        for change in last:
            del self._flying[change.path]
        return last


def agrees(change: Change, stat: Stat | None) -> bool:
    """The change tells of just this file, or of its absence."""
    if change.stat is None or stat is None:
        return change.stat is stat
    mine = change.stat
    return (mine.inode, mine.size, mine.mtime_ns, mine.ctime_ns) == (
        stat.inode,
        stat.size,
        stat.mtime_ns,
        stat.ctime_ns,
    )
