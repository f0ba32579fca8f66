"""The life of a document in the supervisor: claimed, loaded, encoded, indexed, and its outcome in the journal."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import resource
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import msgspec

from ingestd import parts, process
from ingestd.blame import Attempt, Watchman
from ingestd.channel import read_blob, write_blob
from ingestd.config import Config, LoaderLimits
from ingestd.encoders import Encoders
from ingestd.errors import ChannelError
from ingestd.indexer import Indexer
from ingestd.journal import Journal, Row, Verdict
from ingestd.journal.members import joined
from ingestd.journal.removal import Hold
from ingestd.journal.retrying import ALONE_AFTER
from ingestd.messages.load import Drop, Identified, Load, Loaded, LoadFailed, Parts, PartsTaken, Proceed, Stat
from ingestd.outcomes import Outcomes, tag
from ingestd.recollections import LARGEST, Recollections, key_of
from ingestd.slots import Turns
from ingestd.supervisor import Worker, WorkerDied
from ingestd.types import display
from ingestd.worker import describe

log = logging.getLogger("ingestd.dispatch")

RECYCLE_FILES = 1000
"""Files after which a load worker is replaced."""
RECYCLE_MEMORY = 0.5
"""Share of the memory limit that an idle load worker may keep."""
CREDIT_BYTES = 256 << 20
CREDIT_SECONDS = 8.0
CREDIT_TOKENS = 65_536
"""The least credit between load and encode workers; above it, `CREDIT_SECONDS` of the encoders' work."""
CREDIT_DOCUMENTS = 1024
CHANGING = 3
"""The attempt from which on a file that changes during each of them is taken as it was read."""
IDLE_POLL = 1.0


