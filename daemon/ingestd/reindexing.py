"""A new index beside the one in use: a second pipeline builds it, and it takes the other's place when it is complete.

The second pipeline is a `Daemon` with the new settings and a state directory of its own below the first one's. It
follows the same folders, so both stay in step; the first one goes on answering. Files are loaded again where passages
are cut by other tokens than before, else `reembedding` takes their texts from the index in use. Whatever is killed, the
next start goes on where this one was.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ingestd import journal
from ingestd.config import Config
from ingestd.config.units import spell_duration
from ingestd.ingesting import SOURCE
from ingestd.journal.retrying import note
from ingestd.owner import give, owner
from ingestd.reembedding import Reembedding, cut_alike
from ingestd.supervisor import StartError

if TYPE_CHECKING:
    from ingestd.daemon import Daemon

log = logging.getLogger("ingestd")

DRAFT = "next"
"""The state directory of the index that is built."""
SETTINGS = "settings.json"
"""A file in it: what it is made with."""
COMPLETE = "complete"
"""A file in it: from now on it is the one in use, wherever the moving was cut short."""
REPLACED = "previous"
"""What is on its way to be deleted."""
TICK = 0.25
"""Seconds between two looks at how far it is."""
FEW = 200
RESTLESS = 10.0
"""With so few files left for so many seconds, it is the folders that never rest, not the new index that lags behind."""
HUSH = 120.0
"""Seconds that the folders are not followed for that, at the most."""
PAGE = 1_000
"""Documents that are compared at a time."""


# --- on the disk ----------------------------------------------------------------------------------------------


def drafted(state: Path) -> bool:
    """Whether a new index is half built."""
    return (state / DRAFT).is_dir()


def settle(state: Path) -> None:
    """Put a complete draft in the place of what was there before; it may be cut short anywhere, and done again."""
    draft = state / DRAFT
    if (draft / COMPLETE).exists():
        if (draft / "journal.sqlite").exists():
            for name in ("journal.sqlite-wal", "journal.sqlite-shm", "journal.sqlite"):  # the last one ends this step
                with contextlib.suppress(FileNotFoundError):
                    (state / name).unlink()
                with contextlib.suppress(FileNotFoundError):
                    (draft / name).rename(state / name)
        if (draft / "index").exists():
            shutil.rmtree(state / "index", ignore_errors=True)
            (draft / "index").rename(state / "index")
        _sync(state)
        drop(state)
    shutil.rmtree(state / REPLACED, ignore_errors=True)


def prepare(state: Path, config: Config) -> bool:
    """A place for an index with these settings; what was begun with others is given up. Returns whether it is new."""
    settings = state / DRAFT / SETTINGS
    wanted = made_with(config, config.encode.model)
    new = not settings.exists() or settings.read_text() != wanted
    if new:
        drop(state)
        settings.parent.mkdir(mode=0o700)
        settings.write_text(wanted)
    index = state / DRAFT / "index"
    index.mkdir(mode=0o700, exist_ok=True)
    give(index, owner(state / "index"))
    return new


def drop(state: Path) -> None:
    """Give up the draft, all of it or nothing."""
    shutil.rmtree(state / REPLACED, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        (state / DRAFT).rename(state / REPLACED)
    shutil.rmtree(state / REPLACED, ignore_errors=True)


def complete(state: Path) -> None:
    """From here on the draft is the index in use."""
    (state / DRAFT / COMPLETE).touch()
    _sync(state / DRAFT)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- settings -------------------------------------------------------------------------------------------------


def made_with(config: Config, model: str) -> str:
    """What decides whether an index can be used with a configuration. `model`: its absolute directory, or its name."""
    keys = {key: getattr(config.encode, key) for key in ("engine", "normalize", "query_prompt", "passage_prompt")}
    chunk = msgspec.structs.asdict(config.chunk)
    return json.dumps({"encode": {**keys, "model": model}, "chunk": chunk, "index": {"sink": config.index.sink}})


def same(one: Config, other: Config) -> bool:
    """Whether both make the same index."""
    return made_with(one, one.encode.model) == made_with(other, other.encode.model)


def in_force(config: Config, made: str | None) -> Config:
    """The configuration with the settings that the index was made with: those in force until the new one is there."""
    if made is None:
        return config
    tables = {name: msgspec.structs.replace(getattr(config, name), **keys) for name, keys in json.loads(made).items()}
    return msgspec.structs.replace(config, **tables)


def in_use(config: Config) -> Config:
    """The same of an index that no daemon has open."""
    with contextlib.closing(journal.connect(config.state_directory / "journal.sqlite", readonly=True)) as db:
        made = db.execute("SELECT value FROM meta WHERE key = 'made'").fetchone()
    return in_force(config, made[0] if made is not None else None)


# --- building -------------------------------------------------------------------------------------------------


class Reindexing:
    """Builds the new index beside a daemon, see the module's docstring."""

    def __init__(self, daemon: Daemon, config: Config, *, new: bool) -> None:
        self.daemon = daemon
        self.config = config
        self.empty = new
        """There is nothing in it that the next start could go on with."""
        self.waiting_for: str | None = None
        """Why the complete index does not take its place yet."""
        self._builder: Daemon | None = None
        self._counts: dict[str, int] = {}
        self._left = 0
        """Files that it still has to take in."""

    async def build(self) -> None:
        """Until the new index is complete, and closed. Raises `IngestdError` where it cannot be built."""
        from ingestd.daemon import Daemon

        state = self.daemon.state
        settings = msgspec.structs.replace(self.config.state, directory=str(state / DRAFT))
        config = msgspec.structs.replace(self.config, state=settings, runtime_directory=None)
        log.info("a new index is built with %s", config.encode.model)
        async with Daemon(config, watching=self.daemon.watching_sources, draft=True) as builder:
            self._builder = builder
            try:
                builder.encoders.wanted.set()
                builder.dispatcher.wanted.set()
                await builder.started_up(patient=True)
                self.empty = False
                await self._take_over(builder)
                if self.daemon.watching_sources:
                    await builder.watching.follow(builder.config.watch)
                else:
                    for table in config.watch:
                        await builder.watching.scan(table, [b""], None)
                await self._mirror()
                restless = 0.0
                while not await self._is_complete():
                    await asyncio.sleep(TICK)
                    restless = restless + TICK if 0 < self._left <= FEW and builder.watching.ready else 0.0
                    if restless > RESTLESS:
                        await self._hush(builder)
                        restless = 0.0
                await builder.journal.meta("publish", "1")
            except BaseException:
                if self.daemon.watching_sources:  # it may have been hushed
                    await self.daemon.watching.follow(self.daemon.config.watch)
                raise
            finally:
                self._builder = None

    async def _take_over(self, builder: Daemon) -> None:
        """What need not be loaded again. Where the index in use does not answer, everything is."""
        made = await self.daemon.journal.meta("fingerprint")
        wanted = await builder.journal.meta("fingerprint")
        if not self.daemon.fingerprint_known or made is None or wanted is None:
            return
        if not cut_alike(json.loads(made)[1], json.loads(wanted)[1]):
            return
        files, _ = await self.daemon.journal.read(journal.counts)
        total = sum(sum(states.values()) for states in files.values())
        self._counts = {"queued": total, "indexed": 0}

        def tell(documents: int) -> None:
            self._counts["queued"] -= documents
            self._counts["indexed"] += documents

        try:
            await Reembedding(self.daemon, builder, tell).run()
        except StartError as error:
            if builder.index_pool.failed.done() or builder.encode_pool.failed.done():
                raise
            log.warning("the index in use cannot be read, so files are loaded anew: %s", error.message)
        log.info("%d documents are encoded from the text that the index has", self._counts["indexed"])

    async def _hush(self, builder: Daemon) -> None:
        """The folders never rest: follow them no longer until the new index is in place, which looks at them anew.

        The new one sees what the one in use has seen, and a moment more.
        """
        watching = self.daemon.watching
        if not self.daemon.watching_sources:
            return
        await watching.follow([])
        await asyncio.sleep(1 + max((table.settle for table in self.config.watch), default=0))
        await builder.watching.follow([])
        for _ in range(int(HUSH / TICK)):
            if await self._is_complete():
                return
            await asyncio.sleep(TICK)
        await watching.follow(self.daemon.config.watch)
        await builder.watching.follow(builder.config.watch)

    async def configure(self, config: Config) -> None:
        """Sources, limits and loaders changed."""
        self.config = msgspec.structs.replace(self.config, watch=config.watch, load=config.load)
        if self._builder is not None:
            builder = self._builder.config
            await self._builder.configure(msgspec.structs.replace(builder, watch=config.watch, load=config.load))

    @property
    def progress(self) -> dict[str, Any]:
        """For `status` and for who waits: documents done and in all, and what is waited for."""
        total = sum(self._counts.values())
        left = self._counts.get("queued", 0) + self._counts.get("running", 0)
        rate = self._builder.rates()[0] if self._builder is not None else 0.0
        return {
            "model": self.config.encode.model,
            "done": total - left,
            "total": total,
            "eta_seconds": left / rate if rate > 0 else None,
            "waiting_for": self.waiting_for,
        }

    @property
    def told(self) -> str:
        """The same for a person."""
        progress = self.progress
        left = progress["eta_seconds"]
        parts = [
            f"a new index with {progress['model']} is built: {progress['done']:,} of {progress['total']:,} documents"
        ]
        parts += [f"{spell_duration(left)} left"] if left else []
        parts += [f"it waits for: {self.waiting_for}"] if self.waiting_for else []
        return ", ".join(parts)

    async def _is_complete(self) -> bool:
        """Whether it has all that the index in use has, and both have nothing to do."""
        builder = self._builder
        assert builder is not None
        for pool in (builder.load_pool, builder.encode_pool, builder.index_pool):
            if pool.failed.done():
                raise pool.failed.result()
        files, _ = await builder.journal.read(journal.counts)
        counts: dict[str, int] = {}
        for states in files.values():
            for name, number in states.items():
                counts[name] = counts.get(name, 0) + number
        self._counts = counts
        self._left = counts.get("queued", 0) + counts.get("running", 0) + builder.watching.settling
        if self._left or not builder.watching.ready:
            self.waiting_for = None
            return False
        self.waiting_for = await self._obstacle()
        return self.waiting_for is None and not await self._mirror()

    async def _obstacle(self) -> str | None:
        """What the index in use has and the new one cannot have now, and must not be lost for that."""
        daemon = self.daemon
        for known in daemon, self._builder:
            assert known is not None
            if known.watching.warnings:
                return known.watching.warnings[0]
            if known.dispatcher.idle_sources:
                return f"source {min(known.dispatcher.idle_sources)} is paused, or no longer configured"
            files, _ = await known.journal.read(journal.counts)
            for source, states in files.items():
                if states["held"]:
                    return (
                        f"{states['held']} files of source {source} are gone and held: ingestd confirm-deletes {source}"
                    )
        if daemon.dispatcher.batches:
            return "an ingest that is under way"
        return None

    async def _mirror(self) -> int:
        """Files that no source has, but `ingest` was given: the new index gets them from the journal."""
        assert self._builder is not None
        queued = 0
        last = b""
        first = True
        while True:
            rows = await self.daemon.journal.read(functools.partial(_page, SOURCE, last, first))
            if not rows:
                break
            first, last = False, rows[-1][0]
            queued += await self._builder.journal.run(functools.partial(_queue, SOURCE, rows))
        if queued:
            self._builder.dispatcher.wanted.set()
            self._builder.dispatcher.wake()
        return queued


