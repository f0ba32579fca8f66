"""Deletions: which of the files that are missing leave the index now, and which are held.

A missing file waits a moment, since the other half of a move may take over its vectors. When a source then misses more
than its share of files, at once or within the window, all of them are held until somebody confirms the deletion, or the
grace period is over. What lives on elsewhere, or was never in the index, is no loss and is not counted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from typing import NamedTuple

from ingestd.journal import members
from ingestd.journal.schema import COLUMNS, Row
from ingestd.journal.sources import known

LEAST = 50
"""Deletions that are never held: fewer than this."""
WINDOW = 600.0
"""Seconds over which deletions are added up."""
QUIET_LIMIT = 20.0
"""Seconds for which deletions wait while more of them turn up."""

_MOVING = (
    "EXISTS (SELECT 1 FROM documents WHERE inode = old.inode AND device = old.device AND gone = 0"
    " AND state IN ('queued', 'running'))"
)
_KEPT = (
    "(old.indexed_digest IS NULL"
    " OR EXISTS (SELECT 1 FROM documents WHERE indexed_digest = old.indexed_digest AND gone = 0))"
)
_DUE = "FROM documents AS old WHERE state = 'queued' AND gone > 0 AND gone = 1 AND source = ? AND retry_at <= ?"
"""`gone > 0` is there for the index `tombstones`: SQLite does not see that it follows. Parts go with their container,
once that is gone: they are never in question by themselves."""
_CONFIRMED = (
    "SELECT id FROM documents AS old WHERE state = 'queued' AND gone > 0 AND gone = 2 AND source = ?"
    " AND (member = '' OR retry_at < ? OR NOT EXISTS (SELECT 1 FROM documents AS new WHERE new.member != ''"
    " AND new.state IN ('queued', 'running') AND new.digest = old.indexed_digest AND new.gone = 0)) LIMIT ?"
)
"""A part stays while another one is to be copied from it: its container has another name now, or it has one there."""


class Hold(NamedTuple):
    """When deletions of a source are held."""

    share: float = 0.5
    """More than this share of its files; 1: never."""
    grace: float = 0.0
    """Seconds that they wait for a confirmation."""


def claim(
    db: sqlite3.Connection, limit: int, holds: Mapping[str, Hold], without: Collection[str], now: float
) -> list[Row]:
    """Documents to remove from the index, now `running`; those that must be confirmed become `held`.

    A file whose inode is still to be read under another name waits. `without`: sources that are paused.
    """
    db.execute("UPDATE documents SET state = 'queued', gone = 2, retry_at = 0 WHERE state = 'held' AND retry_at <= ?",
               (now,))  # fmt: skip
    rows: list[Row] = []
    for name, removed_until in db.execute("SELECT name, removed_until FROM sources").fetchall():
        room = limit - len(rows)
        if not room:
            break
        if removed_until is not None:
            if removed_until <= now:
                rows += _claim(
                    db, "SELECT id FROM documents WHERE source = ? AND state != 'running' LIMIT ?", name, room
                )
                db.execute("DELETE FROM sources WHERE name = ? AND NOT EXISTS"
                           " (SELECT 1 FROM documents WHERE source = name)", (name,))  # fmt: skip
            continue
        if name in without:
            continue
        rows += _claim(db, _CONFIRMED, name, now - members.COPY_WAIT, room)
        oldest, newest = db.execute(
            "SELECT min(retry_at), max(retry_at) FROM documents"
            " WHERE state = 'queued' AND gone > 0 AND gone = 1 AND source = ?",
            (name,),
        ).fetchone()
        if oldest is None or oldest > now or (newest > now and oldest > now - QUIET_LIMIT):
            continue
        _hold(db, name, holds.get(name, Hold()), now)
        rows += _claim(db, f"SELECT id {_DUE} AND NOT {_MOVING} LIMIT ?", name, now, limit - len(rows))
    return rows


def confirm(db: sqlite3.Connection, name: str) -> int:
    """What is held of the source may leave the index now. Returns how many files. Raises `UsageError`."""
    removed = db.execute(
        "UPDATE sources SET removed_until = 0 WHERE name = ? AND removed_until > 0", (known(db, name),)
    ).rowcount
    if removed:
        (files,) = db.execute("SELECT coalesce(sum(files), 0) FROM counts WHERE source = ?", (name,)).fetchone()
        return int(files)
    return db.execute(
        "UPDATE documents SET state = 'queued', gone = 2, retry_at = 0 WHERE state = 'held' AND source = ?", (name,)
    ).rowcount


def _claim(db: sqlite3.Connection, which: str, *values: object) -> list[Row]:
    rows = db.execute(
        f"UPDATE documents SET state = 'running', loading = 0 WHERE id IN ({which}) RETURNING {COLUMNS}", values
    )
    return [Row(*row) for row in rows.fetchall()]


def _hold(db: sqlite3.Connection, name: str, hold: Hold, now: float) -> None:
    """Hold what is due where that is more than the share of the source."""
    if hold.share >= 1:
        return
    baseline, counted_at = db.execute("SELECT baseline, counted_at FROM sources WHERE name = ?", (name,)).fetchone()
    (files,) = db.execute("SELECT sum(files - parts) FROM counts WHERE source = ?", (name,)).fetchone()
    if files > baseline or now - counted_at > WINDOW:
        baseline = files
        db.execute("UPDATE sources SET baseline = ?, counted_at = ? WHERE name = ?", (files, now, name))
    left = max(LEAST, int(hold.share * baseline) + 1) - (baseline - files)
    for which in (_DUE, f"{_DUE} AND NOT {_MOVING} AND NOT {_KEPT}"):  # the first is cheap, and rules out most cases
        (due,) = db.execute(f"SELECT count(*) FROM (SELECT 1 {which} LIMIT ?)", (name, now, max(left, 1))).fetchone()
        if due < left or not due:
            return
    db.execute(
        f"UPDATE documents SET state = 'held', retry_at = ? WHERE id IN (SELECT id {which})",
        (now + hold.grace, name, now),
    )
