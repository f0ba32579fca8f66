"""The journal: what is known of every file, in one SQLite file with one writer thread and group commit.

Every method of `Journal` is a coroutine that the writer thread carries out; calls made while a commit is under way
share the next one. The order of the calls is the order of their effects. A commit is not synchronous: after a power
loss the journal may be a moment behind the index, never ahead of it, and doing that moment again changes nothing.
"""

from __future__ import annotations

import asyncio
import json
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec

from ingestd.errors import IngestdError
from ingestd.messages import Change, Stat
from ingestd.types import document_id

VERSION = 1
GROUP = 500
"""Calls that share one commit at the most."""
HISTORY = 20
"""Lines of history kept for a document."""
TOMBSTONE_DELAY = 3.0
"""Seconds a deletion waits, so that the other half of a move can take over the vectors."""
ALONE_AFTER = 3
"""Interruptions after which a file is only tried while no other file is loaded."""
ALONE_LIMIT = 10
"""Interruptions while running alone after which the file is quarantined."""

T = TypeVar("T")
Call = Callable[[sqlite3.Connection], Any]

SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE sources(name TEXT PRIMARY KEY, root BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE documents(
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL, path BLOB NOT NULL, member TEXT NOT NULL DEFAULT '',
    device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
    digest BLOB,
    state TEXT NOT NULL, gone INTEGER NOT NULL DEFAULT 0, fresh INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0, batch INTEGER,
    retry_at REAL NOT NULL DEFAULT 0,
    pool TEXT NOT NULL DEFAULT '', loading INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0, interruptions INTEGER NOT NULL DEFAULT 0, alone INTEGER NOT NULL DEFAULT 0,
    reason TEXT, detail TEXT, warnings TEXT,
    loader TEXT, loader_version TEXT,
    indexed_digest BLOB, indexed_loader TEXT, title TEXT, metadata TEXT, chunks INTEGER NOT NULL DEFAULT 0,
    UNIQUE(source, path, member));
CREATE INDEX queue ON documents(pool, source, fresh DESC, id) WHERE state = 'queued' AND gone = 0;
CREATE INDEX loners ON documents(id) WHERE state = 'queued' AND gone = 0 AND alone = 1;
CREATE INDEX tombstones ON documents(id) WHERE state = 'queued' AND gone = 1;
CREATE INDEX waiting ON documents(retry_at) WHERE state = 'failed';
CREATE INDEX troubles ON documents(id) WHERE state IN ('failed', 'quarantined', 'partial');
CREATE INDEX running ON documents(id) WHERE state = 'running';
CREATE INDEX moving ON documents(inode) WHERE state IN ('queued', 'running') AND gone = 0;
CREATE INDEX batches ON documents(batch, state) WHERE batch IS NOT NULL;
CREATE INDEX contents ON documents(indexed_digest) WHERE indexed_digest IS NOT NULL;
CREATE TABLE hashes(document INTEGER PRIMARY KEY, hashes BLOB NOT NULL);
CREATE TABLE strikes(digest BLOB PRIMARY KEY, count INTEGER NOT NULL, quarantined INTEGER NOT NULL,
    reason TEXT, detail TEXT, loader TEXT) WITHOUT ROWID;
CREATE TABLE history(id INTEGER PRIMARY KEY, document INTEGER NOT NULL, at REAL NOT NULL, event TEXT NOT NULL);
CREATE INDEX history_document ON history(document, id);
CREATE TABLE counts(source TEXT, state TEXT, files INTEGER NOT NULL, chunks INTEGER NOT NULL,
    PRIMARY KEY(source, state)) WITHOUT ROWID;
CREATE TRIGGER documents_added AFTER INSERT ON documents BEGIN
    INSERT INTO counts VALUES (new.source, new.state, 1, new.chunks)
    ON CONFLICT DO UPDATE SET files = files + 1, chunks = chunks + excluded.chunks;
END;
CREATE TRIGGER documents_removed AFTER DELETE ON documents BEGIN
    UPDATE counts SET files = files - 1, chunks = chunks - old.chunks
        WHERE source = old.source AND state = old.state;
    DELETE FROM hashes WHERE document = old.id;
    DELETE FROM history WHERE document = old.id;
END;
CREATE TRIGGER documents_moved AFTER UPDATE OF state, chunks ON documents
    WHEN old.state != new.state OR old.chunks != new.chunks BEGIN
    UPDATE counts SET files = files - 1, chunks = chunks - old.chunks
        WHERE source = old.source AND state = old.state;
    INSERT INTO counts VALUES (new.source, new.state, 1, new.chunks)
    ON CONFLICT DO UPDATE SET files = files + 1, chunks = chunks + excluded.chunks;
END;
"""


class Row(msgspec.Struct, frozen=True):
    """A document of the journal; the fields are the table's columns."""

    id: int
    source: str
    path: bytes
    member: str
    device: int | None
    inode: int | None
    size: int | None
    mtime_ns: int | None
    ctime_ns: int | None
    digest: bytes | None
    state: str
    gone: int
    fresh: int
    version: int
    batch: int | None
    retry_at: float
    pool: str
    """Whose load workers it is for: those of a loader with workers of its own, else ""."""
    loading: int
    attempts: int
    interruptions: int
    alone: int
    reason: str | None
    detail: str | None
    warnings: str | None
    loader: str | None
    loader_version: str | None
    indexed_digest: bytes | None
    indexed_loader: str | None
    chunks: int

    @property
    def doc_id(self) -> str:
        return document_id(self.source, self.path, self.member)


COLUMNS = ", ".join(Row.__struct_fields__)


class Ended(NamedTuple):
    """A row after an attempt: its state (`queued` if the file changed meanwhile), and the batch it is in now."""

    state: str
    batch: int | None


class Verdict(msgspec.Struct, frozen=True):
    """What is to be done with an identified file."""

    action: str
    """"load", "unchanged", "rekey" (`origin` has the same content), "quarantine", "skip"."""
    origin: str | None = None
    hashes: bytes = b""
    """Of the chunks whose vectors the index has."""
    strikes: int = 0
    reason: str | None = None
    detail: str | None = None
    chunks: int = 0
    title: str | None = None
    """Title and metadata that the loader found, of a file that is not loaded again."""
    metadata: dict[str, Any] = {}


def connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    """A connection that any thread may use. Raises `IngestdError` for a file that is no journal of this version."""
    uri = f"file:{str(path).replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode="
    try:
        db = sqlite3.connect(
            uri + ("ro" if readonly else "rwc"), uri=True, isolation_level=None, check_same_thread=False, timeout=30
        )
        if not readonly:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA cache_size = -16000")
            db.execute("PRAGMA journal_size_limit = 67108864")
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                db.executescript(f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        found = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise IngestdError(f"cannot open the journal {path}: {error}") from error
    if found != VERSION:
        raise IngestdError(f"the journal {path} has version {found}; this ingestd reads version {VERSION}")
    return db


class Journal:
    """The writer. See the module's docstring.

    `trouble` is the reason why nothing can be committed now (a full disk), else None; calls wait meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble: str | None = None
        self._db = connect(path)
        self._reader = connect(path, readonly=True)
        self._reading = threading.Lock()
        self._calls: queue.SimpleQueue[tuple[Call, asyncio.Future[Any] | None] | None] = queue.SimpleQueue()
        self._turn = 0
        self._closing = threading.Event()
        self.commits = 0
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """Carry out `call` in the writer thread; durable when this returns. It may be carried out again."""
        if self._closing.is_set():
            raise IngestdError("the journal is closed: ingestd stops")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put((call, future))
        return await future

    async def read(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """Carry out a call that only reads, beside the writer: it answers even while nothing can be written.

        Raises `IngestdError` once the journal is closed.
        """
        return await asyncio.to_thread(self._read, call)

    def _read(self, call: Callable[[sqlite3.Connection], T]) -> T:
        with self._reading:
            if self._closing.is_set():
                raise IngestdError("the journal is closed: ingestd stops")
            return call(self._reader)

    def close(self) -> None:
        """Carry out what was called before, then close. What cannot be written even now fails; the disk is full."""
        self._closing.set()
        self._calls.put(None)
        self._thread.join()
        with self._reading:
            self._reader.close()

    def _write(self) -> None:
        last = False
        while not last:
            group = [self._calls.get()]
            while len(group) < GROUP and not self._calls.empty():
                group.append(self._calls.get())
            last = None in group
            calls = [call for call in group if call is not None]
            delay = 0.1
            while calls:
                try:
                    outcomes = self._commit([call for call, _ in calls])
                except sqlite3.DatabaseError as error:
                    self.trouble = f"the journal cannot be written: {error}"
                    if self._db.in_transaction:
                        self._db.rollback()
                    if isinstance(error, sqlite3.OperationalError) and not self._closing.is_set():
                        # The whole group is done again: a full disk or a lock passes, and then no call is lost.
                        self._closing.wait(delay)
                        delay = min(delay * 2, 5.0)
                        continue
                    # Damage does not pass, and who wants to stop cannot wait for room on the disk.
                    outcomes = [(None, IngestdError(self.trouble))] * len(calls)
                else:
                    self.trouble = None
                answers = [(future, *outcome) for (_, future), outcome in zip(calls, outcomes, strict=True) if future]
                if answers:  # the loop is woken once for all of them
                    answers[0][0].get_loop().call_soon_threadsafe(answer, answers)
                break
        self._db.close()

    def _commit(self, calls: Iterable[Callable[[sqlite3.Connection], Any]]) -> list[tuple[Any, Exception | None]]:
        outcomes: list[tuple[Any, Exception | None]] = []
        self._db.execute("BEGIN IMMEDIATE")
        for call in calls:
            self._db.execute("SAVEPOINT call")
            try:
                outcomes.append((call(self._db), None))
            except Exception as error:
                if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                    raise  # the disk's fault
                # Of this call alone: the others of the group are not affected.
                self._db.execute("ROLLBACK TO call")
                outcomes.append((None, error))
            self._db.execute("RELEASE call")
        self._db.execute("COMMIT")
        self.commits += 1
        return outcomes

    # --- what the watch workers report ------------------------------------------------------------------------

    async def sources(self, roots: dict[str, bytes]) -> None:
        """Note where each source lies, for commands that run without a daemon."""

        def call(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO sources VALUES (?, ?) ON CONFLICT DO UPDATE SET root = excluded.root", roots.items()
            )

        await self.run(call)

    async def take(self, source: str, changes: Sequence[Change], batch: int | None = None) -> int:
        """Journal settled differences; returns how many files now belong to the batch."""

        def call(db: sqlite3.Connection) -> int:
            now = time.time()
            joined = 0
            for change in changes:
                key = (source, change.path)
                if change.stat is None:
                    # A file that was never read leaves no trace. Any other waits for its removal: the index may have
                    # it, though the daemon was killed before the journal said so.
                    db.execute(
                        "DELETE FROM documents WHERE source = ? AND path = ? AND digest IS NULL AND state != 'running'",
                        key,
                    )
                    db.execute(
                        "UPDATE documents SET gone = 1, version = version + 1, retry_at = ?,"
                        " state = CASE state WHEN 'running' THEN 'running' ELSE 'queued' END"
                        " WHERE source = ? AND path = ?",
                        (now + TOMBSTONE_DELAY, *key),
                    )
                    continue
                joined += 1
                if change.known:
                    db.execute(
                        "UPDATE documents SET batch = ?, retry_at = 0,"
                        " state = CASE state WHEN 'failed' THEN 'queued' ELSE state END WHERE source = ? AND path = ?",
                        (batch, *key),
                    )
                    continue
                stat = change.stat
                db.execute(
                    "INSERT INTO documents(source, path, device, inode, size, mtime_ns, ctime_ns, state, fresh, batch)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?)"
                    " ON CONFLICT DO UPDATE SET device = excluded.device, inode = excluded.inode,"
                    " size = excluded.size, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns,"
                    " fresh = excluded.fresh, batch = coalesce(excluded.batch, batch), gone = 0,"
                    " version = version + 1, retry_at = 0, attempts = 0, interruptions = 0, alone = 0, pool = '',"
                    " reason = NULL, detail = NULL,"
                    " state = CASE state WHEN 'running' THEN 'running' ELSE 'queued' END",
                    (
                        *key, stat.device, stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns,
                        change.fresh, batch,
                    ),
                )  # fmt: skip
            return joined

        return await self.run(call)

    # --- attempts ---------------------------------------------------------------------------------------------

    async def claim(self, limit: int, *, pool: str = "", alone: bool = False) -> list[Row]:
        """Files to load next by the workers of `pool`, now `running`: fresh ones first, sources in turn.

        `alone`: those of any pool that were interrupted so often that each is to run while no other file is loaded.
        """

        def call(db: sqlite3.Connection) -> list[Row]:
            now = time.time()
            db.execute("UPDATE documents SET state = 'queued' WHERE state = 'failed' AND retry_at <= ?", (now,))
            names = [name for (name,) in db.execute("SELECT source FROM counts WHERE state = 'queued' AND files > 0")]
            found: list[int] = []
            if alone:
                names = []
                found = [
                    id
                    for (id,) in db.execute(
                        "SELECT id FROM documents WHERE state = 'queued' AND gone = 0 AND alone = 1 AND retry_at <= ?"
                        " ORDER BY id LIMIT ?",
                        (now, limit),
                    )
                ]
            # Fresh files of any source overtake the backlog of all.
            for fresh in (1, 0):
                for turn in range(len(names)):
                    if len(found) == limit:
                        break
                    name = names[(self._turn + turn) % len(names)]
                    share = max(1, (limit - len(found)) // (len(names) - turn))
                    found += [
                        id
                        for (id,) in db.execute(
                            "SELECT id FROM documents WHERE state = 'queued' AND gone = 0 AND pool = ? AND source = ?"
                            " AND fresh = ? AND retry_at <= ? AND alone = 0 ORDER BY id LIMIT ?",
                            (pool, name, fresh, now, share),
                        )
                    ]
            self._turn += 1
            rows = []
            for id in found:
                row = db.execute(
                    "UPDATE documents SET state = 'running', loading = 1, attempts = attempts + 1 WHERE id = ?"
                    f" RETURNING {COLUMNS}",
                    (id,),
                ).fetchone()
                rows.append(Row(*row))
            return rows

        return await self.run(call)

    async def claim_gone(self, limit: int) -> list[Row]:
        """Documents to remove from the index, now `running`, unless a file that is still to be read has their inode."""

        def call(db: sqlite3.Connection) -> list[Row]:
            rows = db.execute(
                "UPDATE documents SET state = 'running', loading = 0 WHERE id IN ("
                " SELECT id FROM documents AS old WHERE state = 'queued' AND gone = 1 AND retry_at <= ? AND NOT EXISTS"
                " (SELECT 1 FROM documents WHERE inode = old.inode AND device = old.device AND gone = 0"
                " AND state IN ('queued', 'running')) LIMIT ?)"
                f" RETURNING {COLUMNS}",
                (time.time(), limit),
            ).fetchall()
            return [Row(*row) for row in rows]

        return await self.run(call)

    async def identified(
        self, row: Row, stat: Stat, digest: bytes, loader: str | None, loader_version: str, max_strikes: int
    ) -> Verdict:
        """Note what the file is, and decide what is to be done with it."""

        def call(db: sqlite3.Connection) -> Verdict:
            db.execute(
                "UPDATE documents SET digest = ?, loader = ?, loader_version = ? WHERE id = ?",
                (digest, loader, loader_version, row.id),
            )
            db.execute(
                "UPDATE documents SET device = ?, inode = ?, size = ?, mtime_ns = ?, ctime_ns = ?"
                " WHERE id = ? AND version = ?",
                (stat.device, stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns, row.id, row.version),
            )
            verdict = decide(db)
            if verdict.action != "load":
                db.execute("UPDATE documents SET loading = 0 WHERE id = ?", (row.id,))
            return verdict

        def decide(db: sqlite3.Connection) -> Verdict:
            if loader is None:
                return Verdict("skip", chunks=row.chunks)
            tag = f"{loader} {loader_version}"
            if row.indexed_digest == digest and row.indexed_loader == tag:
                title, metadata = db.execute("SELECT title, metadata FROM documents WHERE id = ?", (row.id,)).fetchone()
                return Verdict("unchanged", chunks=row.chunks, title=title, metadata=json.loads(metadata or "{}"))
            strikes = 0
            struck = db.execute(
                "SELECT count, quarantined, reason, detail, loader FROM strikes WHERE digest = ?", (digest,)
            ).fetchone()
            if struck is not None:
                if struck[4] != tag:  # another loader, or a new version of it, may do better
                    db.execute("DELETE FROM strikes WHERE digest = ?", (digest,))
                elif struck[1] or struck[0] >= max_strikes:
                    return Verdict("quarantine", reason=struck[2], detail=struck[3])
                else:
                    strikes = struck[0]
            origin = db.execute(
                "SELECT source, path, member, title, metadata FROM documents"
                " WHERE indexed_digest = ? AND indexed_loader = ? AND id != ? LIMIT 1",
                (digest, tag, row.id),
            ).fetchone()
            if origin is not None:
                *key, title, metadata = origin
                return Verdict("rekey", document_id(*key), title=title, metadata=json.loads(metadata or "{}"))
            known = db.execute("SELECT hashes FROM hashes WHERE document = ?", (row.id,)).fetchone()
            return Verdict("load", hashes=known[0] if known else b"", strikes=strikes)

        return await self.run(call)

    async def route(self, row: Row, pool: str) -> None:
        """Leave the file to the load workers of another pool."""

        def call(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE documents SET state = 'queued', pool = ?, attempts = attempts - 1 WHERE id = ?", (pool, row.id)
            )

        await self.run(call)

    async def unroute(self, pools: Sequence[str]) -> None:
        """Files that are queued for a pool that is no more go back to all."""
        marks = ", ".join("?" * len(pools))
        await self.run(
            lambda db: db.execute(f"UPDATE documents SET pool = '' WHERE pool != '' AND pool NOT IN ({marks})", pools)
        )

    def loaded(self, row: Row) -> None:
        """From here on the end of the daemon says nothing about the file. Not waited for: a hint."""

        def call(db: sqlite3.Connection) -> None:
            db.execute("UPDATE documents SET loading = 0 WHERE id = ?", (row.id,))

        self._calls.put((call, None))

    async def indexed(
        self,
        row: Row,
        digest: bytes,
        loader: str,
        *,
        chunks: int,
        hashes: bytes | None,
        origin: str | None = None,
        partial: str | None = None,
        warnings: Sequence[str] = (),
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
        event: str = "indexed",
    ) -> Ended:
        """The index has committed the document.

        `hashes` None: those of `origin`'s row, or, without one, the row's own stay.
        """

        def call(db: sqlite3.Connection) -> Ended:
            state = "partial" if partial else "indexed"
            db.execute(
                "UPDATE documents SET indexed_digest = ?, indexed_loader = ?, chunks = ?, title = ?, metadata = ?"
                " WHERE id = ?",
                (digest, loader, chunks, title, json.dumps(metadata) if metadata else None, row.id),
            )
            if hashes is not None:
                db.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?)", (row.id, hashes))
            elif origin is not None:
                db.execute(
                    "INSERT OR REPLACE INTO hashes SELECT ?, hashes FROM hashes JOIN documents ON id = document"
                    " WHERE indexed_digest = ? AND indexed_loader = ? AND id != ? LIMIT 1",
                    (row.id, digest, loader, row.id),
                )
            db.execute("DELETE FROM strikes WHERE digest = ?", (digest,))
            return self._finish(
                db, row, state, event, reason=partial, warnings=json.dumps(list(warnings)) if warnings else None
            )

        return await self.run(call)

    async def settle(
        self,
        row: Row,
        state: str,
        event: str,
        *,
        reason: str | None = None,
        detail: str | None = None,
        retry_in: float = 0,
        keep_warnings: bool = False,
    ) -> Ended:
        """The attempt ended without a new version in the index."""

        def call(db: sqlite3.Connection) -> Ended:
            return self._finish(
                db, row, state, event, reason=reason, detail=detail, retry_at=time.time() + retry_in,
                warnings=row.warnings if keep_warnings else None,
            )  # fmt: skip

        return await self.run(call)

    def _finish(
        self,
        db: sqlite3.Connection,
        row: Row,
        state: str,
        event: str,
        *,
        reason: str | None = None,
        detail: str | None = None,
        retry_at: float = 0,
        warnings: str | None = None,
    ) -> Ended:
        """A file that changed while it was worked on is queued again, whatever came out."""
        ended = db.execute(
            "UPDATE documents SET state = CASE WHEN version = ? THEN ? ELSE 'queued' END, reason = ?, detail = ?,"
            " retry_at = CASE WHEN version = ? THEN ? ELSE retry_at END, warnings = ? WHERE id = ?"
            " RETURNING state, batch",
            (row.version, state, reason, detail, row.version, retry_at, warnings, row.id),
        ).fetchone()
        note(db, row.id, event)
        return Ended(*ended)

    async def strike(self, row: Row, digest: bytes | None, loader: str, reason: str, detail: str, limit: int) -> int:
        """Count a failure against the content. Returns how many it has; at `limit` it is quarantined for good.

        A file that failed before its digest was known is counted by its own attempts.
        """

        def call(db: sqlite3.Connection) -> int:
            if digest is None:
                return row.attempts - row.interruptions
            (count,) = db.execute(
                "INSERT INTO strikes VALUES (?, 1, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + 1,"
                " quarantined = (count + 1 >= ?), reason = excluded.reason, detail = excluded.detail,"
                " loader = excluded.loader RETURNING count",
                (digest, limit <= 1, reason, detail, loader, limit),
            ).fetchone()
            return int(count)

        return await self.run(call)

    async def interrupted(self, row: Row, reason: str, retry_in: float, *, alone: bool = False) -> Ended:
        """The attempt ended through no fault of the file's that can be shown. `alone`: the next one is to run alone."""
        return await self.run(lambda db: interrupt(db, row, reason, time.time() + retry_in, alone=alone))

    async def release(self, row: Row) -> None:
        """The attempt did not begin."""
        await self.run(
            lambda db: db.execute(
                "UPDATE documents SET state = 'queued', attempts = attempts - 1 WHERE id = ? AND state = 'running'",
                (row.id,),
            )
        )

    async def absolve(
        self, row: Row, digest: bytes | None, reason: str, retry_in: float, *, running: bool = False
    ) -> Ended | None:
        """A failure turned out to have a common cause: the file takes no strike and is tried again later.

        `running`: it is the attempt in hand that ends so. Else it is an earlier one: then another attempt that runs by
        now, and a newer version, are left alone (None).
        """

        def call(db: sqlite3.Connection) -> Ended | None:
            if digest is not None:
                db.execute("DELETE FROM strikes WHERE digest = ?", (digest,))
            changed = db.execute(
                "UPDATE documents SET attempts = 0 WHERE id = ?"
                " AND (? OR (state IN ('failed', 'quarantined') AND version = ?))",
                (row.id, running, row.version),
            ).rowcount
            if not changed:
                return None
            return self._finish(db, row, "failed", reason, reason=reason, retry_at=time.time() + retry_in)

        return await self.run(call)

    async def forget(self, row: Row) -> None:
        """The index lacks vectors that it was thought to have: all of them are to be sent."""

        def call(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM hashes WHERE document = ?", (row.id,))
            db.execute("UPDATE documents SET indexed_digest = NULL, chunks = 0 WHERE id = ?", (row.id,))

        await self.run(call)

    async def disown(self, digest: bytes, loader: str) -> None:
        """The index lacks what it was thought to have of this content: all documents of it are indexed anew."""

        def call(db: sqlite3.Connection) -> None:
            key = (digest, loader)
            where = "WHERE indexed_digest = ? AND indexed_loader = ?"
            db.execute(f"DELETE FROM hashes WHERE document IN (SELECT id FROM documents {where})", key)
            db.execute(
                "UPDATE documents SET indexed_digest = NULL,"
                f" state = CASE WHEN state IN ('indexed', 'partial') THEN 'queued' ELSE state END {where}",
                key,
            )

        await self.run(call)

    async def removed(self, row: Row) -> None:
        """The index has removed the document; a file that came back meanwhile is queued."""

        def call(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM documents WHERE id = ? AND version = ?", (row.id, row.version))
            db.execute("DELETE FROM hashes WHERE document = ?", (row.id,))
            db.execute(
                "UPDATE documents SET state = 'queued', indexed_digest = NULL, chunks = 0 WHERE id = ?", (row.id,)
            )

        await self.run(call)

    async def pending(self, batch: int, soon: float) -> int:
        """Whether files of the batch are still to be worked on, now or within `soon` seconds (0: none, else 1)."""

        def call(db: sqlite3.Connection) -> int:
            return len(
                db.execute(
                    "SELECT 1 FROM documents WHERE batch = ? AND (state IN ('queued', 'running')"
                    " OR (state = 'failed' AND retry_at < ?)) LIMIT 1",
                    (batch, time.time() + soon),
                ).fetchall()
            )

        return await self.run(call)

    async def meta(self, key: str, value: str | None = None) -> str | None:
        """A value kept for the daemon; with `value`, set it first."""

        def call(db: sqlite3.Connection) -> str | None:
            if value is not None:
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
            found = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return found[0] if found else None

        return await self.run(call)

    # --- life of the daemon -----------------------------------------------------------------------------------

    async def recover(self) -> int:
        """What was running when the last supervisor ended was interrupted. Returns how many."""

        def call(db: sqlite3.Connection) -> int:
            rows = [Row(*row) for row in db.execute(f"SELECT {COLUMNS} FROM documents WHERE state = 'running'")]
            for row in rows:
                if row.loading:
                    interrupt(db, row, "the daemon ended while the file was loaded", 0)
                else:
                    db.execute("UPDATE documents SET state = 'queued' WHERE id = ?", (row.id,))
            db.execute("UPDATE documents SET batch = NULL WHERE batch IS NOT NULL")
            return len(rows)

        return await self.run(call)

    async def relinquish(self) -> None:
        """The daemon stops of its own will: what it leaves unfinished was not interrupted by any fault."""
        await self.run(lambda db: db.execute("UPDATE documents SET loading = 0 WHERE state = 'running'"))

    async def revive(self, loaders: dict[str, str]) -> int:
        """Queue what failed under another version of its loader, or was skipped while other loaders were there."""

        def call(db: sqlite3.Connection) -> int:
            table = json.dumps(loaders, sort_keys=True)
            before = db.execute("SELECT value FROM meta WHERE key = 'loaders'").fetchone()
            if before is not None and before[0] == table:
                return 0
            db.execute("INSERT OR REPLACE INTO meta VALUES ('loaders', ?)", (table,))
            if before is None:
                return 0
            queued = db.execute("UPDATE documents SET state = 'queued', reason = NULL WHERE state = 'skipped'").rowcount
            for id, loader, version in db.execute(
                "SELECT id, loader, loader_version FROM documents WHERE state = 'quarantined' AND loader IS NOT NULL"
            ).fetchall():
                if loaders.get(loader, version) != version:
                    db.execute("UPDATE documents SET state = 'queued', retry_at = 0 WHERE id = ?", (id,))
                    queued += 1
            return queued

        return await self.run(call)

    async def retry(self, ids: Sequence[int] | None) -> int:
        """Give failed, quarantined, partial and skipped files another try, their strikes forgotten."""
        return await self.run(lambda db: retry(db, ids))


def answer(answers: Iterable[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    """Hand out what came of a group of calls to those who still wait for it. Runs in the event loop."""
    for future, value, failure in answers:
        if future.done():
            continue
        if failure is None:
            future.set_result(value)
        else:
            future.set_exception(failure)


def interrupt(db: sqlite3.Connection, row: Row, reason: str, retry_at: float, *, alone: bool = False) -> Ended:
    """See `Journal.interrupted`."""
    interruptions = row.interruptions + 1
    alone = alone or interruptions >= ALONE_AFTER
    state = "quarantined" if row.alone and interruptions >= ALONE_AFTER + ALONE_LIMIT else "queued"
    ended = db.execute(
        "UPDATE documents SET state = CASE WHEN version = ? THEN ? ELSE 'queued' END, interruptions = ?, alone = ?,"
        " reason = ?, retry_at = ? WHERE id = ? RETURNING state, batch",
        (row.version, state, interruptions, alone, reason, retry_at, row.id),
    ).fetchone()
    note(db, row.id, f"interrupted: {reason}")
    return Ended(*ended)


def note(db: sqlite3.Connection, document: int, event: str) -> None:
    """Add a line to the history of a document."""
    db.execute("INSERT INTO history(document, at, event) VALUES (?, ?, ?)", (document, time.time(), event))
    db.execute(
        "DELETE FROM history WHERE document = ? AND id <="
        " (SELECT id FROM history WHERE document = ? ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (document, document, HISTORY),
    )


def forget_all(db: sqlite3.Connection) -> int:
    """The index is to be made anew: queue every file, with all its chunks. Returns how many."""
    db.execute("DELETE FROM hashes")
    db.execute("DELETE FROM meta WHERE key = 'fingerprint'")
    return db.execute(
        "UPDATE documents SET state = CASE state WHEN 'quarantined' THEN state ELSE 'queued' END,"
        " indexed_digest = NULL, indexed_loader = NULL, chunks = 0, retry_at = 0"
    ).rowcount


def retry(db: sqlite3.Connection, ids: Sequence[int] | None) -> int:
    """See `Journal.retry`."""
    if ids is None:
        ids = [id for (id,) in db.execute("SELECT id FROM documents WHERE state IN ('failed', 'quarantined')")]
    retried = 0
    for id in ids:
        changed = db.execute(
            "UPDATE documents SET state = 'queued', retry_at = 0, interruptions = 0, alone = 0, attempts = 0, fresh = 1"
            " WHERE id = ? AND state IN ('failed', 'quarantined', 'partial', 'skipped') RETURNING digest",
            (id,),
        ).fetchone()
        if changed is None:
            continue
        retried += 1
        db.execute("DELETE FROM strikes WHERE digest = ?", changed)
        db.execute("UPDATE documents SET indexed_digest = NULL WHERE id = ? AND reason IS NOT NULL", (id,))
        note(db, id, "retry asked for")
    return retried


# --- reading, by the daemon and by commands that run without one ----------------------------------------------


def counts(db: sqlite3.Connection) -> tuple[dict[str, Counter[str]], int]:
    """Files by source and state, and chunks in all."""
    files: dict[str, Counter[str]] = {}
    chunks = 0
    for source, state, n, c in db.execute("SELECT source, state, files, chunks FROM counts"):
        files.setdefault(source, Counter())[state] = n
        chunks += c
    return files, chunks


def roots(db: sqlite3.Connection) -> dict[str, bytes]:
    """Source name to directory."""
    return dict(db.execute("SELECT name, root FROM sources").fetchall())


def find(db: sqlite3.Connection, path: bytes) -> list[Row]:
    """The documents that an absolute path stands for: a file, or everything below a directory."""
    rows: list[Row] = []
    for name, root in roots(db).items():
        prefix = root.rstrip(b"/") + b"/"
        if path == root.rstrip(b"/") or path + b"/" == prefix:
            low, high = b"", None
        elif path.startswith(prefix):
            low = path[len(prefix) :]
            high = low + b"0"  # the byte after "/": all paths below a directory lie before it
        else:
            continue
        for row in db.execute(
            f"SELECT {COLUMNS} FROM documents WHERE source = ? AND path >= ? AND (? IS NULL OR path < ?)"
            " ORDER BY path, member",
            (name, low, high, high),
        ):
            found = Row(*row)
            if not low or found.path == low or found.path.startswith(low + b"/"):
                rows.append(found)
    return rows


def troubles(db: sqlite3.Connection) -> list[Row]:
    """Files that failed, are quarantined, or are indexed in part."""
    return [
        Row(*row)
        for row in db.execute(
            f"SELECT {COLUMNS} FROM documents WHERE state IN ('failed', 'quarantined', 'partial') ORDER BY id"
        )
    ]


def history(db: sqlite3.Connection, document: int) -> list[tuple[float, str]]:
    """(Unix time, what happened), oldest first."""
    return [
        (at, event)
        for at, event in db.execute("SELECT at, event FROM history WHERE document = ? ORDER BY id", (document,))
    ]
