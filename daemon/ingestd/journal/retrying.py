"""Trying again: after an interruption, because somebody asked, or because the index is to be made anew."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Sequence

from ingestd.journal import members
from ingestd.journal.schema import Ended, Row

RETRYABLE = frozenset({"failed", "quarantined", "partial", "skipped"})
"""States that `retry` means."""
RETRIES = 500
"""Documents that one call of the writer gives another try: others have their turn between them."""
NEVER = 1e11
"""Seconds until the next attempt where a loader lacks something: `Journal.revive` notices once that is there."""
HISTORY = 20
"""Lines of history kept for a document."""
ALONE_AFTER = 3
"""Interruptions after which a file is only tried while no other file is loaded."""
ALONE_LIMIT = 10
"""Interruptions while running alone after which the file is quarantined."""


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
    members.follow(db, row, ended[0], reason, time.time())
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
    db.execute("DELETE FROM meta WHERE key IN ('fingerprint', 'made')")
    return db.execute(
        "UPDATE documents SET state = CASE state WHEN 'quarantined' THEN state ELSE 'queued' END,"
        " indexed_digest = NULL, indexed_loader = NULL, chunks = 0, retry_at = 0"
    ).rowcount


def failed(db: sqlite3.Connection) -> list[int]:
    """Every document that is failed or quarantined."""
    return [id for (id,) in db.execute("SELECT id FROM documents WHERE state IN ('failed', 'quarantined')")]


def retry(db: sqlite3.Connection, ids: Sequence[int]) -> int:
    """See `Journal.retry`."""
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
