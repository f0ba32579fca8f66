"""What the watch workers report: settled differences become rows, tombstones, or nothing."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from ingestd.journal import members
from ingestd.journal.retrying import note
from ingestd.messages.watch import Change

TOMBSTONE_DELAY = 3.0
"""Seconds a deletion waits, so that the other half of a move can take over the vectors."""


class Taken(NamedTuple):
    """What became of the differences that a scan for a batch reported."""

    joined: int
    """Files that now belong to the batch."""
    done: Counter[str]
    """States of those that need no work any more."""


def take(db: sqlite3.Connection, source: str, changes: Sequence[Change], batch: int | None, now: float) -> Taken:
    """Journal the differences; `batch`: the `ingest` that asked for them."""
    joined = 0
    done: Counter[str] = Counter()
    for change in changes:
        key = (source, change.path)
        if change.stat is None:
            # A file that was never read leaves no trace. Any other waits for its removal: the index may have
            # it, though the daemon was killed before the journal said so.
            db.execute(
                "DELETE FROM documents WHERE source = ? AND path = ? AND member = '' AND digest IS NULL"
                " AND state != 'running'",
                key,
            )
            db.execute(
                "UPDATE documents SET gone = 1, version = version + 1, retry_at = ?,"
                " state = CASE state WHEN 'running' THEN 'running' ELSE 'queued' END"
                " WHERE source = ? AND path = ? AND member = '' AND gone = 0",
                (now + TOMBSTONE_DELAY, *key),
            )
            continue
        joined += 1
        if change.known:
            (state,) = db.execute(
                "UPDATE documents SET retry_at = 0,"
                " state = CASE state WHEN 'failed' THEN 'queued' ELSE state END,"
                " batch = CASE WHEN state IN ('queued', 'running', 'failed') THEN ? ELSE batch END"
                " WHERE source = ? AND path = ? AND member = '' RETURNING state",
                (batch, *key),
            ).fetchone() or ("removed",)
            if state not in ("queued", "running"):  # it was done while the scan went on
                done[state] += 1
            continue
        stat = change.stat
        (id,) = db.execute(
            "INSERT INTO documents(source, path, device, inode, size, mtime_ns, ctime_ns, state, fresh, batch)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?)"
            " ON CONFLICT DO UPDATE SET device = excluded.device, inode = excluded.inode,"
            " size = excluded.size, mtime_ns = excluded.mtime_ns, ctime_ns = excluded.ctime_ns,"
            " fresh = excluded.fresh, batch = coalesce(excluded.batch, batch), gone = 0,"
            " version = version + 1, retry_at = 0, attempts = CASE WHEN ? THEN attempts ELSE 0 END,"
            " interruptions = 0, alone = 0, pool = '', reason = NULL, detail = NULL,"
            " state = CASE state WHEN 'running' THEN 'running' ELSE 'queued' END RETURNING id",
            (
                *key, stat.device, stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns,
                change.fresh, batch, bool(change.restless),
            ),
        ).fetchone()  # fmt: skip
        members.back(db, *key)
        if change.restless:  # its attempts count on, since it may change during each of them
            note(db, id, f"taken although it kept changing for {change.restless:.0f} s")
    return Taken(joined, done)
