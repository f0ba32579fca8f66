"""What `verify --repair` does: the journal learns what the index really has, and the document is queued.

The rest is everyday work: a file that is there is loaded, and only chunks that the index lacks are encoded; one that is
gone leaves the index.
"""

from __future__ import annotations

import sqlite3
from typing import Literal

from ingestd.journal.retrying import note
from ingestd.journal.sources import sources
from ingestd.messages.index import Finding
from ingestd.types import document_id

Mended = Literal["queued", "remove", "moved"]
"""`remove`: it is for nobody, and is to be removed from the index; `moved`: it is worked on meanwhile."""


def mend(db: sqlite3.Connection, finding: Finding) -> Mended:
    """Mend one document."""
    if not finding.row:
        return _adopt(db, finding)
    changed = db.execute(
        "UPDATE documents SET indexed_digest = ?, indexed_loader = NULL, chunks = ?, retry_at = 0, fresh = 0,"
        " state = CASE WHEN state IN ('indexed', 'partial', 'skipped') AND gone = 0 THEN 'queued' ELSE state END"
        " WHERE id = ? AND version = ? AND state != 'running' AND (state != 'queued' OR indexed_digest IS NULL)",
        (finding.digest or None, len(finding.hashes) // 16, finding.row, finding.version),
    ).rowcount
    if not changed:
        return "moved"
    _remember(db, finding.row, finding)
    return "queued"


def _adopt(db: sqlite3.Connection, finding: Finding) -> Mended:
    """A document that the journal does not know gets a row, as if it had changed since it was indexed."""
    source = sources(db).get(finding.source)
    root = source.root.rstrip(b"/") + b"/" if source is not None else b""
    if source is None or not finding.path.startswith(root):
        return "remove"
    place = _place(finding, finding.path[len(root) :])
    if place is None:
        return "remove"
    path, member = place
    parent = None
    if member:  # its container has to be read again, or be missed
        parent = member.rpartition("!/")[0]
        db.execute(
            "INSERT INTO documents(source, path, state, digest) VALUES (?, ?, 'queued', x'') ON CONFLICT DO NOTHING",
            (finding.source, path),
        )
    row = db.execute(
        "INSERT INTO documents(source, path, member, parent, sealed, state, digest, indexed_digest, chunks)"
        " VALUES (?, ?, ?, ?, ?, 'queued', ?, ?, ?)"
        " ON CONFLICT DO UPDATE SET digest = excluded.digest, indexed_digest = excluded.digest,"
        " chunks = excluded.chunks"
        " WHERE digest = x'' RETURNING id",  # as a container that one of its members has just brought along
        (
            finding.source, path, member, parent, bool(member), finding.digest, finding.digest,
            len(finding.hashes) // 16,
        ),
    ).fetchone()  # fmt: skip
    if row is None:
        return "moved"
    _remember(db, row[0], finding)
    return "queued"


def _place(finding: Finding, path: bytes) -> tuple[bytes, str] | None:
    """Path and member of which the document's id is made; names may have "!/" in them as well."""
    if document_id(finding.source, path) == finding.doc_id:
        return path, ""
    parts = path.split(b"!/")
    for number in range(1, len(parts)):
        file, member = b"!/".join(parts[:number]), b"!/".join(parts[number:]).decode("utf-8", "replace")
        if document_id(finding.source, file, member) == finding.doc_id:
            return file, member
    return None


def _remember(db: sqlite3.Connection, row: int, finding: Finding) -> None:
    if finding.hashes:
        db.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?)", (row, finding.hashes))
    else:
        db.execute("DELETE FROM hashes WHERE document = ?", (row,))
    note(db, row, f"verify: {finding.problem}: {finding.reason}")
