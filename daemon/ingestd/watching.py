"""The supervisor's side of watching: one watch worker per mount, what they find goes to the journal.

A file system may stop to answer (a lost server): then a `stat` of the worker never returns. The worker shows in its
page where it is about to look, and here the page is looked at, so that `status` can name the place.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final

from ingestd import process
from ingestd.config import WatchTable
from ingestd.dispatch import Dispatcher
from ingestd.errors import IngestdError
from ingestd.journal import Journal
from ingestd.messages.watch import (
    Change,
    Changes,
    ChangesTaken,
    Rescan,
    Scanned,
    Settling,
    Unwatch,
    WatchSource,
    WatchWarning,
)
from ingestd.mounts import mount_points, point_of
from ingestd.slots import Pool
from ingestd.supervisor import Worker, WorkerDied
from ingestd.types import display
from ingestd.worker import one_line

log = logging.getLogger("ingestd.watch")

INGEST = b"ingest"
"""The group of the scans that `ingest` asks for."""
INGESTS: Final = 8
"""Such groups at most: there are several only while a file system does not answer."""
LOOK: Final = 1.0
"""Seconds between two looks at the page of a watch worker."""
PLACE: Final = 1000
"""Characters of a place that are shown."""
SILENT: Final = 5.0
"""Seconds that a file system may take for one answer until it is said to hang."""


Look = Callable[[list[Change]], Awaitable[None]]


@dataclass(eq=False)
class Watched:
    """One source, or one scan, and what its worker says of it."""

    frame: WatchSource
    batch: int | None = None
    scanned: asyncio.Future[Scanned] | None = None
    """The end of a scan that was asked for."""
    look: Look | None = None
    """Gets what it finds, in place of the journal."""
    settling: int = 0
    mode: str = ""
    error: str | None = None
    warnings: dict[str, None] = field(default_factory=dict)
    """In the order in which they came."""
    ready: bool = False
    """It is watched and was scanned once."""


class Silence:
    """How long a worker has waited for one answer of a file system. Times are the caller's, in seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._steps = -1
        self._before = 0.0
        self._awake = 0.0

    def look(self, now: float, steps: int, place: str, awake: float) -> bool:
        """Whether it is too long. `place`: where the worker looks, "" while it does not; `awake`: seconds for which it
        has run or was ready to: that is no fault of the file system."""
        if steps != self._steps or not place:
            self._steps = steps
            self.seconds = 0.0
        else:
            # At most what passes between two looks: the whole machine may have stood still.
            waited = min(now - self._before, 2 * LOOK) - max(0.0, awake - self._awake)
            self.seconds += max(0.0, waited)
        self._before = now
        self._awake = awake
        return self.seconds >= SILENT


class Group:
    """The sources of one mount, and the worker that watches them."""

    def __init__(self, name: bytes, place: bytes) -> None:
        self.name = name
        self.place = place
        """What its sources have in common, see `group_of`."""
        self.watched: dict[int, Watched] = {}
        self.pool: Pool
        self.worker: Worker | None = None
        self.hung: str | None = None
        """Where its worker waits for a file system, and since when."""

    async def tell(self, frame: Any) -> None:
        """Send the worker a frame; one that is to come gets all that is watched anyhow."""
        if self.worker is not None:
            with contextlib.suppress(WorkerDied):
                await self.worker.send(frame)


