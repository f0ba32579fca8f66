"""The tables of the journal, and what a row of them is."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ingestd.errors import IngestdError
from ingestd.types import document_id

VERSION = 3

SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE sources(name TEXT PRIMARY KEY, root BLOB NOT NULL, constants TEXT NOT NULL, hold_grace REAL NOT NULL,
    removed_until REAL, paused INTEGER NOT NULL DEFAULT 0,
    baseline INTEGER NOT NULL DEFAULT 0, counted_at REAL NOT NULL DEFAULT 0) WITHOUT ROWID;
CREATE TABLE documents(
    id INTEGER PRIMARY KEY,
    source TEXT NOT NULL, path BLOB NOT NULL, member TEXT NOT NULL DEFAULT '', parent TEXT,
    device INTEGER, inode INTEGER, size INTEGER, mtime_ns INTEGER, ctime_ns INTEGER,
    digest BLOB,
    state TEXT NOT NULL, gone INTEGER NOT NULL DEFAULT 0, fresh INTEGER NOT NULL DEFAULT 0,
    version INTEGER NOT NULL DEFAULT 0, batch INTEGER,
    retry_at REAL NOT NULL DEFAULT 0,
    pool TEXT NOT NULL DEFAULT '', loading INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0, interruptions INTEGER NOT NULL DEFAULT 0, alone INTEGER NOT NULL DEFAULT 0,
    reason TEXT, detail TEXT, warnings TEXT,
    loader TEXT, loader_version TEXT,
    indexed_digest BLOB, indexed_loader TEXT, title TEXT, metadata TEXT, partial TEXT,
    chunks INTEGER NOT NULL DEFAULT 0,
    sealed INTEGER NOT NULL DEFAULT 0, media_type TEXT,
    UNIQUE(source, path, member));
CREATE INDEX tombstones ON documents(source, gone, retry_at) WHERE state = 'queued' AND gone > 0;
CREATE INDEX held ON documents(retry_at) WHERE state = 'held';
CREATE INDEX routed ON documents(pool) WHERE pool != '';
CREATE INDEX waiting ON documents(retry_at) WHERE state = 'failed';
CREATE INDEX troubles ON documents(id) WHERE state IN ('failed', 'quarantined', 'partial');
CREATE INDEX running ON documents(id) WHERE state = 'running';
CREATE INDEX moving ON documents(inode) WHERE state IN ('queued', 'running') AND gone = 0;
CREATE INDEX batches ON documents(batch, state) WHERE batch IS NOT NULL;
CREATE INDEX contents ON documents(indexed_digest, gone) WHERE indexed_digest IS NOT NULL;
CREATE TABLE hashes(document INTEGER PRIMARY KEY, hashes BLOB NOT NULL);
CREATE TABLE strikes(digest BLOB PRIMARY KEY, count INTEGER NOT NULL, quarantined INTEGER NOT NULL,
    reason TEXT, detail TEXT, loader TEXT) WITHOUT ROWID;
CREATE TABLE history(id INTEGER PRIMARY KEY, document INTEGER NOT NULL, at REAL NOT NULL, event TEXT NOT NULL);
CREATE INDEX history_document ON history(document, id);
CREATE TABLE counts(source TEXT, state TEXT, files INTEGER NOT NULL, chunks INTEGER NOT NULL,
    parts INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(source, state)) WITHOUT ROWID;
"""

PARTS = """
CREATE INDEX queue ON documents(pool, source, fresh DESC, iif(member = '', 1, 0), id)
    WHERE state = 'queued' AND gone = 0 AND sealed = 0;
CREATE INDEX loners ON documents(id) WHERE state = 'queued' AND gone = 0 AND alone = 1 AND sealed = 0;
CREATE INDEX parts ON documents(source, path, parent) WHERE member != '';
CREATE INDEX copies ON documents(digest) WHERE member != '' AND state IN ('queued', 'running');
CREATE TRIGGER parts_asked_for AFTER UPDATE OF state ON documents
    WHEN new.sealed AND new.state = 'queued' AND old.state NOT IN ('queued', 'running') BEGIN
    UPDATE documents SET sealed = 0 WHERE id = new.id;
END;
CREATE TRIGGER documents_added AFTER INSERT ON documents BEGIN
    INSERT INTO counts VALUES (new.source, new.state, 1, new.chunks, new.member != '')
    ON CONFLICT DO UPDATE SET files = files + 1, chunks = chunks + excluded.chunks, parts = parts + excluded.parts;
END;
CREATE TRIGGER documents_removed AFTER DELETE ON documents BEGIN
    UPDATE counts SET files = files - 1, chunks = chunks - old.chunks, parts = parts - (old.member != '')
        WHERE source = old.source AND state = old.state;
    DELETE FROM hashes WHERE document = old.id;
    DELETE FROM history WHERE document = old.id;
END;
CREATE TRIGGER documents_moved AFTER UPDATE OF state, chunks ON documents
    WHEN old.state != new.state OR old.chunks != new.chunks BEGIN
    UPDATE counts SET files = files - 1, chunks = chunks - old.chunks, parts = parts - (old.member != '')
        WHERE source = old.source AND state = old.state;
    INSERT INTO counts VALUES (new.source, new.state, 1, new.chunks, new.member != '')
    ON CONFLICT DO UPDATE SET files = files + 1, chunks = chunks + excluded.chunks, parts = parts + excluded.parts;
END;
"""
"""What the parts of files need, on top of the tables. Parts that are at hand go before files, so that no more of them
wait than must; one that is queued anew is not sealed, so that who claims it in vain has its container read."""

