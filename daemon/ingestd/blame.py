"""Limits of load attempts, and whose fault it is when one is hit: strike, interruption or common cause."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ingestd import process
from ingestd.config import LoaderLimits
from ingestd.journal import Row
from ingestd.supervisor import Worker

log = logging.getLogger("ingestd.load")

TICK = 0.1
"""Seconds between two looks at the running attempts."""
STILL = 0.2
"""Seconds without a step after which a worker stands still: another one may take its place meanwhile."""
STACK_WAIT = 0.2
AT_ONCE = 1.5
"""Deadlines hit in several slots within this many seconds have a common cause."""
ALIKE = 20
"""Files of one loader that fail alike in a row, without a success between them, have a common cause."""
PAUSES = (5.0, 300.0)
"""First and longest pause, in seconds, for a common cause; it doubles."""
SCRATCH_LIMIT = 4 << 30
"""Bytes that one attempt may keep in its scratch directory."""


@dataclass(eq=False, kw_only=True)
class Loading:
    """One file in one load worker, under limits. Times are monotonic seconds."""

    worker: Worker
    limits: LoaderLimits
    size: int
    started: float
    alone: bool = False
    """No other file was loaded beside it."""
    expired: str | None = None
    """The limit that bound it."""
    memory: int = 0
    """The most that its worker and all below it were seen to have, in bytes."""
    place: str = ""
    """Where it was when it was last looked at."""
    steps: int = -1
    moved: float = 0.0
    """When its worker last made a step."""
    waited: float = 0.0
    """Seconds that are not held against it: its worker was ready to run but got no processor."""
    delay_before: int = 0

    @property
    def deadline(self) -> float:
        return self.limits.deadline + self.limits.deadline_per_mb * self.size / 1e6


@dataclass(eq=False, kw_only=True)
class Attempt(Loading):
    """The loading of a file that the journal has."""

    row: Row
    path: bytes
    loader: str = ""
    tag: str = ""
    """The loader and its version, once the file is identified."""
    digest: bytes | None = None
    seconds: float = 0.0
    """That loading took, once it is done."""
    parts: set[str] = field(default_factory=set)
    """Members that were found in it."""


class Watchman:
    """Looks at all running attempts and ends those that exceed a limit, within a second of it."""

    def __init__(self, on_still: Callable[[], None] = lambda: None) -> None:
        self.attempts: set[Loading] = set()
        self._on_still = on_still
        self._ending: set[asyncio.Task[None]] = set()

    def begin(self, attempt: Loading) -> None:
        attempt.moved = attempt.started
        attempt.delay_before = process.run_delay(attempt.worker.pid)
        attempt.steps = attempt.worker.progress()[0]
        self.attempts.add(attempt)

    def finish(self, attempt: Loading) -> None:
        self.attempts.discard(attempt)

    async def run(self) -> None:
        before = time.monotonic()
        turn = 0
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            late = now - before - TICK
            before = now
            turn += 1
            for attempt in list(self.attempts):
                if late > 0:  # this loop itself was held up: nobody's fault
                    attempt.waited += late
                    attempt.moved += late
                reason = self._exceeded(attempt, now, turn)
                if reason is not None:
                    self.attempts.discard(attempt)
                    task = asyncio.create_task(self._end(attempt, reason))
                    self._ending.add(task)
                    task.add_done_callback(self._ending.discard)

    def _exceeded(self, attempt: Loading, now: float, turn: int) -> str | None:
        worker, limits = attempt.worker, attempt.limits
        delay = process.run_delay(worker.pid)
        starved = (delay - attempt.delay_before) / 1e9
        attempt.delay_before = delay
        attempt.waited += starved
        attempt.moved += starved
        steps, place = worker.progress()
        attempt.place = place
        if steps != attempt.steps:
            attempt.steps = steps
            attempt.moved = now
        if worker.still != (now - attempt.moved > STILL):
            worker.still = not worker.still
            self._on_still()
        spent = now - attempt.started - attempt.waited
        if spent > attempt.deadline:
            return f"deadline of {attempt.deadline:.3g} s exceeded at {place}"
        if now - attempt.moved > limits.idle_deadline:
            return f"idle_deadline of {limits.idle_deadline:.3g} s exceeded: no progress since {place}"
        memory = process.group_rss(worker.pid) if turn % 2 else 0
        attempt.memory = max(attempt.memory, memory)
        if memory > limits.memory:
            return f"memory limit of {limits.memory >> 20} MiB exceeded at {place}"
        if turn % 20 == 10 and spent > 1 and (used := scratch_size(worker.scratch)) > SCRATCH_LIMIT:
            return f"scratch limit of {SCRATCH_LIMIT >> 20} MiB exceeded: {used >> 20} MiB at {place}"
        return None

    async def _end(self, attempt: Loading, reason: str) -> None:
        attempt.expired = reason
        attempt.worker.capture_stack()
        await asyncio.sleep(STACK_WAIT)
        if attempt.expired is not None:  # it did not answer in the last moment
            attempt.worker.kill("limit", reason)


def scratch_size(directory: Path, most: int = 2000) -> int:
    """Bytes in a scratch directory, looking at `most` files."""
    total = 0
    for number, path in enumerate(directory.rglob("*")):
        if number == most:
            break
        try:
            total += path.lstat().st_blocks * 512
        except OSError:
            continue
    return total


@dataclass
class Streak:
    """Files of one loader that failed alike, one after the other."""

    signature: str
    rows: list[tuple[Row, bytes | None]] = field(default_factory=list)
    pause: float = PAUSES[0]
    until: float = 0.0


class CommonCause:
    """Tells a failure of the machine, a mount or a library from that of a file."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._expired: deque[tuple[float, int]] = deque(maxlen=64)
        self._streaks: dict[str, Streak] = {}
        self.paused_until = 0.0
        self._pause = PAUSES[0] / 2
        self.warnings: dict[str, str] = {}
        """What `status` says, by what it is about."""

    # --- deadlines hit at once --------------------------------------------------------------------------------

    def expired(self, attempt: Attempt) -> None:
        self._expired.append((self._clock(), attempt.row.id))

    def at_once(self, attempt: Attempt) -> bool:
        """Whether other files hit their deadline at the same time. Asked `AT_ONCE` seconds after `expired`."""
        when = max((at for at, id in self._expired if id == attempt.row.id), default=0.0)
        others = {id for at, id in self._expired if id != attempt.row.id and abs(at - when) <= AT_ONCE}
        if not others or attempt.alone:
            return False
        now = self._clock()
        if now >= self.paused_until:
            self._pause = min(self._pause * 2, PAUSES[1])
            self.paused_until = now + self._pause
            self.warnings["deadline"] = (
                f"{len(others) + 1} files hit their deadline at once: loading pauses for {self._pause:.0f} s,"
                " then they are tried alone"
            )
            log.warning("%s", self.warnings["deadline"])
        return True

    # --- failing alike ----------------------------------------------------------------------------------------

    def success(self, loader: str) -> None:
        """A file was loaded: neither the machine nor this loader is at fault."""
        self._pause = PAUSES[0] / 2
        self.warnings.pop("deadline", None)
        if self._streaks.pop(loader, None) is not None:
            self.warnings.pop(loader, None)

    def failure(self, loader: str, reason: str, row: Row, digest: bytes | None) -> list[tuple[Row, bytes | None]]:
        """Note a failure; returns the files that failed alike and are not to blame, this one as the last, or none."""
        signature = re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "#", reason)
        streak = self._streaks.get(loader)
        if streak is None or streak.signature != signature:
            streak = self._streaks[loader] = Streak(signature)
        streak.rows = [(other, known) for other, known in streak.rows if other.id != row.id]
        streak.rows.append((row, digest))
        if len(streak.rows) < ALIKE and not streak.until:
            return []
        now = self._clock()
        if now >= streak.until:
            streak.until = now + streak.pause
            streak.pause = min(streak.pause * 2, PAUSES[1])
            self.warnings[loader] = f"{len(streak.rows)} {loader} files in a row failed alike: {reason}"
            log.warning("%s; they are tried again in %.0f s", self.warnings[loader], streak.until - now)
        innocent = streak.rows
        streak.rows = innocent[-1:]
        return innocent

    def wait(self, loader: str) -> float:
        """Seconds for which no file of the loader is to be tried."""
        streak = self._streaks.get(loader)
        return max(0.0, streak.until - self._clock()) if streak is not None else 0.0
