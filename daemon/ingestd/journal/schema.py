"""The tables of the journal, and what a row of them is."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ingestd.errors import IngestdError
from ingestd.types import document_id

VERSION = 2

SCHEMA = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
CREATE TABLE sources(name TEXT PRIMARY KEY, root BLOB NOT NULL, constants TEXT NOT NULL, hold_grace REAL NOT NULL,
    removed_until REAL, paused INTEGER NOT NULL DEFAULT 0,
    baseline INTEGER NOT NULL DEFAULT 0, counted_at REAL NOT NULL DEFAULT 0) WITHOUT ROWID;
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
    indexed_digest BLOB, indexed_loader TEXT, title TEXT, metadata TEXT, partial TEXT,
    chunks INTEGER NOT NULL DEFAULT 0,
    UNIQUE(source, path, member));
CREATE INDEX queue ON documents(pool, source, fresh DESC, id) WHERE state = 'queued' AND gone = 0;
CREATE INDEX loners ON documents(id) WHERE state = 'queued' AND gone = 0 AND alone = 1;
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
    partial: str | None = None
    """Why the index has only a part of it, and what there was to warn of."""
    warnings: list[str] = []


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