MIGRATION = f"""
DROP INDEX queue;
DROP INDEX loners;
DROP TRIGGER documents_added;
DROP TRIGGER documents_removed;
DROP TRIGGER documents_moved;
ALTER TABLE documents ADD COLUMN parent TEXT;
ALTER TABLE documents ADD COLUMN sealed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE documents ADD COLUMN media_type TEXT;
ALTER TABLE counts ADD COLUMN parts INTEGER NOT NULL DEFAULT 0;
{PARTS}"""
"""From version 2."""


class Row(msgspec.Struct, frozen=True):
    """A document of the journal; the fields are the table's columns."""

    id: int
    source: str
    path: bytes
    member: str
    """Its name in the file, where it is a part of it: "inner.zip!/report.pdf"; else ""."""
    device: int | None
    inode: int | None
    size: int | None
    mtime_ns: int | None
    ctime_ns: int | None
    digest: bytes | None
    state: str
    gone: int
    """1: the file is missing; 2: and it is confirmed that this is a deletion."""
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
    parent: str | None = None
    """`member` of the container that it is a part of; None: it is a file."""
    sealed: int = 0
    """It is to be had by reading its container again only."""
    media_type: str | None = None
    """Of a part, as its container's worker found it."""

    @property
    def doc_id(self) -> str:
        return document_id(self.source, self.path, self.member)


COLUMNS = ", ".join(Row.__struct_fields__)


class Ended(NamedTuple):
    """A row after an attempt: its state (`queued` if the file changed meanwhile), and the batch it is in now."""

    state: str
    batch: int | None
    joined: int = 0
    """Parts that came along, and belong to the batch now."""


class Verdict(msgspec.Struct, frozen=True):
    """What is to be done with an identified file."""

    action: str
    """"load", "unchanged", "rekey" (`origin` has the same content), "quarantine", "skip"."""
    origin: str | None = None
    hashes: bytes = b""
    """Of the chunks whose vectors the index has."""
    parts: bytes = b""
    """Digests, 16 bytes each, of its parts whose bytes are not needed."""
    depth: int = 0
    """Containers in which it lies."""
    place: tuple[str, bytes] | None = None
    """Source and path of the file whose parts are to be copied along, with "rekey"."""
    strikes: int = 0
    reason: str | None = None
    detail: str | None = None
    chunks: int = 0
    title: str | None = None
    """Title and metadata that the loader found, of a file that is not loaded again."""
    metadata: dict[str, Any] = {}
    partial: str | None = None
    """Why the index has only a part of it, and what there was to warn of."""
    warnings: list[str] = []


def connect(path: Path, *, readonly: bool = False) -> sqlite3.Connection:
    """A connection that any thread may use. Raises `IngestdError` for a file that is no journal of this version.

    One of an earlier version is brought up to this one.
    """
    try:
        db = _open(path, readonly)
        found = _version(db)
        if readonly and found == 2:
            db.close()
            _open(path, False).close()
            db = _open(path, True)
            found = _version(db)
    except sqlite3.DatabaseError as error:
        raise IngestdError(f"cannot open the journal {path}: {error}") from error
    if found != VERSION:
        db.close()
        raise IngestdError(f"the journal {path} has version {found}; this ingestd reads version {VERSION}")
    return db


def _open(path: Path, readonly: bool) -> sqlite3.Connection:
    uri = f"file:{str(path).replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode="
    db = sqlite3.connect(
        uri + ("ro" if readonly else "rwc"), uri=True, isolation_level=None, check_same_thread=False, timeout=30
    )
    if not readonly:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA cache_size = -16000")
        db.execute("PRAGMA journal_size_limit = 67108864")
        script = {0: SCHEMA + PARTS, 2: MIGRATION}.get(_version(db))
        if script is not None:
            try:
                db.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {VERSION}; COMMIT;")
            except sqlite3.OperationalError:
                if db.in_transaction:
                    db.rollback()
                if _version(db) != VERSION:  # else another process opened it at the same time
                    raise
    return db


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])
