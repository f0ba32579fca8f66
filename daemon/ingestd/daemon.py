"""The daemon put together: journal, pools of workers, control socket; and what `ingest` and the commands ask of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import itertools
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from ingestd import ingesting, process, reindexing, reports
from ingestd import journal as journals
from ingestd.channel import read_blob
from ingestd.config import Config, WatchTable
from ingestd.control import ControlServer
from ingestd.dispatch import Dispatcher
from ingestd.encoders import Encoders
from ingestd.errors import IngestdError, UsageError
from ingestd.indexer import Indexer
from ingestd.journal import Journal, Row
from ingestd.lock import Lock
from ingestd.planning import plan
from ingestd.recollections import Recollections
from ingestd.reindexing import Reindexing
from ingestd.reloading import reload, reread
from ingestd.removing import remove
from ingestd.stages import Stages
from ingestd.supervisor import StartError, remove_tree
from ingestd.trying import Trials
from ingestd.types import Hit
from ingestd.verifying import verify
from ingestd.watching import Watching

log = logging.getLogger("ingestd")

DRAIN = 20.0
"""Seconds that a stop waits for what is in hand."""
ENCODE_TEXTS = 256
"""Texts that are encoded together."""
ENCODE_LANES = 8
"""How many times so many are on their way at once."""


def constants(table: WatchTable) -> str:
    """All that the documents of a source get from the configuration."""
    return msgspec.json.encode(
        [table.directory, table.category_id, table.category_path, table.metadata], order="sorted"
    ).decode()


class Daemon(Stages):
    """One running ingestd, as an async context manager.

    `watching`: follow the configured sources. `draft`: it builds a new index for another one, see `reindexing`.
    """

    def __init__(self, config: Config, *, watching: bool = True, draft: bool = False) -> None:
        super().__init__(config)
        self.watching_sources = watching
        self.draft = draft
        self.reindexing: Reindexing | None = None
        self.building: asyncio.Task[None] | None = None
        """The task of `reindexing`, also once it has failed."""
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Set to what keeps it from going on."""
        self._steady = asyncio.Event()
        self._steady.set()
        """Not while a new index takes the place of the old one."""
        self._answering = 0
        self.started = time.monotonic()
        self.ready = False
        self.batch_numbers = itertools.count(int(time.time()) % 1_000_000 * 1000 + 1)
        self._rates = reports.Rates()
        self._reloading = asyncio.Lock()
        self.reloading: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        """Entered while the configuration is read again, for the service manager."""
        self._verifying = asyncio.Lock()

    # --- life -------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Daemon:
        self._lock = Lock(self.state)
        try:
            await asyncio.to_thread(reindexing.settle, self.state)
            await self._open()
        except BaseException:
            await self._closing.aclose()
            self._lock.release()
            raise
        if not self.draft:
            self.control = ControlServer(
                self.config.control_socket, self.handle, group=self.config.state.control_group, scratch=self.scratch
            )
            try:
                await self.control.start()
            except BaseException:
                await self.close(0.0)
                raise
            self.plugins.tell()
        if self.watching_sources and self._target is not None:
            await self.begin_reindexing(self._target)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _open(self) -> None:
        self._closing = contextlib.AsyncExitStack()
        name = hashlib.blake2b(os.fsencode(self.state.resolve()), digest_size=6).hexdigest()
        # What a killed daemon's loaders started may still live; its workers died with it.
        strays = await asyncio.to_thread(process.sweep, f"{name}.", prefix=True)
        if strays:
            log.warning("killed %d processes that an earlier daemon left behind", strays)
        self._prefix = f"{name}.{secrets.token_hex(4)}"
        self.scratch = self.state / "scratch"
        await asyncio.to_thread(remove_tree, self.scratch)
        self.scratch.mkdir(mode=0o700)
        (self.state / "index").mkdir(mode=0o700, exist_ok=True)
        self.journal = Journal(self.state / "journal.sqlite")
        self._closing.callback(self.journal.close)
        await self.journal.recover()
        self._target: Config | None = None
        """The settings of an index that is half built."""
        if not self.draft and reindexing.drafted(self.state):
            self._target = self.config
            self.config = reindexing.in_force(self.config, await self.journal.meta("made"))
        self.encoders = Encoders()
        self.indexer = Indexer()
        recollections = Recollections((self.state.parent if self.draft else self.state) / "recollections.sqlite")
        self._closing.callback(recollections.close)
        self.dispatcher = Dispatcher(self.config, self.journal, self.encoders, self.indexer, recollections)
        await self._note_sources()
        self.watching = Watching(self.journal, self.dispatcher, self._pool)
        await self.plugins.probe(self.scratch, self._prefix, self.config.load)
        self.trials = Trials(self, f"{self._prefix}.load.try")
        self._closing.push_async_callback(self.trials.close)
        self.dispatcher.loaders = self.plugins.loaders
        self.dispatcher.remembering = self.plugins.remembering
        self.dispatcher.may_read = self._may_read
        self._closing.callback(self.dispatcher.unpacked.close)
        self.plugins.check(self.config)
        self.encoders.engine = self.plugins.called("engine", self.config.encode.engine)
        self.indexer.sink = self.plugins.called("sink", self.config.index.sink)
        if revived := await self.journal.revive(self.plugins.loaders):
            log.info("%d files get another try, since the loaders changed", revived)
        await self._widen()
        await self._pools()
        self.watching.on_readable = self._renew_load
        self.watching.on_hung = self._restart_load
        self._task(self.dispatcher.watchman.run(), "watchman")
        self._task(remove(self.dispatcher), "remover")
        if self.watching_sources and not self.draft:  # a draft may have documents before it looks at folders
            self.encoders.wanted.set()
            await self.watching.follow(self.config.watch)

    async def close(self, drain: float = DRAIN) -> None:
        """Finish what is in hand, for `drain` seconds at most, then end every worker."""
        if self.building is not None:
            if self._steady.is_set():
                self.building.cancel()  # the next start goes on with it
            await asyncio.gather(self.building, return_exceptions=True)
        await self._close(drain)
        self._lock.release()

    async def _close(self, drain: float, *, for_good: bool = True) -> None:
        """End the stages; the control socket too, unless new ones follow."""
        if self.encode_pool.trouble or self.index_pool.trouble or self.indexer.trouble:
            drain = 0.0  # it cannot be finished
        await self.watching.close()
        await self.dispatcher.drain(drain)
        await self.dispatcher.abandon()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(TimeoutError, IngestdError):
            async with asyncio.timeout(2):
                await self.journal.relinquish()
        if for_good and not self.draft:
            await self.control.close()
        await self._closing.aclose()
        await asyncio.to_thread(remove_tree, self.scratch)

    async def begin_reindexing(self, config: Config) -> None:
        """Build an index with other settings beside this one, or go on with it; `building` is the task."""
        if self.building is not None and not self.building.done():
            if self.reindexing is not None and reindexing.same(self.reindexing.config, config):
                return
            self.building.cancel()
            await asyncio.gather(self.building, return_exceptions=True)
        new = await asyncio.to_thread(reindexing.prepare, self.state, config)
        self.reindexing = Reindexing(self, config, new=new)
        self.building = asyncio.create_task(self._reindex(self.reindexing), name="reindexing")
        self.building.add_done_callback(lambda task: task.cancelled() or task.exception())  # who asked may be gone

    async def _reindex(self, under_way: Reindexing) -> None:
        try:
            await under_way.build()
        except IngestdError as error:
            under_way.waiting_for = error.message
            log.error("the new index cannot be built: %s", error.message)
            if under_way.empty:  # it was refused: no later start is to take it up unasked
                await asyncio.to_thread(reindexing.drop, self.state)
            raise
        await self._replace(under_way.config)

    async def _replace(self, config: Config) -> None:
        """Put the new index in the place of the one in use. Commands wait for it, a few seconds."""
        self._steady.clear()
        try:
            while self._answering:
                await asyncio.sleep(0.05)
            await self._close(DRAIN, for_good=False)
            await asyncio.to_thread(reindexing.complete, self.state)
            await asyncio.to_thread(reindexing.settle, self.state)
            super().__init__(config)
            self.reindexing = None
            await self._open()
            if self.watching_sources:
                await self.started_up(patient=True)
            log.info("the new index is in use: %s", config.encode.model)
        except Exception as error:
            self.broken.set_exception(error)
            raise
        finally:
            self._steady.set()

    def _renew_load(self) -> None:
        for pool in self.load_pools:
            pool.renew()

    def _restart_load(self) -> None:
        """Load workers that start may wait for the source that does not answer; their successors are spared it."""
        for pool in self.load_pools:
            for worker in pool.workers:
                if worker.state == "starting":
                    worker.kill("stopped", "a source does not answer")

    def hurry(self) -> None:
        """Stop now: kill what would otherwise be asked; the journal has everything."""
        self.dispatcher.hurry()
        for pool in (*self.load_pools, self.encode_pool, self.index_pool, *self.watching.pools):
            for worker in pool.workers:
                worker.kill("stopped", "it was told to stop at once")

    def abandon(self) -> None:
        """End at once, from any thread, with the workers and all that they started; the journal has everything."""
        process.sweep(f"{self._prefix.partition('.')[0]}.", prefix=True)
        remove_tree(self.scratch)

    async def _note_sources(self) -> None:
        """Tell the journal of the sources as they are configured now."""
        settings = {
            table.name: journals.SourceSettings(os.fsencode(table.directory), constants(table), table.hold_grace)
            for table in self.config.watch
        }
        settings[ingesting.SOURCE] = journals.SourceSettings(b"/")
        self._sources(await self.journal.configure(settings))

    async def configure(self, config: Config) -> None:
        """Bring other sources, limits and loaders into force."""
        settings = self.load_settings(0)
        self.config = config
        self.dispatcher.configure(config)
        await self._note_sources()
        if self.reindexing is not None:
            await self.reindexing.configure(config)
        if self.load_settings(0) != settings:
            self._renew_load()
        await self.resize_load()
        self.dispatcher.wake()
        if self.watching_sources:
            await self.watching.follow(config.watch)

    async def reload(self) -> dict[str, Any]:
        """See `reloading.reload`."""
        await self._steady.wait()
        async with self._reloading:
            with self.reloading():
                return await reload(self)

    async def _may_read(self, row: Row) -> bool:
        """Whether load workers may read the file; else those that follow them will."""
        if row.source != ingesting.SOURCE or self.watching.may_read(b"/" + row.path):
            return True
        await self._widen()
        return False

    async def _widen(self) -> None:
        """Let load workers read what `ingest` was given: the journal has files of it that are to be loaded."""
        found = await self.journal.read(functools.partial(journals.folders, source=ingesting.SOURCE))
        fresh = {os.fsdecode(b"/" + path) for path in found} - self.watching.readable
        if fresh:
            self.watching.readable |= fresh
            self.watching.on_readable()

    def _sources(self, known: dict[str, journals.SourceRow]) -> None:
        self.dispatcher.roots = {name: source.root for name, source in known.items()}
        self.dispatcher.stopped = {name for name, source in known.items() if source.idle}
        self.dispatcher.wake()

    # --- what it is asked for ---------------------------------------------------------------------------------

    async def started_up(self, *, patient: bool = False) -> None:
        """Wait until work can be taken; `patient`: also for a server that is away.

        Raises the `StartError` of a stage that cannot start at all.
        """
        pools = [self.load_pool, self.encode_pool, self.index_pool]
        while True:
            ready = asyncio.ensure_future(asyncio.gather(*(pool.ready.wait() for pool in pools)))
            try:
                await self.or_failure(ready)
                break
            except StartError as error:
                if not (patient and error.away):
                    raise
            await asyncio.sleep(1)
        self.ready = True

    async def search(
        self, text: str, top: int, source: str | None, path: str | None, **filters: Any
    ) -> list[dict[str, Any]]:
        """Hits, best first. `filters`: further fields of `types.Query`. Raises `IngestdError`."""
        if source is not None and source not in self.dispatcher.roots:
            known = ", ".join(sorted(self.dispatcher.roots))
            raise UsageError(f"there is no source {source!r}; known: {known}", command="ingestd status")
        vector = await self.or_failure(asyncio.ensure_future(self.encoders.query(text)))
        error, descriptor = await self.or_failure(
            asyncio.ensure_future(
                self.indexer.search(text=text, vector=vector, top=top, source=source, path=path, **filters)
            )
        )
        if descriptor is None:
            raise IngestdError(f"the index cannot be searched: {error}")
        try:
            hits = msgspec.msgpack.decode(read_blob(descriptor), type=list[Hit])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise IngestdError(f"the index cannot be searched: {self.indexer.sink} answered with nonsense") from error
        return [reports.hit(hit) for hit in hits]

    async def encode(self, texts: Sequence[str], *, query: bool = False) -> bytes:
        """float32 (texts, dims), raw, in the order of the texts. Raises `IngestdError`."""
        lanes = asyncio.Semaphore(ENCODE_LANES)

        async def part(start: int) -> bytes:
            async with lanes:
                packed = msgspec.msgpack.encode(texts[start : start + ENCODE_TEXTS])
                return await self.encoders.vectors(packed, self.scratch, query=query)

        parts = asyncio.gather(*(part(start) for start in range(0, len(texts), ENCODE_TEXTS)))
        return b"".join(await self.or_failure(parts))

    def ingest(self, paths: Sequence[bytes], *, results: bool = False) -> AsyncIterator[dict[str, Any]]:
        """See `ingesting.ingest`."""
        return ingesting.ingest(self, paths, results=results)

    async def handle(self, command: str, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The commands of the control socket."""
        if command == "reindex":  # it waits for the new index, which waits for nobody but the others
            config = await asyncio.to_thread(reread, self.config)
            async for told in reindexing.reindex(self, config):
                yield told
            return
        await self._steady.wait()
        self._answering += 1
        try:
            async for told in self._answer(command, arguments):
                yield told
        finally:
            self._answering -= 1

    async def _answer(self, command: str, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        match command:
            case "status":
                yield await self.status()
            case "search":
                yield {"hits": await self.search(**arguments)}
            case "ingest":
                paths = [bytes(path) for path in arguments["paths"]]
                async for progress in self.ingest(paths, results=bool(arguments.get("results"))):
                    yield progress
            case "plan":
                async for planned in plan(self, [bytes(path) for path in arguments["paths"]]):
                    yield planned
            case "encode":
                yield {"vectors": await self.encode(**arguments), "dims": (await self._fingerprint)["dims"]}
            case "why":
                yield await self.journal.read(lambda db: reports.why(db, bytes(arguments["path"])))
            case "failures":
                yield {"failures": await self.journal.read(reports.failures)}
            case "retry":
                yield {"retried": await self._retry(arguments.get("paths"))}
            case "pause" | "resume":
                source = arguments.get("source")
                names = await self.journal.run(lambda db: journals.pause(db, source, command == "pause"))
                self._sources(await self.journal.read(journals.sources))
                yield {"sources": names}
            case "confirm_deletes":
                source = str(arguments["source"])
                files = await self.journal.run(lambda db: journals.removal.confirm(db, source))
                await self.watching.accept(source)
                yield {"files": files}
            case "reload":
                yield await self.reload()
            case "try":
                async for told in self.trials.answer(**arguments):
                    yield told
            case "verify":
                async with self._verifying:
                    async for told in verify(self, **arguments):
                        yield told
            case "plugins":
                plugins = self.plugins
                yield {"plugins": reports.plugins(plugins.manifest, plugins.lost, self.config.load)}
            case "stop":
                yield {}
            case _:
                raise UsageError(f"the daemon has no command {command!r}")

    async def _retry(self, paths: list[bytes] | None) -> int:
        retried = await self.journal.retry(await self.journal.read(lambda db: reports.retryable(db, paths)))
        self.dispatcher.wanted.set()
        self.dispatcher.wake()
        return retried

    async def status(self) -> dict[str, Any]:
        """See DESIGN's list of `status --json`."""
        await self._steady.wait()
        files, chunks = await self.journal.read(journals.counts)
        return reports.status(self, files, chunks, await self.journal.read(journals.sources))

    def rates(self) -> tuple[float, float]:
        """Files and chunks per second, over the last half minute."""
        return self._rates.sample(self.dispatcher.files_done, self.dispatcher.chunks_done)

    @property
    def waiting_for(self) -> list[str]:
        """What stands in the way of readiness."""
        pools = {"load workers": self.load_pool, "encoders": self.encode_pool, "index": self.index_pool}
        found = [f"{name}: {pool.trouble}" if pool.trouble else name
                 for name, pool in pools.items() if not pool.ready.is_set()]  # fmt: skip
        return found + ([f"index: {self.indexer.trouble}"] if self.indexer.trouble else [])

    @property
    def troubles(self) -> list[str]:
        """Everything that a person should know now."""
        found = [*self.plugins.warnings, *self.dispatcher.causes.warnings.values(), *self.watching.warnings]
        if self.dispatcher.unknown_language:
            found.append(
                f"{self.dispatcher.unknown_language} documents are in a language that {self.config.encode.model} hardly"
                " knows: they are found by their words, not by meaning; a multilingual model under [encode] helps"
            )
        found += [f"source {name} is paused: {reason}" for name, reason in self.dispatcher.paused.items()]
        found += [pool.trouble for pool in (self.load_pool, self.encode_pool, self.index_pool) if pool.trouble]
        if self.dispatcher.room.trouble:
            found.append(self.dispatcher.room.trouble)
        if self.indexer.trouble:
            found.append(f"the index cannot be written: {self.indexer.trouble}")
        if self.reindexing is not None:
            found.append(self.reindexing.told)
        elif self._target is not None:
            found.append("a new index is half built; to go on with it: ingestd reindex")
        if self.journal.trouble:
            found.append(self.journal.trouble)
        return found