class Watching:
    """All groups. `make_pool`: `Stages._pool`."""

    def __init__(self, journal: Journal, dispatcher: Dispatcher, make_pool: Callable[..., Pool]) -> None:
        self.journal = journal
        self.dispatcher = dispatcher
        self.readable: set[str] = set()
        """Paths that load workers may read because `ingest` was given them."""
        self.on_readable: Callable[[], None] = lambda: None
        """Called when `readable` grew, or a source answers again: load workers that live have the narrower sandbox."""
        self.on_hung: Callable[[], None] = lambda: None
        """Called when a source does not answer any more."""
        self._make_pool = make_pool
        self._groups: dict[bytes, Group] = {}
        self._jobs = itertools.count(1)

    @property
    def sources(self) -> dict[str, Watched]:
        """The followed sources by name."""
        return {
            watched.frame.source: watched
            for group in self._groups.values()
            for watched in group.watched.values()
            if not watched.frame.once
        }

    @property
    def hung(self) -> set[str]:
        """Names of the followed sources whose file system does not answer now."""
        return {
            watched.frame.source
            for group in self._groups.values()
            for watched in group.watched.values()
            if group.hung is not None and not watched.frame.once
        }

    def may_read(self, path: bytes) -> bool:
        """Whether load workers may read this file that `ingest` was given."""
        place = PurePath(os.fsdecode(path))
        return any(str(above) in self.readable for above in (place, *place.parents))

    @property
    def settling(self) -> int:
        return sum(watched.settling for group in self._groups.values() for watched in group.watched.values())

    @property
    def workers(self) -> list[Worker]:
        return [group.worker for group in self._groups.values() if group.worker is not None]

    @property
    def pools(self) -> list[Pool]:
        return [group.pool for group in self._groups.values()]

    @property
    def ready(self) -> bool:
        """Every source was scanned once, but for those that nobody can scan now."""
        return all(
            watched.ready or group.hung is not None
            for group in self._groups.values()
            for watched in group.watched.values()
            if not watched.frame.once
        )

    @property
    def warnings(self) -> list[str]:
        found = [
            f"source {watched.frame.source}: {text}"
            for group in self._groups.values()
            for watched in group.watched.values()
            for text in (watched.error, *watched.warnings, group.hung, group.pool.trouble)
            if text and (text == group.hung or not watched.frame.once)
        ]
        return list(dict.fromkeys(found))

    async def follow(self, tables: Sequence[WatchTable]) -> None:
        """Watch these sources from now on, and no others. What has not changed goes on undisturbed."""
        points = mount_points()
        places = {table.name: group_of(os.fsencode(table.directory), points) for table in tables}
        wanted = {table.name: table for table in tables}
        for group in list(self._groups.values()):
            for job, watched in list(group.watched.items()):
                name = watched.frame.source
                if watched.frame.once:
                    continue
                if places.get(name) == group.place and frame(job, wanted[name]) == watched.frame:
                    del wanted[name]
                    continue
                del group.watched[job]
                await group.tell(Unwatch(job=job))
            if not group.watched and group.place != INGEST:
                del self._groups[group.name]
                await group.pool.close()
        for name, table in wanted.items():
            group = self._group(places[name])
            job = next(self._jobs)
            group.watched[job] = Watched(frame(job, table))
            await group.tell(group.watched[job].frame)

    async def scan(
        self, table: WatchTable, below: Sequence[bytes], batch: int | None, *, look: Look | None = None
    ) -> Scanned:
        """Compare some paths of a source with the journal, once; returns when every difference is in it.

        `look`: gets the differences, and the journal does not.
        """
        group = self._ingesting()
        if table.name not in self.dispatcher.sources and look is None:  # what is watched may be read already
            root = os.fsencode(table.directory.rstrip("/") or "/")
            fresh = {os.fsdecode(os.path.join(root, path)) for path in below} - self.readable
            if fresh:
                self.readable |= fresh
                self.on_readable()
        job = next(self._jobs)
        watched = Watched(frame(job, table, below), batch, asyncio.get_running_loop().create_future(), look)
        group.watched[job] = watched
        assert watched.scanned is not None
        try:
            await group.tell(watched.frame)
            waits: set[asyncio.Future[Any]] = {watched.scanned, group.pool.failed}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if watched.scanned.done():
                return watched.scanned.result()
            raise group.pool.failed.result()
        finally:
            del group.watched[job]
            if not watched.scanned.done() and group.worker is not None:
                if group.hung is not None and not group.watched:
                    group.worker.kill("stopped", "nobody waits for it any more")
                else:
                    await group.tell(Unwatch(job=job))

    def _ingesting(self) -> Group:
        """Who scans for `ingest`: a worker that does not hang in what an earlier one was given.

        Raises `IngestdError`.
        """
        groups = [group for group in self._groups.values() if group.place == INGEST]
        for group in groups:
            if group.hung is None:
                return group
        if len(groups) >= INGESTS:
            raise IngestdError(f"too many ingests hang already: {groups[-1].hung}", command="ingestd status")
        return self._group(b"%s %d" % (INGEST, len(groups)), INGEST)

    async def accept(self, source: str) -> None:
        """Look at the source anew: what is missing there is gone, though another file system is there than before."""
        for group in self._groups.values():
            for job, watched in group.watched.items():
                if watched.frame.source == source and not watched.frame.once:
                    await group.tell(Rescan(job=job, accept=True))

    async def close(self) -> None:
        await asyncio.gather(*(group.pool.close() for group in self._groups.values()))

    def _group(self, name: bytes, place: bytes | None = None) -> Group:
        if name not in self._groups:
            group = self._groups[name] = Group(name, name if place is None else place)
            settings = {"journal": str(self.journal.path)}
            group.pool = self._make_pool("watch", 1, lambda _: settings, lambda worker: self._serve(group, worker))
            group.pool.open()
        return self._groups[name]

    async def _serve(self, group: Group, worker: Worker) -> None:
        """What one watch worker says, for its whole life."""
        inbox: asyncio.Queue[Any] = asyncio.Queue()

        def heard(frame: Any, descriptors: list[int]) -> None:
            for descriptor in descriptors:
                os.close(descriptor)
            inbox.put_nowait(frame)

        worker.on_frame = heard
        worker.died.add_done_callback(lambda _: inbox.put_nowait(None))
        group.worker = worker
        worker.served = 1
        looking = asyncio.ensure_future(self._look(group, worker))
        try:
            for watched in list(group.watched.values()):
                watched.warnings.clear()
                await worker.send(watched.frame)
            while True:
                frame = await inbox.get()
                if frame is None:
                    raise worker.died.result()
                watched_now = group.watched.get(frame.job)
                if watched_now is not None:
                    await self._heard(worker, watched_now, frame)
        finally:
            looking.cancel()
            group.worker = None
            group.hung = None
            for watched in group.watched.values():
                watched.ready = False  # until its successor has looked: nobody knows what happens meanwhile

    async def _look(self, group: Group, worker: Worker) -> None:
        """See to it that a file system that does not answer is named, and until when."""
        silence = Silence()
        while not worker.died.done():
            steps, place = worker.progress(PLACE)
            hangs = silence.look(time.monotonic(), steps, place, process.awake(worker.pid) / 1e9)
            if hangs and group.hung is None:
                await self._part(group, place)
            names = ", ".join(sorted({watched.frame.source for watched in group.watched.values()}))
            if hangs and group.hung is None:
                since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time.time() - silence.seconds))
                group.hung = f"the file system does not answer: waiting for {place} since {since}"
                log.warning("source %s: %s", names, group.hung, extra={"source": names})
                self.on_hung()
            elif not hangs and group.hung is not None:
                group.hung = None
                log.info("source %s: the file system answers again", names)
                self.on_readable()
            await asyncio.sleep(LOOK)

    async def _part(self, group: Group, place: str) -> None:
        """Let the sources that do not wait for the place go on, with another worker: a link had led there, or what
        hangs was mounted later."""
        followed = {job: watched for job, watched in group.watched.items() if not watched.frame.once}
        others = {job: watched for job, watched in followed.items() if not _within(place, watched.frame.root)}
        if not others or len(others) == len(followed):
            return
        apart = self._group(b"%s %d" % (group.name, next(self._jobs)), group.place)
        for job, watched in others.items():
            del group.watched[job]
            apart.watched[job] = watched
            await group.tell(Unwatch(job=job))
            await apart.tell(watched.frame)

    async def _heard(self, worker: Worker, watched: Watched, frame: Any) -> None:
        match frame:
            case Changes() if watched.look is not None:
                await watched.look(frame.changes)
                await worker.send(ChangesTaken(job=frame.job, serial=frame.serial))
            case Changes():
                taken = await self.journal.take(watched.frame.source, frame.changes, watched.batch)
                batch = self.dispatcher.batches.get(watched.batch or 0)
                if batch is not None:
                    batch.take(taken)
                await worker.send(ChangesTaken(job=frame.job, serial=frame.serial))
                self.dispatcher.wanted.set()
                self.dispatcher.wake()
            case Scanned():
                watched.mode = frame.mode
                watched.error = frame.error
                watched.settling = frame.settling
                watched.ready = True
                if frame.error:
                    log.warning("source %s: %s", watched.frame.source, frame.error,
                                extra={"source": watched.frame.source})  # fmt: skip
                if watched.scanned is not None and not watched.scanned.done():
                    watched.scanned.set_result(frame)
            case Settling():
                watched.settling = frame.count
            case WatchWarning():
                if frame.over:
                    watched.warnings.pop(frame.reason, None)
                elif frame.reason not in watched.warnings:
                    log.warning("source %s: %s", watched.frame.source, frame.reason,
                                extra={"source": watched.frame.source})  # fmt: skip
                    watched.warnings[frame.reason] = None
            case _:
                raise IngestdError(f"unexpected {type(frame).__name__} frame from a watch worker")


def frame(job: int, table: WatchTable, below: Sequence[bytes] | None = None) -> WatchSource:
    """What a watch worker needs to know; with `below`, one scan of these paths."""
    return WatchSource(
        job=job,
        source=table.name,
        root=os.fsencode(table.directory),
        below=list(below or ()),
        include=list(table.include),
        exclude=list(table.exclude),
        recursive=table.recursive,
        follow_links=table.follow_links,
        settle=table.settle,
        max_settle=table.max_settle,
        mode=table.mode,
        rescan=table.rescan,
        once=below is not None,
    )


def _within(place: str, root: bytes) -> bool:
    """Whether a worker that shows `place` looks below `root`."""
    above = one_line(display(root), PLACE).rstrip("/")
    return place == above or place.startswith(f"{above}/")


def group_of(directory: bytes, points: Sequence[bytes]) -> bytes:
    """Which sources share a worker: those of one mount, but for those with mount points of their own below them."""
    below = directory.rstrip(b"/") + b"/"
    return below if any(point.startswith(below) for point in points) else point_of(directory, points)
