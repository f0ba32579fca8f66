"""The file of the embedded store: its tables, its connections, and what its failures mean to a person."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec
import sqlite_vec

from ingestd.errors import IndexMismatchError, IndexUnavailableError
from ingestd.types import Fingerprint

FILE = "index.sqlite"
FORMAT = "1"
"""Version of the tables below; a file of another one is rebuilt, not converted."""

LOG_LIMIT = 128 << 20
"""Bytes of write-ahead log above which `shorten_log` acts; without searches in progress it never comes near."""

REBUILD = "ingestd reindex"
FIRST = "ingestd ingest PATH"

# A chunk's rowid is its document's id shifted by 32 bits plus a number never used again in that document. So the
# chunks of a document are one key range in every table, a filter on documents needs no join, and a rowid that a
# search has found can never come to mean another passage.
#
# Vectors are plain BLOBs: in sqlite-vec's own table a replace is twenty times dearer, and the space of a deleted row
# is scanned for ever after. They are of length 1, so the order by Euclidean distance is that by cosine; NULL is the
# vector without direction, which is near nothing. A page of 8 KiB holds five vectors of 384, one of 4 KiB only two.
_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE documents (
    id INTEGER PRIMARY KEY AUTOINCREMENT, doc_id TEXT NOT NULL UNIQUE, source TEXT NOT NULL, path BLOB NOT NULL,
    name BLOB NOT NULL, title TEXT, media_type TEXT NOT NULL, size INT NOT NULL, mtime_ns INT NOT NULL,
    digest BLOB NOT NULL, loader TEXT NOT NULL, category_id TEXT, category_path TEXT, metadata TEXT,
    chunks INT NOT NULL, next INT NOT NULL
);
CREATE TABLE chunks (
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL, ordinal INT NOT NULL, page INT, headings TEXT, text TEXT NOT NULL,
    metadata TEXT, tokens INT NOT NULL
);
CREATE TABLE vectors (id INTEGER PRIMARY KEY, vector BLOB);
CREATE VIRTUAL TABLE terms USING fts5(
    text, content='', contentless_delete=1, tokenize="porter unicode61 remove_diacritics 2"
);
"""

BUSY_TIMEOUT = 10_000
"""Milliseconds."""
SHIFT = 32
SPAN = 1 << SHIFT


def within(table: str, document: str) -> str:
    """Condition: the row of `table` belongs to the document of that id."""
    return f"{table}.id >= {document} << {SHIFT} AND {table}.id < {document} + 1 << {SHIFT}"


_AWAY = (
    apsw.FullError, apsw.IOError, apsw.ReadOnlyError, apsw.CantOpenError, apsw.BusyError, apsw.LockedError,
    apsw.CorruptError, apsw.NotADBError, apsw.PermissionsError, apsw.ProtocolError, apsw.NoMemError,
)  # fmt: skip
"""What says that the store is away, not that a document or a question is at fault."""


@contextmanager
def explained(action: str, path: Path, connection: apsw.Connection | None = None) -> Iterator[None]:
    """Turn SQLite's failures inside the block into `IndexUnavailableError`."""
    try:
        yield
    except _AWAY as error:
        number = connection.system_errno if connection is not None else 0
        raise _unavailable(action, path, error, number) from error


def _unavailable(action: str, path: Path, error: apsw.Error, number: int) -> IndexUnavailableError:
    where = f"cannot {action} the index {path}: "
    if isinstance(error, (apsw.CorruptError, apsw.NotADBError)):
        return IndexUnavailableError(f"{where}the file is damaged ({error})", command=REBUILD)
    if isinstance(error, apsw.FullError):
        return IndexUnavailableError(f"{where}no space left on the disk")
    if isinstance(error, apsw.ReadOnlyError):
        return IndexUnavailableError(f"{where}the file or its file system is read-only")
    if isinstance(error, (apsw.IOError, apsw.CantOpenError)) and number:
        text = "file size limit reached" if number == errno.EFBIG else os.strerror(number)
        return IndexUnavailableError(f"{where}{text} ({error})")
    return IndexUnavailableError(f"{where}{error}")


