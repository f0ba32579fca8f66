"""Frames of the watch workers: what to look at, and what differs from the journal."""

from __future__ import annotations

import msgspec

from ingestd.messages import Count, Frame, Reason, Short
from ingestd.messages.load import Stat


class WatchSource(Frame, frozen=True, kw_only=True):
    """Watch a directory, or, with `once`, scan it and say `Scanned`.

    The worker reads the journal (read only) to report differences alone.
    """

    job: int
    source: str
    root: bytes
    below: list[bytes] = []
    """Only these paths relative to the root (`ingest`); empty: all."""
    include: list[str] = []
    exclude: list[str] = []
    recursive: bool = True
    follow_links: bool = False
    settle: float = 2.0
    max_settle: float = 300.0
    mode: str = "auto"
    rescan: float = 600.0
    once: bool = False


class Unwatch(Frame, frozen=True, kw_only=True):
    job: int


class Rescan(Frame, frozen=True, kw_only=True):
    """Compare folder and journal now. `accept`: what is missing is gone, though another file system is there now."""

    job: int
    accept: bool = False


class Change(msgspec.Struct, frozen=True, array_like=True):
    """A settled difference between folder and journal."""

    path: bytes
    """Relative to the source."""
    stat: Stat | None
    """None: the file is gone."""
    fresh: bool = True
    """It came from an event, not from a scan: it overtakes the backlog."""
    known: bool = False
    """Only with `once`: the journal has exactly this file, but is not done with it."""
    restless: float = 0.0
    """Seconds for which it kept changing: it never settled, and is taken all the same. 0: it did settle."""


class Changes(Frame, frozen=True, kw_only=True):
    """Acknowledged once they are in the journal; a worker has at most a few of these in flight."""

    job: int
    serial: int
    changes: list[Change]


class ChangesTaken(Frame, frozen=True, kw_only=True):
    job: int
    serial: int


class Scanned(Frame, frozen=True, kw_only=True):
    """A scan ended. `error`: the directory could not be listed; nothing was taken for deleted."""

    job: int
    files: Count
    unchanged: Count
    settling: Count
    watching: bool
    mode: Short
    done: dict[str, int] = {}
    """With `once`: journal state of the unchanged files, by state."""
    error: Reason | None = None


class Settling(Frame, frozen=True, kw_only=True):
    """How many paths wait until they are unchanged for the settle time; sent when it changes, once a second at most."""

    job: int
    count: Count


class WatchWarning(Frame, frozen=True, kw_only=True):
    """A trouble with a source. It holds until it is sent again with `over`."""

    job: int
    reason: Reason
    over: bool = False
