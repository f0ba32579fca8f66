"""Sources that do not answer: a hung mount or a dying disk costs a worker now and then, not all of them for ever."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ingestd import process

PAUSES = (5.0, 300.0)
"""First and longest pause, in seconds, of a source that does not answer; it doubles."""


@dataclass
class Silent:
    """A source of which a file could not even be read in time. Times are monotonic seconds."""

    reason: str = ""
    pause: float = PAUSES[0] / 2
    until: float = 0.0
    trial: int | None = None
    """The row that is tried after a pause, alone of this source."""
    stuck: set[int] = field(default_factory=set)
    """Workers that wait for it in the kernel and survive SIGKILL."""


class Unreachable:
    """The sources that pause by themselves. After each pause one file is tried; when it can be read, all are."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent: dict[str, Silent] = {}

    def missed(self, source: str, row: int, reason: str, stuck: int | None = None) -> float:
        """The deadline passed while the row's file was opened or read. `stuck`: pid of a worker that cannot be killed.

        Returns for how many seconds the source is left alone, at the least.
        """
        silent = self._silent.setdefault(source, Silent())
        silent.reason = reason
        if stuck is not None:
            silent.stuck.add(stuck)
        if silent.trial == row:
            silent.trial = None
        now = self._clock()
        if now >= silent.until:  # else it is one of several that began before the pause
            silent.pause = min(silent.pause * 2, PAUSES[1])
            silent.until = now + silent.pause
        return silent.until - now

    def begin(self, source: str, row: int) -> None:
        """A file of the source is dispatched: after a pause, no other one before it is known how this one fares."""
        if (silent := self._silent.get(source)) is not None and silent.trial is None:
            silent.trial = row

    def end(self, source: str, row: int) -> None:
        """The row's attempt ended, whichever way: another one may be tried."""
        if (silent := self._silent.get(source)) is not None and silent.trial == row:
            silent.trial = None

    def answered(self, source: str) -> None:
        """A file of the source could be read, or is known not to be there: the source is well again."""
        silent = self._silent.get(source)
        if silent is not None and not self._stuck(silent):
            del self._silent[source]

    def paused(self) -> dict[str, str]:
        """The sources of which no file is to be taken now, and why."""
        now = self._clock()
        return {
            source: silent.reason
            for source, silent in self._silent.items()
            if self._stuck(silent) or silent.trial is not None or now < silent.until
        }

    def _stuck(self, silent: Silent) -> bool:
        silent.stuck = {pid for pid in silent.stuck if process.is_alive(pid)}
        return bool(silent.stuck)
