"""One watched directory: its scans, settle machine, observer and outbox, and every `stat` that they need.

Events, the scan at the start and the periodic one all end in the same place: a path that differs from the journal
enters the settle machine, and at its due time it is looked at once more and reported if it still differs. So a lost
event costs time, never a file, and an event too many costs a look.
"""

from __future__ import annotations

import functools
import os
import stat as modes
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ingestd.channel import Channel
from ingestd.messages.load import Stat
from ingestd.messages.watch import Change, Scanned, Settling, WatchSource
from ingestd.mounts import mounts_about
from ingestd.types import display
from ingestd.watch.absence import Absence
from ingestd.watch.batch import steps_of
from ingestd.watch.events import Events
from ingestd.watch.observe import WatchLimitError
from ingestd.watch.outbox import Outbox, agrees
from ingestd.watch.rules import Rules
from ingestd.watch.scan import JournalReader, Row, Scan, UnreadableError, identity, same
from ingestd.watch.settle import Settle
from ingestd.watch.tree import Tree
from ingestd.watch.troubles import WARNINGS, Troubles
from ingestd.watch.volumes import Volumes

SLICE: Final = 0.02
"""Seconds that a scan goes on before events and acknowledgements have their turn."""
GATHER: Final = 0.02
"""Seconds in which events are gathered, so that a busy writer costs one look and not one for each event."""
POLL: Final = 5.0
"""Seconds between scans where there are no events, and until a failed scan is tried again."""
WAITING: Final = 20_000
"""Waiting paths beyond which a scan pauses."""
NAME_LENGTH: Final = 1000
"""Characters of a path in a message."""
LOOKS: Final = 256
"""Due paths looked at together."""


@dataclass(slots=True)
class Running:
    """A scan under way."""

    scan: Scan
    steps: Iterator[None]
    prefix: bytes
    sweep: bool
    generation: int
    started: float
    aliases: int
    """Known when it began."""