_Known = tuple[bytes, bytes | None, int]
"""Path, digest, whether it is gone."""


def _page(source: str, last: bytes, first: bool, db: sqlite3.Connection) -> list[_Known]:
    return db.execute(
        "SELECT path, digest, gone FROM documents WHERE source = ? AND member = '' AND (path > ? OR ?)"
        " AND state NOT IN ('queued', 'running') ORDER BY path LIMIT ?",
        (source, last, first, PAGE),
    ).fetchall()


def _queue(source: str, rows: Sequence[_Known], db: sqlite3.Connection) -> int:
    """Queue those that the new journal does not have so.

    One with another content is asked for once for each content that the index in use comes to have: where the new one
    still has another then, the file has changed since, and only the new one has seen it.
    """
    queued = 0
    for path, digest, gone in rows:
        if gone:
            continue
        known = db.execute(
            "SELECT id, state, digest FROM documents WHERE source = ? AND path = ? AND member = ''", (source, path)
        ).fetchone()
        if known is None:
            db.execute("INSERT INTO documents(source, path, state) VALUES (?, ?, 'queued')", (source, path))
            queued += 1
            continue
        id, state, found = known
        if state in ("queued", "running") or digest is None or found is None or found == digest:
            continue
        event = f"the index in use has another content of it: {digest.hex()}"
        if db.execute("SELECT 1 FROM history WHERE document = ? AND event = ?", (id, event)).fetchone():
            continue
        note(db, id, event)
        db.execute(
            "UPDATE documents SET state = 'queued', version = version + 1, retry_at = 0, attempts = 0 WHERE id = ?",
            (id,),
        )
        queued += 1
    return queued


# --- in a daemon ----------------------------------------------------------------------------------------------


async def reindex(daemon: Daemon, config: Config) -> AsyncIterator[dict[str, Any]]:
    """Begin, or go on with, a new index with these settings; yields progress, and the result last (key `documents`).

    Raises `IngestdError` where it cannot be built; the index in use stays what it is.
    """
    await daemon.begin_reindexing(config)
    while True:
        task, under_way = daemon.building, daemon.reindexing
        if task is None:
            break
        if under_way is not None:  # else it is being put in place
            yield under_way.progress
        await asyncio.wait({task}, timeout=TICK)
        if task.done():
            task.result()
            break
    files, chunks = await daemon.journal.read(journal.counts)
    # What changes meanwhile has its last version in the index.
    held = ("indexed", "partial", "queued", "running")
    found = {state: sum(states[state] for states in files.values()) for state in held}
    bad = {state: sum(states[state] for states in files.values()) for state in ("failed", "quarantined")}
    yield {"documents": sum(found.values()), "chunks": chunks, **bad, "model": daemon.config.encode.model}
