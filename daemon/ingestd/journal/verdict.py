"""What is to be done with a file whose content is known."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from ingestd.journal import members
from ingestd.journal.schema import Row, Verdict
from ingestd.types import document_id


def decide(
    db: sqlite3.Connection, row: Row, digest: bytes, loader: str | None, loader_version: str, max_strikes: int
) -> Verdict:
    """Whether the index has the content already, here or elsewhere, and whether it is known to do harm."""
    if loader is None:
        return Verdict("skip", chunks=row.chunks)
    tag = f"{loader} {loader_version}"
    again = members.waiting(db, row)
    if row.indexed_digest == digest and row.indexed_loader == tag and not again:
        return Verdict("unchanged", chunks=row.chunks, **made(db, row.id))
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
        "SELECT id, source, path, member FROM documents"
        " WHERE indexed_digest = ? AND indexed_loader = ? AND id != ? LIMIT 1",
        (digest, tag, row.id),
    ).fetchone()
    if origin is not None and not again:
        found = made(db, origin[0])
        copied = members.copied(db, row, *origin[1:], partial=bool(found["partial"]))
        if copied != "no":
            place = origin[1:3] if copied == "along" else None
            return Verdict("rekey", document_id(*origin[1:]), place=place, **found)
    known = db.execute("SELECT hashes FROM hashes WHERE document = ?", (row.id,)).fetchone()
    return Verdict(
        "load",
        hashes=known[0] if known else b"",
        parts=members.digests(db, row),
        depth=len(members.above(db, row)),
        strikes=strikes,
    )


def made(db: sqlite3.Connection, document: int) -> dict[str, Any]:
    """What the loader made of an indexed document beside its chunks, as fields of a `Verdict`."""
    title, metadata, partial, warnings = db.execute(
        "SELECT title, metadata, partial, warnings FROM documents WHERE id = ?", (document,)
    ).fetchone()
    return {
        "title": title,
        "metadata": json.loads(metadata or "{}"),
        "partial": partial,
        "warnings": json.loads(warnings or "[]"),
    }