class Dispatcher(Outcomes):
    """Hands files to load workers against credit, and sees each document through."""

    def __init__(
        self, config: Config, journal: Journal, encoders: Encoders, indexer: Indexer, recollections: Recollections
    ) -> None:
        super().__init__(journal, encoders, indexer, config.state_directory / "scratch")
        self.recollections = recollections
        self.watchman = Watchman(self._change)
        self._limits: dict[tuple[str, str], LoaderLimits] = {}
        self.configure(config)
        self.roots: dict[str, bytes] = {}
        self.stopped: set[str] = set()
        """Sources that somebody paused, or took out of the configuration."""
        self.loaders: Mapping[str, str] = {}
        """Name and version of each that is there."""
        self.own_pools: dict[str, Callable[[], None]] = {}
        """By loader that has workers of its own: has these started, where they are not."""
        self.remembering: Collection[str] = ()
        """Loaders of which is kept what they made of a content."""
        self.may_read: Callable[[Row], Awaitable[bool]] = _anything
        """Whether its workers may read the file. Where they may not they are `leaving`, and others come that may."""
        self.draining = False
        self.wanted = asyncio.Event()
        """Set at the first need of a load worker."""
        self._jobs = itertools.count(1)
        self.turns: dict[str, Turns] = {}
        """By pool: "", or the loader whose own workers these are."""
        self._work: dict[str, asyncio.Event] = {}
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._looking: dict[str, Worker] = {}
        """By pool: the worker for which the journal is asked."""
        self._exclusive: Row | None = None
        self._alone_check = 0.0
        self._finishing: set[asyncio.Task[None]] = set()
        # Each holds four descriptors, and a channel without room for one drops it.
        self._most_documents = min(CREDIT_DOCUMENTS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 6)

    def configure(self, config: Config) -> None:
        """What is loaded from now on is loaded so."""
        self.config = config
        self.sources = {table.name: table for table in config.watch}
        self.holds = {table.name: Hold(table.hold_deletes, table.hold_grace) for table in config.watch}
        self._limits.clear()

    def _limits_of(self, loader: str, source: str) -> LoaderLimits:
        known = self._limits.get((loader, source))
        if known is None:
            known = self._limits[loader, source] = self.config.limits(loader, source)
        return known

    def wake(self) -> None:
        """There may be work in the journal."""
        for work in self._work.values():
            work.set()
        self._change()

    def _change(self) -> None:
        """Somebody's turn may have come: who waits in vain is not woken, since this is called several times a file."""
        for condition, waiting in self._waiting:
            if not waiting.done() and condition():
                waiting.set_result(None)

    @property
    def paused(self) -> dict[str, str]:
        """Sources that pause by themselves, with the reason."""
        return self.unreachable.paused()

    @property
    def idle_sources(self) -> set[str]:
        """Sources of which nothing is taken now."""
        return self.stopped | self.paused.keys()

    def document_path(self, row: Row) -> bytes:
        """Absolute; that of a part has its name behind that of its container: "outer.zip!/inner/report.pdf"."""
        path = self.roots.get(row.source, b"/").rstrip(b"/") + b"/" + row.path
        return path + b"!/" + row.member.encode() if row.member else path

    # --- load -------------------------------------------------------------------------------------------------

    async def serve(self, worker: Worker, pool: str = "") -> None:
        """Give a load worker one file after the other. `pool`: the loader whose own workers these are."""
        worker.died.add_done_callback(lambda _: self.wake())  # though it has no file
        turns = self.turns[pool]
        while not worker.leaving and worker.served < RECYCLE_FILES:
            row = await self._next(worker, pool)
            if row is None:
                return
            worker.served += 1
            try:
                if worker.died.done() or worker.leaving or not await self.may_read(row):
                    await self.journal.release(row)
                    self.wake()
                    continue
                await self._attempt(worker, row)
            finally:
                turns.working.discard(worker)
                worker.path = None
                worker.still = False
                if not worker.died.done():
                    worker.state = "idle"
                if self._exclusive is row:
                    self._exclusive = None
                    self._alone_check = 0.0  # there may be more of them
                self._change()
            if worker.served % 16 == 0 and process.group_rss(worker.pid) > RECYCLE_MEMORY * self.config.load.memory:
                worker.leaving = True  # it has grown; a fresh one has not
        if worker.died.done():
            raise worker.died.result()

    async def _next(self, worker: Worker, pool: str) -> Row | None:
        """The next file to load, once it is the worker's turn, there is one, and credit for it.

        None when the worker is to go.
        """
        turns = self.turns[pool]
        work = self._work.setdefault(pool, asyncio.Event())
        try:
            with turns.waiting(worker):
                while True:
                    await self._until(lambda: worker.died.done() or worker.leaving or self._may_look(worker, pool))
                    if worker.died.done():
                        raise worker.died.result()
                    if worker.leaving:
                        return None
                    self._looking[pool] = worker
                    try:
                        work.clear()
                        row = await self._claim(pool)
                        if row is not None:
                            turns.working.add(worker)
                            return row
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(IDLE_POLL):
                                await work.wait()
                    finally:
                        del self._looking[pool]
                    self._change()
        finally:
            self._change()  # others may have let it go first

    def _may_look(self, worker: Worker, pool: str) -> bool:
        return self._looking.get(pool) is None and self._may_load() and self.turns[pool].first(worker)

    async def _claim(self, pool: str) -> Row | None:
        """A file for a worker of the pool, if there is one now; one that is to run alone, once nothing else runs."""
        if time.monotonic() < self.causes.paused_until or not await self.room.found():
            return None
        if not pool and self._exclusive is None and time.monotonic() - self._alone_check > IDLE_POLL:
            self._alone_check = time.monotonic()
            if rows := await self.journal.claim(1, alone=True, without=self.idle_sources):
                self._exclusive = rows[0]
                await self._until(lambda: not self.watchman.attempts)
                return rows[0]
        rows = await self.journal.claim(1, pool=pool, without=self.idle_sources)
        return rows[0] if rows else None

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            waiting = condition, asyncio.get_running_loop().create_future()
            self._waiting.append(waiting)
            try:
                await waiting[1]
            finally:
                self._waiting.remove(waiting)

    def _may_load(self) -> bool:
        tokens = max(CREDIT_TOKENS, self.encoders.tokens_per_second * CREDIT_SECONDS)
        return (
            not self.draining
            and (self._exclusive is None or self._needs_no_company(self._exclusive))
            and self._bytes < CREDIT_BYTES
            and self._tokens < tokens
            and len(self._finishing) < self._most_documents
            and self.indexer.trouble is None
        )

    def _needs_no_company(self, row: Row) -> bool:
        """Whether a file that was to run alone stands still alone, too: then the others need not wait for its deadline.

        Not one that was killed from outside again and again, perhaps for what all of them took together.
        """
        return row.interruptions < ALONE_AFTER and any(
            attempt.alone and attempt.worker.still for attempt in self.watchman.attempts
        )

    async def _attempt(self, worker: Worker, row: Row) -> None:
        path = self.document_path(row)
        if row.member and self.unpacked.find(row) is None:
            await self._not_at_hand(worker, row, path)
            return
        attempt = Attempt(
            row=row,
            worker=worker,
            path=path,
            limits=self._limits_of("", row.source),
            size=row.size or 0,
            started=time.monotonic(),
            alone=self._exclusive is row,
            digest=row.digest if row.member else None,
        )
        worker.path = path
        worker.state = "running"
        worker.forget_output()
        self.unreachable.begin(row.source, row.id)
        self.watchman.begin(attempt)
        try:
            await self._load(attempt)
        except WorkerDied as death:
            self.watchman.finish(attempt)
            self._spawn(attempt, self._died(attempt, death))
            raise
        else:
            self.unreachable.end(row.source, row.id)
        finally:
            self.watchman.finish(attempt)

    async def _load(self, attempt: Attempt) -> None:
        worker, row = attempt.worker, attempt.row
        job = next(self._jobs)
        scratch = worker.scratch / str(job)
        source = self.sources.get(row.source)
        follow = source is not None and source.follow_links
        load = Load(job=job, path=attempt.path, follow_links=follow, scratch=str(scratch))
        place = self.unpacked.find(row) if row.member else None
        if place is None:
            answer, descriptors = await worker.call(load)
        else:
            load = msgspec.structs.replace(
                load, member=row.member, offset=place.offset, size=place.size, digest=row.digest or b""
            )
            answer, descriptors = await worker.call(load, [place.descriptor])
        self.unreachable.answered(row.source)
        if isinstance(answer, Identified):
            identified = answer
            attempt.size = identified.stat.size
            attempt.digest = identified.digest
            attempt.loader = identified.loader or ""
            attempt.tag = tag(identified)
            attempt.limits = self._limits_of(attempt.loader, row.source)
            verdict = await self.journal.identified(
                row, identified.stat, identified.digest, identified.loader, identified.loader_version,
                attempt.limits.max_strikes,
            )  # fmt: skip
            if verdict.action == "load" and attempt.loader in self.own_pools and row.pool != attempt.loader:
                await worker.send(Drop(job=job))
                await self.journal.route(row, attempt.loader)
                self.own_pools[attempt.loader]()
                self.wake()
                return
            wait = self.causes.wait(attempt.loader)
            if verdict.action != "load" or wait:
                await worker.send(Drop(job=job))
                self.watchman.finish(attempt)
                if wait and verdict.action == "load":
                    reason = f"put off: {self.causes.warnings.get(attempt.loader, 'a common cause')}"
                    await self._settle(attempt, "failed", "put off", reason=reason, retry_in=wait)
                else:
                    self._spawn(attempt, self._dropped(attempt, identified, verdict.action, verdict))
                return
            remembered = self._recollection(attempt, identified)
            answer, descriptors = await self._proceed(attempt, job, verdict, remembered)
            while isinstance(answer, Parts):
                answer, descriptors = await self._take_parts(attempt, descriptors, job)
        attempt.expired = None
        attempt.seconds = time.monotonic() - attempt.started
        self.watchman.finish(attempt)
        if isinstance(answer, Loaded) and attempt.digest is not None and len(descriptors) == 3 + answer.remember:
            if answer.remember:
                await self._remember(worker, remembered, descriptors)
            self._bytes += answer.size
            self._tokens += answer.tokens
            if answer.leave:
                worker.leaving = True
            self.causes.success(attempt.loader)
            self.journal.loaded(row)
            if answer.changed:
                # What was read is neither version of the file: no content may be taken for equal to it.
                identified = msgspec.structs.replace(identified, digest=b"~" + identified.digest)
            self._spawn(attempt, self._finish(attempt, identified, answer, descriptors))
        elif isinstance(answer, LoadFailed):
            if answer.leave:
                worker.leaving = True
            for descriptor in descriptors:
                os.close(descriptor)
            await self._failed(attempt, answer)
        else:
            for descriptor in descriptors:
                os.close(descriptor)
            worker.kill("protocol", f"sent a {type(answer).__name__} frame out of turn")
            raise await asyncio.shield(worker.died)

    def _recollection(self, attempt: Attempt, identified: Identified) -> bytes | None:
        """Under which key it is kept what the loader makes of this content; None: it is not."""
        if attempt.loader not in self.remembering or identified.loader_version == "":
            return None
        options = self.config.load.options(attempt.loader)
        return key_of(identified.digest, attempt.loader, identified.loader_version, options)

    async def _remember(self, worker: Worker, key: bytes | None, descriptors: list[int]) -> None:
        """Take the last descriptor; the others stay the caller's, unless this raises `WorkerDied`."""
        try:
            value = read_blob(descriptors.pop(), LARGEST)
        except ChannelError as error:
            for descriptor in descriptors:
                os.close(descriptor)
            worker.kill("protocol", error.message)
            raise await asyncio.shield(worker.died) from None
        if key is not None:
            await self.recollections.add(key, value)

    async def _proceed(
        self, attempt: Attempt, job: int, verdict: Verdict, remembered: bytes | None
    ) -> tuple[Any, list[int]]:
        options = self.config.load.options(attempt.loader)
        frame = proceed(
            job, attempt.limits, options, accept_changed=attempt.row.attempts >= CHANGING,
            depth=verdict.depth, room=self.unpacked.room(),
        )  # fmt: skip
        recollection = await self.recollections.find(remembered) if remembered is not None else b""
        known: list[int] = []
        try:
            if verdict.hashes or verdict.parts or recollection:
                with contextlib.suppress(OSError):  # no room for so many: all of it is done again
                    for blob in (verdict.hashes, verdict.parts, recollection):
                        known.append(write_blob([blob], attempt.worker.scratch))
            return await attempt.worker.call(frame, known)
        finally:
            for descriptor in known:
                os.close(descriptor)

    # --- parts ------------------------------------------------------------------------------------------------

    async def _take_parts(self, attempt: Attempt, descriptors: list[int], job: int) -> tuple[Any, list[int]]:
        """Journal what the worker found in its file; returns its next answer."""
        row, worker = attempt.row, attempt.worker
        try:
            members, data = parts.read(descriptors)
            if data is not None:
                self.unpacked.add(row, members, data)
        except ChannelError as error:
            worker.kill("protocol", error.message)
            raise await asyncio.shield(worker.died) from None
        listed = await self.journal.list_parts(row, members, len(attempt.parts))
        self.unpacked.keep(row, members, listed.wanted)
        attempt.parts.update(joined(row.member, member.name) for member in members)
        batch = self.batches.get(listed.batch or 0)
        if batch is not None:
            batch.total += listed.joined
            for member, state, reason in listed.ended:
                part = msgspec.structs.replace(row, member=member)
                batch.end(state, self.document_path(part), reason)
        self.wake()
        return await worker.call(PartsTaken(job=job, room=self.unpacked.room()))

    async def _not_at_hand(self, worker: Worker, row: Row, path: bytes) -> None:
        """A part whose bytes are still in its container: it can do without them, or the container is read again."""
        version = self.loaders.get(row.loader or "")
        if row.digest is not None and row.media_type is not None and (version is not None or row.loader is None):
            attempt = Attempt(
                row=row, worker=worker, path=path, limits=self._limits_of(row.loader or "", row.source), size=0,
                started=time.monotonic(), digest=row.digest, loader=row.loader or "",
            )  # fmt: skip
            identified = Identified(
                job=0, stat=Stat(0, 0, row.size or 0, row.mtime_ns or 0, 0), digest=row.digest,
                media_type=row.media_type, loader=row.loader, loader_version=version or "",
            )  # fmt: skip
            attempt.tag = tag(identified)
            verdict = await self.journal.identified(
                row, identified.stat, identified.digest, row.loader, version or "", attempt.limits.max_strikes
            )
            if verdict.action != "load":
                self._spawn(attempt, self._dropped(attempt, identified, verdict.action, verdict))
                return
        await self.journal.seal(row)
        self.wake()

    # --- after loading ----------------------------------------------------------------------------------------

    def _spawn(self, attempt: Attempt, life: Awaitable[None]) -> None:
        task = asyncio.ensure_future(self._see_through(attempt, life))
        self._finishing.add(task)
        task.add_done_callback(self._finished)

    async def _see_through(self, attempt: Attempt, life: Awaitable[None]) -> None:
        """A defect of ingestd's own is nobody's fault, but does not leave the file `running` for ever."""
        try:
            await life
        except Exception as error:
            log.error("%s: its outcome was not recorded", display(attempt.path), exc_info=error,
                      extra={"path": attempt.path, "stage": "load"})  # fmt: skip
            await self._interrupt(attempt, f"its outcome was not recorded: {describe(error)}", False)
        finally:
            self.unreachable.end(attempt.row.source, attempt.row.id)

    def _finished(self, task: asyncio.Future[None]) -> None:
        self._finishing.discard(task)
        self._change()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a document's outcome cannot be recorded; it is done again at the next start", exc_info=error)

    # --- stopping ---------------------------------------------------------------------------------------------

    async def drain(self, timeout: float) -> None:
        """Claim nothing more and wait until what is in hand is indexed, for `timeout` seconds at most."""
        self.draining = True
        self._patience = time.monotonic() + timeout
        while (self.watchman.attempts or self._finishing) and time.monotonic() < self._patience:
            await asyncio.sleep(0.05)

    def hurry(self) -> None:
        """Wait no longer."""
        self._patience = 0.0

    async def abandon(self) -> None:
        """Give up what is still in hand; the journal has it."""
        for task in list(self._finishing):
            task.cancel()
        await asyncio.gather(*self._finishing, return_exceptions=True)


async def _anything(_: Row) -> bool:
    return True


def proceed(job: int, limits: LoaderLimits, options: dict[str, Any], *, accept_changed: bool, **more: Any) -> Proceed:
    """The frame that has a file loaded. `more`: further fields of it."""
    known = {
        "max_text": limits.max_text,
        "max_file_size": limits.max_file_size,
        "on_limit": limits.on_limit,
        "accept_changed": accept_changed,
        "max_parts": limits.max_parts,
        "max_parts_size": limits.max_parts_size,
        "max_parts_ratio": limits.max_parts_ratio,
        "max_parts_depth": limits.max_parts_depth,
    }
    return Proceed(job=job, limits=known, options=options, **more)
