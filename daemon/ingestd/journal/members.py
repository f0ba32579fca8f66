"""Parts of a file (members of an archive, attachments of a mail): documents of their own, that live by their container.

A part's row has the container's path, its own name as `member` ("inner.zip!/report.pdf" of a nested one) and the
container's `member` as `parent`. Its digest is known as soon as the container was read, so that what the index has
already needs no bytes. `sealed`: its bytes are only to be had by reading the container again; it is not claimed then,
and its container is queued. Whether they are at hand is known to the supervisor alone, and lost when that ends: a row
is sealed when somebody claims it in vain.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from ingestd.journal.schema import Row
from ingestd.messages.load import Member

FRESH = 32
"""Parts of a fresh container that overtake the backlog; the others are part of it."""
COPY_WAIT = 60.0
"""Seconds for which a part that is gone stays in the index, since another one of the same content is to be copied."""
AGAIN = 1.0
"""Seconds until a container is read again whose parts were not all taken along; they are loaded meanwhile."""
IN_ITSELF = "it is a copy of the container that it lies in"

_OF = "source = ? AND path = ? AND parent = ? AND member != ''"
"""The parts of a container, by the index `parts`."""


class Listed(NamedTuple):
    """What became of parts that a container was found to have."""

    wanted: set[str]
    """Members that wait to be loaded, and whose bytes are at hand."""
    batch: int | None
    """Of the container; these joined it."""
    joined: int
    ended: list[tuple[str, str, str]]
    """Of those that joined it: member, state and reason where nothing can be done with it."""


def joined(container: str, name: str) -> str:
    """The `member` of a part, from that of its container and its name there."""
    return f"{container}!/{name}" if container else name


def digests(db: sqlite3.Connection, row: Row) -> bytes:
    """Of the parts of a container whose bytes nobody waits for, 16 bytes each."""
    found = db.execute(
        f"SELECT digest, state IN ('queued', 'running') FROM documents WHERE {_OF}", _key(row)
    ).fetchall()
    wanted = {digest for digest, waits in found if waits}
    return b"".join({digest for digest, _ in found if digest is not None and len(digest) == 16} - wanted)


def above(db: sqlite3.Connection, row: Row) -> list[bytes]:
    """Digests of the containers in which a document lies, the innermost first."""
    found: list[bytes] = []
    parent = row.parent
    while parent is not None:
        container = db.execute(
            "SELECT digest, parent FROM documents WHERE source = ? AND path = ? AND member = ?",
            (row.source, row.path, parent),
        ).fetchone()
        if container is None:
            break
        found.append(container[0] or b"")
        parent = container[1]
    return found


def any_of(db: sqlite3.Connection, source: str, path: bytes, member: str) -> bool:
    """Whether a document has parts."""
    return db.execute(f"SELECT 1 FROM documents WHERE {_OF} LIMIT 1", (source, path, member)).fetchone() is not None


def unchanged(db: sqlite3.Connection, source: str, path: bytes, digest: bytes) -> bool:
    """Whether a file is, with all its parts, what the journal says."""
    row = db.execute(
        "SELECT indexed_digest FROM documents WHERE source = ? AND path = ? AND member = ''", (source, path)
    ).fetchone()
    return row is not None and row[0] == digest and not busy(db, source, path)


def busy(db: sqlite3.Connection, source: str, path: bytes) -> bool:
    """Whether parts of a file are still to be loaded: those inside of them may be of another version."""
    return (
        db.execute(
            "SELECT 1 FROM documents WHERE source = ? AND path = ? AND member != '' AND gone = 0"
            " AND state IN ('queued', 'running', 'failed') LIMIT 1",
            (source, path),
        ).fetchone()
        is not None
    )


def waiting(db: sqlite3.Connection, row: Row) -> bool:
    """Whether parts wait for their container to be read again."""
    return (
        db.execute(
            f"SELECT 1 FROM documents WHERE {_OF} AND sealed = 1 AND state = 'queued' AND gone = 0 LIMIT 1", _key(row)
        ).fetchone()
        is not None
    )


def take(db: sqlite3.Connection, row: Row, parts: Sequence[Member], before: int) -> Listed:
    """Journal some of the parts that the container is found to have, after `before` others."""
    batch, fresh, digest, mtime_ns = db.execute(
        "SELECT batch, fresh, digest, mtime_ns FROM documents WHERE id = ?", (row.id,)
    ).fetchone()
    # What the journal has of its parts is no longer those of the version that is indexed, whichever it is: the row may
    # be a newer one's by now, and this attempt may come to nothing.
    db.execute("UPDATE documents SET indexed_digest = NULL WHERE id = ?", (row.id,))
    around = {digest, *above(db, row)}
    wanted: set[str] = set()
    done: list[tuple[str, str, str]] = []
    count = 0
    for number, part in enumerate(parts, before):
        member = joined(row.member, part.name)
        packed = part.offset >= 0
        error = IN_ITSELF if part.digest and part.digest in around else part.error
        known = part.digest if error is None else None
        old = db.execute(
            "SELECT id, digest, state, sealed, gone, loader, loader_version, reason FROM documents"
            " WHERE source = ? AND path = ? AND member = ?",
            (row.source, row.path, member),
        ).fetchone()
        if old is not None:
            id, was, state, sealed, gone, *loader, reason = old
            same = not gone and was == known
            if same and error is not None and state == "quarantined" and reason == error:
                continue
            if same and error is None and loader == [part.loader, part.loader_version if part.loader else None]:
                if state == "queued" or (sealed and state == "quarantined"):
                    db.execute(
                        "UPDATE documents SET sealed = ?, batch = coalesce(?, batch), media_type = ?,"
                        " state = 'queued', retry_at = CASE state WHEN 'queued' THEN retry_at ELSE 0 END WHERE id = ?",
                        (not packed, batch, part.media_type, id),
                    )
                    count += 1
                    if packed:
                        wanted.add(member)
                elif state in ("running", "failed") and packed:
                    wanted.add(member)
                continue
        if error is not None:
            state = "quarantined"
        elif part.loader is None and (old is None or old[1] is None):
            state = "skipped"
        else:  # also where nobody takes it any more, but the index may have it
            state = "queued"
        reason = error or (f"no loader for {part.media_type}" if state == "skipped" else None)
        db.execute(
            "INSERT INTO documents(source, path, member, parent, size, mtime_ns, digest, media_type, loader,"
            " loader_version, state, sealed, fresh, batch, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET parent = excluded.parent, size = excluded.size, mtime_ns = excluded.mtime_ns,"
            " digest = excluded.digest, media_type = excluded.media_type, loader = excluded.loader,"
            " loader_version = excluded.loader_version, sealed = excluded.sealed, fresh = excluded.fresh,"
            " batch = coalesce(excluded.batch, batch), gone = 0, version = version + 1, retry_at = 0, attempts = 0,"
            " interruptions = 0, alone = 0, pool = '', reason = excluded.reason, detail = NULL,"
            " state = CASE state WHEN 'running' THEN 'running' ELSE excluded.state END",
            (
                row.source, row.path, member, row.member, part.size, mtime_ns, known,
                part.media_type or None, part.loader, part.loader_version if part.loader else None, state,
                state == "queued" and part.loader is not None and not packed, bool(fresh) and number < FRESH, batch,
                reason,
            ),
        )  # fmt: skip
        count += 1
        if state != "queued":
            done.append((member, state, reason or ""))
        elif packed:
            wanted.add(member)
    return Listed(wanted, batch, count, done)


def ended(db: sqlite3.Connection, row: Row, seen: Collection[str], now: float) -> None:
    """The container was read to its end, and has these members: all others leave the index."""
    for id, member in db.execute(f"SELECT id, member FROM documents WHERE {_OF} AND gone = 0", _key(row)).fetchall():
        if member not in seen:
            _leave(db, id, now)


def follow(db: sqlite3.Connection, row: Row, state: str, reason: str | None, now: float) -> str:
    """An attempt ended in `state`: what that means for the parts, and what they make of it. Returns the state."""
    if state in ("indexed", "partial") and waiting(db, row):
        db.execute(
            "UPDATE documents SET state = 'queued', retry_at = ?, attempts = 0 WHERE id = ?", (now + AGAIN, row.id)
        )
        return "queued"
    if state == "quarantined":
        # What waits for it cannot be had.
        db.execute(
            f"UPDATE documents SET state = 'quarantined', reason = ? WHERE {_OF} AND sealed = 1 AND state = 'queued'"
            " AND gone = 0",
            (f"its container is quarantined: {reason}", *_key(row)),
        )
    elif state == "skipped":
        ended(db, row, (), now)
    return state


def orphan(db: sqlite3.Connection, row: Row, now: float) -> None:
    """The container is gone from index and journal: its parts go as well."""
    for (id,) in db.execute(f"SELECT id FROM documents WHERE {_OF}", _key(row)).fetchall():
        _leave(db, id, now)


def _leave(db: sqlite3.Connection, id: int, now: float) -> None:
    db.execute(
        "UPDATE documents SET gone = 2, version = version + 1, retry_at = ?, sealed = 0,"
        " state = CASE state WHEN 'running' THEN 'running' ELSE 'queued' END WHERE id = ?",
        (now, id),
    )


def seal(db: sqlite3.Connection, row: Row) -> None:
    """The part was claimed, but its bytes are not at hand: its container is to be read again."""
    container = db.execute(
        "SELECT id, state, gone, reason FROM documents WHERE source = ? AND path = ? AND member = ?",
        (row.source, row.path, row.parent),
    ).fetchone()
    state, reason = "queued", None
    if container is None:
        db.execute("UPDATE documents SET gone = 2, version = version + 1 WHERE id = ?", (row.id,))
    elif container[2]:  # nobody can tell for how long: as its container, it is held, and goes or comes back with it
        state = "held"
        db.execute("UPDATE documents SET gone = 1 WHERE id = ?", (row.id,))
    elif container[1] in ("indexed", "partial"):
        db.execute(
            "UPDATE documents SET state = 'queued', retry_at = 0, attempts = 0, fresh = max(fresh, ?),"
            " batch = coalesce(batch, (SELECT batch FROM documents WHERE id = ?)) WHERE id = ?",
            (row.fresh, row.id, container[0]),
        )
    elif container[1] in ("quarantined", "skipped"):
        state, reason = "quarantined", f"its container is {container[1]}: {container[3]}"
    db.execute(
        "UPDATE documents SET state = ?, sealed = 1, attempts = max(0, attempts - 1), reason = coalesce(?, reason),"
        " retry_at = CASE ? WHEN 'held' THEN 1e12 ELSE 0 END WHERE id = ?",
        (state, reason, state, row.id),
    )


def back(db: sqlite3.Connection, source: str, path: bytes) -> None:
    """A container that was gone is there again."""
    db.execute(
        "UPDATE documents SET gone = 0, state = 'queued', retry_at = 0"
        " WHERE source = ? AND path = ? AND member != '' AND state = 'held'",
        (source, path),
    )


def adopt(db: sqlite3.Connection, batch: int, source: str, below: Sequence[bytes]) -> int:
    """See `Journal.adopt`. A place is a file's or a directory's path in the source; "": all of it."""
    found = 0
    for place in below or [b""]:
        low = place.rstrip(b"/")
        where = "source = ? AND member != '' AND gone = 0 AND (? = x'' OR path = ? OR (path > ? AND path < ?))"
        values = (source, low, low, low + b"/", low + b"0")
        # Those that failed first: they are queued then.
        for index, change, state in (
            ("waiting", "state = 'queued', retry_at = 0, ", "= 'failed'"),
            ("moving", "", "IN ('queued', 'running')"),
        ):
            found += db.execute(
                f"UPDATE documents INDEXED BY {index} SET {change}batch = ?"
                f" WHERE state {state} AND {where} AND batch IS NOT ?",
                (batch, *values, batch),
            ).rowcount
    return found


def copied(
    db: sqlite3.Connection, row: Row, source: str, path: bytes, member: str, *, partial: bool
) -> Literal["no", "alone", "along"]:
    """Whether a document of the same content as another one, which is indexed, becomes a copy of it.

    "along": with all its parts, those of a file with those of a file. "alone": it has none, or, nested, has them
    already, since they came along. "no": at another depth, or in another source, other limits hold.
    """
    if partial and source != row.source:
        return "no"
    if not row.member and not member:
        if not any_of(db, source, path, ""):
            return "alone"
        return "no" if busy(db, source, path) else "along"
    if partial:
        return "no"

    def parts(source: str, path: bytes, member: str) -> set[tuple[str, bytes | None]]:
        found = db.execute(f"SELECT member, digest FROM documents WHERE {_OF} AND gone = 0", (source, path, member))
        return {(name[len(member) + 2 * bool(member) :], digest) for name, digest in found}

    return "alone" if parts(row.source, row.path, row.member) == parts(source, path, member) else "no"


def copy(db: sqlite3.Connection, row: Row, source: str, path: bytes, now: float) -> int:
    """Give a file all parts of another one of the same content; each is copied in the index, nothing is read.

    Returns how many.
    """
    found = db.execute(
        "SELECT member, parent, size, digest, media_type, loader, loader_version,"
        " iif(digest IS NULL OR state = 'skipped', state, 'queued'),"
        " iif(digest IS NULL OR state = 'skipped', reason, NULL)"
        " FROM documents WHERE source = ? AND path = ? AND member != '' AND gone = 0 ORDER BY member",
        (source, path),
    ).fetchall()
    there = {""}
    parts = []
    for values in found:  # a container before what lies in it
        if values[1] in there:  # what lies in a part that is about to leave goes once that has gone
            there.add(values[0])
            parts.append(values)
    batch, mtime_ns = db.execute("SELECT batch, mtime_ns FROM documents WHERE id = ?", (row.id,)).fetchone()
    for values in parts:
        db.execute(
            "INSERT INTO documents(source, path, mtime_ns, batch, member, parent, size, digest, media_type, loader,"
            " loader_version, state, reason) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET parent = excluded.parent, size = excluded.size, mtime_ns = excluded.mtime_ns,"
            " batch = coalesce(excluded.batch, batch), digest = excluded.digest, media_type = excluded.media_type,"
            " loader = excluded.loader, loader_version = excluded.loader_version, sealed = 0, gone = 0,"
            " version = version + 1, retry_at = 0, attempts = 0, interruptions = 0, alone = 0, pool = '',"
            " detail = NULL, reason = excluded.reason,"
            " state = CASE state WHEN 'running' THEN 'running' ELSE excluded.state END",
            (row.source, row.path, mtime_ns, batch, *values),
        )
    for id, member in db.execute(
        "SELECT id, member FROM documents WHERE source = ? AND path = ? AND member != '' AND gone = 0",
        (row.source, row.path),
    ).fetchall():
        if member not in there:
            _leave(db, id, now)
    # What the journal has of nested containers' parts is no longer that of the version that is indexed, as in `take`.
    db.execute(
        "UPDATE documents SET indexed_digest = NULL WHERE source = ? AND path = ? AND member != ''"
        " AND indexed_digest IS NOT digest"
        " AND member IN (SELECT parent FROM documents WHERE source = ? AND path = ? AND member != '' AND parent != '')",
        (row.source, row.path, row.source, row.path),
    )
    return len(parts)


def _key(row: Row) -> tuple[str, bytes, str]:
    return row.source, row.path, row.member
