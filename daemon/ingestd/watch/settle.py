"""When a changed file is taken: a state machine per path that never looks at a clock or a file by itself.

A path enters when it is seen to differ from the journal, by an event or by a scan, and leaves when it is taken: once
its stat was unchanged for the settle time, counted from the last change seen. A close after writing or a move into
place shortens the wait, but only for a path that was calm before: a log that is opened, appended and closed every
second must not be taken every second. What never settles is taken once in `max_settle`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass

from ingestd.messages.load import Stat

CLOSED_WAIT = 0.2
"""Seconds after a close or a move into place, where the settle time is longer."""
GONE_WAIT = 0.5
"""Seconds until a missing file is taken for deleted: longer than `CLOSED_WAIT`, so that a renamed file's new name is
reported before its old one, and long enough for editors that delete and write again."""


@dataclass(slots=True)
class Waiting:
    """A path that is not taken yet. Times are the caller's, in seconds."""

    stat: Stat | None
    """As last seen; None: there is no such file."""
    first: float
    """When it was first seen to differ."""
    changed: float
    """When `stat` was last seen to change."""
    fresh: bool
    """An event told of it, not only a scan."""
    calm: bool
    """It was not taken within the settle time before."""
    closed: float | None = None
    """When its writer closed it or moved it here, with nothing written since."""
    restless: bool = False
    """It has not been unchanged for the settle time when `max_settle` is over."""
    due: float = float("-inf")
    turn: int = 0
    """Of its entry in the heap that counts; an older one is stale, though its time may be the same."""


class Settle:
    """All waiting paths of one source. Every method is given the time (monotonic seconds)."""

    def __init__(self, settle: float, max_settle: float) -> None:
        self.settle = settle
        self.max_settle = max(settle, max_settle)
        self._waiting: dict[bytes, Waiting] = {}
        self._heap: list[tuple[float, int, bytes]] = []
        self._turns = 0
        self._taken: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, path: bytes) -> bool:
        return path in self._waiting

    def observe(
        self, path: bytes, stat: Stat | None, now: float, *, fresh: bool, closed: bool = False, age: float = 0.0
    ) -> None:
        """Note what the path looks like now.

        `age`: how long ago the file was last changed by its own account (0: not known, or in the future); it counts
        as time in which the file was unchanged, but only where nothing was known of the path before.
        """
        waiting = self._waiting.get(path)
        if waiting is None:
            taken = self._taken.get(path)
            calm = taken is None or now - taken >= self.settle
            waiting = Waiting(stat, now, now - min(max(age, 0.0), self.settle), fresh, calm)
            self._waiting[path] = waiting
        else:
            waiting.fresh = waiting.fresh or fresh
            if stat != waiting.stat:
                waiting.stat = stat
                waiting.changed = now
                waiting.closed = None
        if closed and waiting.calm and stat is not None:
            waiting.closed = now
        self._schedule(path, waiting)

    def due(self, now: float, limit: int) -> list[bytes]:
        """Paths whose time has come, at most `limit`; each must then be given to `check` or `drop`."""
        paths: list[bytes] = []
        while self._heap and len(paths) < limit and self._heap[0][0] <= now:
            _, turn, path = heapq.heappop(self._heap)
            waiting = self._waiting.get(path)
            if waiting is not None and waiting.turn == turn:
                paths.append(path)
        return paths

    def check(self, path: bytes, stat: Stat | None, now: float) -> Waiting | None:
        """The path as it is at its due time: taken (and forgotten), or None and it waits on."""
        waiting = self._waiting[path]
        if stat != waiting.stat:
            waiting.stat = stat
            waiting.changed = now
            waiting.closed = None
            self._schedule(path, waiting)
        if waiting.due > now:
            return None
        del self._waiting[path]
        self._remember(path, now)
        return waiting

    def drop(self, path: bytes) -> None:
        """Forget the path without taking it."""
        self._waiting.pop(path, None)

    def next(self) -> float | None:
        """When the next path is due."""
        while self._heap:
            due, turn, path = self._heap[0]
            waiting = self._waiting.get(path)
            if waiting is not None and waiting.turn == turn:
                return due
            heapq.heappop(self._heap)
        return None

    def _schedule(self, path: bytes, waiting: Waiting) -> None:
        if waiting.stat is None:
            due = waiting.changed + min(self.settle, GONE_WAIT)
        else:
            due = waiting.changed + self.settle
            if waiting.closed is not None:
                due = min(due, waiting.closed + CLOSED_WAIT)
        last = waiting.first + self.max_settle
        waiting.restless = waiting.stat is not None and due > last
        due = min(due, last)
        if due != waiting.due:
            self._turns += 1
            waiting.due = due
            waiting.turn = self._turns
            heapq.heappush(self._heap, (due, self._turns, path))

    def _remember(self, path: bytes, now: float) -> None:
        self._taken.pop(path, None)
        self._taken[path] = now
        while now - next(iter(self._taken.values())) > self.settle:
            self._taken.popitem(last=False)
