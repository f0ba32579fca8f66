"""Reading the journal, by the daemon and by commands that run without one."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator

from ingestd.journal.schema import COLUMNS, Row
from ingestd.journal.sources import sources

FOLDERS = 64
"""Folders that a sandbox is told of one by one."""


def counts(db: sqlite3.Connection) -> tuple[dict[str, Counter[str]], int]:
    """Files by source and state, and chunks in all. All files of a source that was taken out are held."""
    files: dict[str, Counter[str]] = {}
    chunks = 0
    for source, state, n, c in db.execute(
        "SELECT source, iif(removed_until IS NULL, state, 'held'), files, chunks FROM counts"
        " LEFT JOIN sources ON name = source"
    ):
        files.setdefault(source, Counter())[state] += n
        chunks += c
    return files, chunks


def find(db: sqlite3.Connection, path: bytes) -> Iterator[Row]:
    """The documents that an absolute path stands for: a file with its parts, or all below a directory, which may be
    millions. "archive.zip!/directory/report.pdf" is a part, "archive.zip!/directory" all parts below it."""
    yield from _below(db, path, None)
    position = path.find(b"!/")
    while position >= 0:
        member = path[position + 2 :].decode("utf-8", "replace")
        yield from (
            row
            for row in _below(db, path[:position], member)
            if row.member == member or row.member.startswith((f"{member}/", f"{member}!/"))
        )
        position = path.find(b"!/", position + 1)


def _below(db: sqlite3.Connection, path: bytes, member: str | None) -> Iterator[Row]:
    """`member`: of this file alone, and only its parts from there on."""
    for name, source in sources(db).items():
        root = source.root
        prefix = root.rstrip(b"/") + b"/"
        if path == root.rstrip(b"/") or path + b"/" == prefix:
            low, high = b"", None
        elif path.startswith(prefix):
            low = path[len(prefix) :]
            high = low + b"0"  # the byte after "/": all paths below a directory lie before it
        else:
            continue
        if member is not None:
            found = db.execute(
                f"SELECT {COLUMNS} FROM documents WHERE source = ? AND path = ? AND member >= ? ORDER BY member",
                (name, low, member),
            )
            yield from (Row(*row) for row in found)
            continue
        for values in db.execute(
            f"SELECT {COLUMNS} FROM documents WHERE source = ? AND path >= ? AND (? IS NULL OR path < ?)"
            " ORDER BY path, member",
            (name, low, high, high),
        ):
            row = Row(*values)
            if not low or row.path == low or row.path.startswith(low + b"/"):
                yield row


def folders(db: sqlite3.Connection, source: str) -> set[bytes]:
    """Where files of a source lie that are to be loaded, relative to it: none in another; beyond `FOLDERS` one."""
    found: set[bytes] = set()
    queued = "state = 'queued' AND gone = 0 AND sealed = 0"
    for condition in (queued, "state = 'running'", "state = 'failed'"):  # each has an index
        for (path,) in db.execute(f"SELECT path FROM documents WHERE {condition} AND +source = ?", (source,)):
            found.add(os.path.dirname(path))
    outer = {path for path in found if not any(above in found for above in _above(path))}
    return outer if len(outer) <= FOLDERS else {os.path.commonpath(list(outer))}


def _above(path: bytes) -> Iterator[bytes]:
    while path:
        path = os.path.dirname(path)
        yield path


def at(db: sqlite3.Connection, source: str, path: bytes) -> Row | None:
    """The document of a file, by its place in the source."""
    found = db.execute(
        f"SELECT {COLUMNS} FROM documents WHERE source = ? AND path = ? AND member = ''", (source, path)
    ).fetchone()
    return Row(*found) if found is not None else None


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