def open_writer(path: Path, fingerprint: Fingerprint) -> apsw.Connection:
    """A connection that can write; makes directory, file and tables where they are not there.

    Raises `IndexMismatchError`, `IndexUnavailableError`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise IndexUnavailableError(f"cannot create {path.parent}: {error.strerror}") from error
    connection: apsw.Connection | None = None
    try:
        with explained("open", path):
            connection = apsw.Connection(str(path))
        with explained("open", path, connection):
            connection.set_busy_timeout(BUSY_TIMEOUT)
            connection.execute(
                "PRAGMA page_size=8192; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA temp_store=MEMORY;"
                "PRAGMA wal_autocheckpoint=4000; PRAGMA journal_size_limit=67108864; PRAGMA cache_size=-32768"
            )
            connection.execute("BEGIN IMMEDIATE")  # two that open a new index at once: the second finds the tables
            if not _has_tables(connection):
                _create(connection, fingerprint)
            connection.execute("COMMIT")
            check(connection, path, fingerprint)
        return connection
    except BaseException:
        if connection is not None:
            connection.close(True)
        raise


def open_reader(path: Path, fingerprint: Fingerprint) -> apsw.Connection:
    """A connection that reads beside any writer. Raises `IndexMismatchError`, `IndexUnavailableError`."""
    if not path.exists():
        raise _nothing_indexed(path)
    connection: apsw.Connection | None = None
    try:
        with explained("open", path):
            connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        with explained("open", path, connection):
            connection.set_busy_timeout(BUSY_TIMEOUT)
            # Vectors are read from the page cache of the kernel where they lie, not copied into a second cache.
            connection.execute("PRAGMA temp_store=MEMORY; PRAGMA mmap_size=1099511627776; PRAGMA cache_size=-8192")
            if not _has_tables(connection):
                raise _nothing_indexed(path)
            check(connection, path, fingerprint)
            connection.enable_load_extension(True)
            connection.load_extension(sqlite_vec.loadable_path())
            connection.enable_load_extension(False)
        return connection
    except BaseException:
        if connection is not None:
            connection.close(True)
        raise


def shorten_log(connection: apsw.Connection, path: Path) -> None:
    """Empty a write-ahead log that has grown because there was always a search that read from it.

    Waits at most a second for the searches of this moment; those that begin meanwhile do not use the log.
    """
    try:
        if path.with_name(path.name + "-wal").stat().st_size <= LOG_LIMIT:
            return
        connection.set_busy_timeout(1_000)
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        finally:
            connection.set_busy_timeout(BUSY_TIMEOUT)
    except (apsw.Error, OSError):
        return  # what was committed is safe in the log, and the next write tries again


def check(connection: apsw.Connection, path: Path, fingerprint: Fingerprint) -> None:
    """Raises `IndexMismatchError` where the index holds vectors that cannot be compared with the fingerprint's."""
    rows: list[Any] = connection.execute("SELECT key, value FROM meta").fetchall()
    meta: dict[str, str] = dict(rows)
    try:
        if meta.get("format") != FORMAT:
            raise msgspec.ValidationError
        made = msgspec.json.decode(meta.get("fingerprint", ""), type=Fingerprint)
    except msgspec.DecodeError:
        raise IndexMismatchError(f"the index {path} has the format of another ingestd", command=REBUILD) from None
    if changes := fingerprint.changes(made):
        raise IndexMismatchError(f"the index {path} was made with other settings: {changes}", command=REBUILD)


def _nothing_indexed(path: Path) -> IndexUnavailableError:
    return IndexUnavailableError(f"nothing has been indexed yet: there is no index {path}", command=FIRST)


def _has_tables(connection: apsw.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone() is not None


def _create(connection: apsw.Connection, fingerprint: Fingerprint) -> None:
    connection.execute(_TABLES)
    connection.executemany(
        "INSERT INTO meta VALUES (?, ?)",
        [("format", FORMAT), ("fingerprint", msgspec.json.encode(fingerprint, order="sorted").decode())],
    )