class Source:
    """One watched directory, or one batch of paths below it (`once`)."""

    def __init__(self, frame: WatchSource, journal: JournalReader, channel: Channel[Any], wake: int) -> None:
        """`wake`: an eventfd that is written to when events have come."""
        self.frame = frame
        self.finished = False
        self._journal = journal
        self._channel = channel
        self._tree = Tree(frame.root, follow=frame.follow_links, closed=journal.directory)
        place = os.path.realpath(self._tree.root).rstrip(b"/") + b"/"
        below = journal.directory[len(place) :] + b"/" if journal.directory.startswith(place) else None
        self._rules = Rules(frame.include, frame.exclude, recursive=frame.recursive, hidden=below)
        self._place = place
        self._mounts = mounts_about(place)
        self._settle = Settle(frame.settle, frame.max_settle)
        self._outbox = Outbox(frame.job, channel.send)
        self._volumes = Volumes(self._tree, place)
        self._absence = Absence(self._volumes)
        self._troubles = Troubles(frame.job, channel.send)
        self._events = Events(frame.mode, functools.partial(os.eventfd_write, wake, 1), self._run_out)
        self._limit: str | None = None
        """The warning that watches or instances ran out."""
        self._full: Running | None = None
        self._region: Running | None = None
        self._came: OrderedDict[bytes, None] = OrderedDict()
        self._went: OrderedDict[bytes, None] = OrderedDict()
        self._unlisted: set[bytes] = set()
        self._full_wanted = True
        self._same_rules = False
        self._scanned: Scanned | None = None
        self._doubted = False
        self._accept = False
        self._now = 0.0
        self._next_drain = 0.0
        self._next_scan = 0.0
        self._next_count = 0.0
        self._count = 0

    # --- the loop's side --------------------------------------------------------------------------------------

    def turn(self, now: float) -> None:
        """Do what can be done now, for a moment."""
        self._now = now
        self._absence.forget()
        try:
            self._listen(now)
            self._go_on(now)
            self._take(now)
        except UnreadableError as error:
            self._start_over(f"the journal cannot be read: {error}")
        self._outbox.flush()
        self._report(now)

    def timeout(self, now: float) -> float | None:
        """Seconds until `turn` has something to do; None: when a frame or an event comes."""
        times: list[float] = []
        room = self._outbox.room
        if self._events.pending:
            times.append(self._next_drain)
        if room and len(self._settle) < WAITING and (self._full or self._region or self._came or self._went):
            times.append(now)
        if self._full is None and (self._full_wanted or not self.frame.once):
            times.append(self._next_scan)
        if self._events.polled and self._full is None and self._region is None:
            times.append(min(self._events.polled.values()))
        due = self._settle.next()
        if due is not None and room:
            times.append(due)
        if self._waiting != self._count:
            times.append(self._next_count)
        return max(0.0, min(times) - now) if times else None

    def rescan(self, *, accept: bool = False) -> None:
        """Compare everything from the start, after the scan under way. `accept`: see `messages.Rescan`."""
        self._accept = self._accept or accept
        self._full_wanted = True
        self._next_scan = 0.0

    def mounted(self) -> None:
        """Some mount came or went: compare everything if it is one on the way here, or below."""
        mounts = mounts_about(self._place)
        if mounts != self._mounts and not self.frame.once:
            self._mounts = mounts
            self._volumes.forget()
            self._events.mounted()
            self.rescan()

    def taken(self, serial: int) -> None:
        """The frame is in the journal. A scan of a directory that came or went meanwhile did not see it there, so each
        path is looked at once more."""
        for change in self._outbox.taken(serial):
            if change.path in self._settle:
                continue
            try:
                stat = self._look(change.path)
            except OSError as error:
                self._failed(change.path, error)
                continue
            if not agrees(change, stat):
                self._settle.observe(change.path, stat, time.monotonic(), fresh=change.fresh)

    def close(self) -> None:
        self._events.close()

    # --- events -----------------------------------------------------------------------------------------------

    def _run_out(self, error: WatchLimitError) -> None:
        """Watches or instances ran out."""
        if self._limit is None:
            self._limit = f"{error.message}; {self._name()} is scanned every {POLL:g} s instead: {error.command}"
            self._troubles.warn(self._limit, lasting=True)
            self.rescan()

    def _listen(self, now: float) -> None:
        if self._events.broke():
            self._troubles.warn(f"the inotify reader ended; {self._name()} is scanned anew")
            self.rescan()
            return
        if not self._events.pending or now < self._next_drain:
            return
        self._next_drain = now + GATHER
        marks = self._events.drain()
        if marks.overflow:
            self.rescan()
        for prefix in marks.touched & self._unlisted:
            marks.directories[prefix] = True
        for prefix, gone in sorted(marks.directories.items()):
            if not prefix:
                self.rescan()
            elif self._rules.directory(prefix):
                self._mark_region(prefix, gone)
        looks: list[tuple[bytes, Stat | None, bool]] = []
        for path, closed in marks.files.items():
            if self.frame.follow_links and self._leads(path):
                self._mark_region(path + b"/", True)
            if not self._rules.file(path):
                continue
            try:
                stat = self._look(path)
            except OSError as error:
                self._failed(path, error)
                continue
            if path in self._settle:
                self._settle.observe(path, stat, now, fresh=True, closed=closed)
            else:
                looks.append((path, stat, closed))
        try:
            rows = self._journal.find(self.frame.source, [path for path, _, _ in looks])
        except UnreadableError:
            self.rescan()  # the marks are lost
            raise
        for path, stat, closed in looks:
            if not self._agrees(path, stat, rows.get(path)):
                self._settle.observe(path, stat, now, fresh=True, closed=closed)

    # --- scans ------------------------------------------------------------------------------------------------

    def _go_on(self, now: float) -> None:
        if not self.frame.once and now >= self._next_scan:
            self._full_wanted = True
        if self._full is None and self._full_wanted and now >= self._next_scan:
            self._full_wanted = False
            self._troubles.begin()
            self._doubted = False
            self._absence.accept, self._accept = self._accept, False
            self._volumes.forget()
            self._full = self._scan(b"", fresh=False, sweep=True)
            self._next_scan = float("inf")
        if self._region is None and (self._came or self._went):
            # The new place of what was moved is found before it is missed at the old one.
            gone = not self._came
            prefix, _ = (self._went if gone else self._came).popitem(last=False)
            self._region = self._scan(prefix, fresh=True, sweep=gone)
        elif self._region is None and self._full is None:
            prefix = next((prefix for prefix, due in self._events.polled.items() if due <= now), b"")
            if prefix:
                self._region = self._scan(prefix, fresh=False, sweep=True)
        deadline = time.monotonic() + SLICE
        if self._region is not None and self._advance(self._region, deadline):
            self._end_region(self._region)
        if self._full is not None and self._advance(self._full, deadline):
            self._end_full(self._full)

    def _mark_region(self, prefix: bytes, gone: bool) -> None:
        """Scan the directory, unless one above it is to be scanned anyhow."""
        end = prefix.find(b"/") + 1
        while end:
            above = prefix[:end]
            if above in self._went:
                return
            if above in self._came:
                if gone:
                    del self._came[above]
                    self._went[above] = None
                return
            end = prefix.find(b"/", end) + 1
        (self._went if gone else self._came)[prefix] = None

    def _scan(self, prefix: bytes, *, fresh: bool, sweep: bool) -> Running:
        once = self.frame.once
        scan = Scan(
            self.frame.source,
            self._tree,
            self._rules,
            self._journal,
            entered=self._entered,
            found=functools.partial(self._found, fresh, time.time()),
            missing=functools.partial(self._missing, fresh),
            failed=self._failed,
            identify=self._identity,
            known=self._known if once else None,
            same_volume=self._same_volume,
            same_rules=self._same_rules,
        )
        if once:
            steps = steps_of(scan, self.frame, self._rules, self._tree, self._troubles.error, self._failed)
        else:
            steps = scan.run(prefix)
        generation = self._events.begin(full=not prefix)
        return Running(scan, steps, prefix, sweep, generation, self._now, len(self._absence.aliases))

    def _advance(self, running: Running, deadline: float) -> bool:
        """Whether the scan ended."""
        while self._outbox.room and len(self._settle) < WAITING:
            try:
                next(running.steps)
            except StopIteration:
                return True
            if time.monotonic() >= deadline:
                break
        return False

    def _end_region(self, running: Running) -> None:
        self._region = None
        if running.sweep:
            self._events.end(running.prefix, running.generation)
        took = time.monotonic() - running.started
        self._events.compared(running.prefix, time.monotonic() + max(POLL, 10 * took))

    def _end_full(self, running: Running) -> None:
        self._full = None
        if self._doubted and len(self._absence.aliases) > running.aliases:
            # What was doubted before the scan met a file that shows the volume's new number may be gone after all.
            self.rescan()
            return
        troubles = self._troubles
        if not troubles.failures and self._events.end_full(running.generation) and self._limit is not None:
            troubles.over(self._limit)
            self._limit = None
        self._events.compared(b"", time.monotonic() + POLL)
        if not troubles.failures and not troubles.errors:
            self._same_rules = True
        troubles.end()
        scan = running.scan
        self._scanned = Scanned(
            job=self.frame.job,
            files=scan.files,
            unchanged=scan.unchanged,
            settling=0,
            watching=not self.frame.once,
            mode=self._events.mode,
            done=dict(scan.done),
            error=troubles.result,
        )
        interval = self.frame.rescan
        took = time.monotonic() - running.started
        if self._events.observer is None or troubles.errors:
            interval = min(interval, max(POLL, 10 * took))
        self._next_scan = 0.0 if self._full_wanted else time.monotonic() + max(interval, took)

    def _entered(self, prefix: bytes, descriptor: int, status: os.stat_result) -> int:
        self._unlisted.discard(prefix)
        volume = self._volumes.entered(prefix, descriptor, status.st_dev)
        if not self.frame.once:
            self._events.entered(prefix, descriptor, (status.st_dev, status.st_ino), self._now)
        return volume

    def _found(self, fresh: bool, wall: float, path: bytes, stat: Stat) -> None:
        # What waits already is looked at when it is due: the scan's stat may be older than an event's.
        if path not in self._settle:
            age = wall - max(stat.mtime_ns, stat.ctime_ns) / 1e9
            self._settle.observe(path, stat, self._now, fresh=fresh, age=age)

    def _same_volume(self, path: bytes, volume: int) -> None:
        here = self._volumes.of(path)
        if here != volume:
            self._absence.aliases.add((volume, here))

    def _missing(self, fresh: bool, path: bytes, volume: int | None) -> None:
        if path in self._settle:
            return
        doubt = self._doubt(path, volume)
        if doubt is None:
            self._settle.observe(path, None, self._now, fresh=fresh)
        else:
            self._doubted = True
            self._note(*doubt)

    def _doubt(self, path: bytes, volume: int | None) -> tuple[bytes, str] | None:
        """See `Absence.doubt`."""
        if self._tree.dangling(path) and not self._absence.accept:
            return path, "a symbolic link on the way to it leads nowhere; what the index has of it is kept"
        return self._absence.doubt(path, volume)

    def _leads(self, path: bytes) -> bool:
        """Whether it is a link, to a directory maybe, or was one maybe."""
        if not self._rules.directory(path + b"/"):
            return False
        try:
            return modes.S_ISLNK(self._tree.own(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            return False

    def _known(self, path: bytes, stat: Stat) -> None:
        self._outbox.put(Change(path=path, stat=stat, fresh=False, known=True))

    # --- taking -----------------------------------------------------------------------------------------------

    def _take(self, now: float) -> None:
        """Report what is due and still differs."""
        while self._outbox.room:
            paths = self._settle.due(now, LOOKS)
            if not paths:
                return
            ready: list[tuple[bytes, Stat | None, bool, float]] = []
            for path in paths:
                try:
                    stat = self._look(path)
                except OSError as error:
                    self._settle.drop(path)
                    self._failed(path, error)
                    continue
                waiting = self._settle.check(path, stat, now)
                if waiting is not None:
                    ready.append((path, stat, waiting.fresh, now - waiting.first if waiting.restless else 0.0))
            rows = self._journal.find(self.frame.source, [path for path, *_ in ready])
            for path, stat, fresh, restless in ready:
                row = rows.get(path)
                if self._agrees(path, stat, row):
                    self._outbox.withdraw(path)
                    if self.frame.once and stat is not None and self._outbox.flying(path) is None:
                        self._known(path, stat)  # it came into the journal meanwhile, and counts for the batch
                    continue
                if stat is None:
                    doubt = self._doubt(path, row[5] if row is not None else None)
                    if doubt is not None:
                        self._note(*doubt)
                        continue
                self._outbox.put(Change(path=path, stat=stat, fresh=fresh, restless=restless))

    def _look(self, path: bytes) -> Stat | None:
        """The document as it is now; None: there is none. Raises `OSError` where that cannot be told."""
        try:
            found = self._tree.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not modes.S_ISREG(found.st_mode) or not self._rules.file(path):
            return None
        return self._identity(path, found)

    def _identity(self, path: bytes, found: os.stat_result) -> Stat:
        try:
            return identity(found, self._volumes.of(path))
        except OSError:  # the directory has just gone
            return identity(found, 0)

    def _agrees(self, path: bytes, stat: Stat | None, row: Row | None) -> bool:
        """The journal has the path like this, or will have it when it has taken what is on its way."""
        flying = self._outbox.flying(path)
        if flying is not None:
            return agrees(flying, stat)
        if stat is None:
            return row is None or bool(row[6])
        return row is not None and same(row, stat)

    # --- telling ----------------------------------------------------------------------------------------------

    def _name(self, path: bytes = b"") -> str:
        name = display(self._tree.root + path if path else self.frame.root)
        return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH // 2]}...{name[-NAME_LENGTH // 2 :]}"

    def _failed(self, path: bytes, error: OSError) -> None:
        self._troubles.failures += 1
        if not path or path.endswith(b"/"):
            self._unlisted.add(path)
        if self._troubles.failures <= WARNINGS:
            self._note(path, f"{error.strerror}; what the index has of it is kept")

    def _note(self, path: bytes, reason: str) -> None:
        """A trouble with the folder: the scan's error where it is the root's or a batch's, else a warning."""
        text = f"{self._name(path)}: {reason}"
        if path and not self.frame.once:
            self._troubles.warn(text)
        else:
            self._troubles.error(text)

    def _start_over(self, reason: str) -> None:
        """Forget what is half done; scan everything again a little later, or end the batch."""
        self._full = self._region = None
        self._came.clear()
        self._went.clear()
        self._settle = Settle(self.frame.settle, self.frame.max_settle)
        if self.frame.once:
            self._scanned = Scanned(
                job=self.frame.job, files=0, unchanged=0, settling=0, watching=False, mode="poll", error=reason
            )
            return
        self._troubles.warn(reason)
        self._full_wanted = True
        self._next_scan = self._now + POLL

    @property
    def _waiting(self) -> int:
        return len(self._settle) + len(self._came) + len(self._went) + (self._region is not None)

    def _report(self, now: float) -> None:
        if self._scanned is not None and self._sent():
            self._channel.send(msgspec.structs.replace(self._scanned, settling=self._waiting))
            self._scanned = None
            self.finished = self.frame.once
        waiting = self._waiting
        if waiting != self._count and now >= self._next_count:
            self._count = waiting
            self._next_count = now + 1.0
            self._channel.send(Settling(job=self.frame.job, count=waiting))

    def _sent(self) -> bool:
        """All that the scan found has left, but what settles; with `once`, everything is in the journal."""
        if self.frame.once:
            return not self._settle and not self._outbox
        due = self._settle.next()
        return self._outbox.backlog == 0 and (due is None or due > self._now)
