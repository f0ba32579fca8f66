"""The journal: what is known of every file, in one SQLite file with one writer thread and group commit.

Every method of `Journal` is a coroutine that the writer thread carries out; calls made while a commit is under way
share the next one. The order of the calls is the order of their effects. A commit is not synchronous: after a power
loss the journal may be a moment behind the index, never ahead of it, and doing that moment again changes nothing.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ingestd.journal import members, removal, taking
from ingestd.journal.reading import at, counts, find, folders, history, troubles
from ingestd.journal.retrying import RETRIES, RETRYABLE, failed, forget_all, interrupt, note, retry
from ingestd.journal.schema import COLUMNS, Ended, Row, Verdict, connect
from ingestd.journal.sources import SourceRow, SourceSettings, configure, pause, sources
from ingestd.journal.taking import Taken
from ingestd.journal.verdict import decide
from ingestd.journal.writer import Writer
from ingestd.messages.load import Member, Stat
from ingestd.messages.watch import Change

__all__ = [
    "RETRYABLE",
    "Ended",
    "Journal",
    "Row",
    "SourceRow",
    "SourceSettings",
    "Taken",
    "Verdict",
    "at",
    "configure",
    "connect",
    "counts",
    "failed",
    "find",
    "folders",
    "forget_all",
    "history",
    "pause",
    "removal",
    "retry",
    "sources",
    "troubles",
]


class Journal(Writer):
    """What is known of every file. See the module's docstring."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._turn = 0

    # --- what the watch workers report ------------------------------------------------------------------------

    async def configure(self, settings: Mapping[str, SourceSettings]) -> dict[str, SourceRow]:
        """Note what the configuration says of the sources; see `sources.configure`. Returns all that are known."""

        def call(db: sqlite3.Connection) -> dict[str, SourceRow]:
            configure(db, settings, time.time())
            return sources(db)

        return await self.run(call)

    async def take(self, source: str, changes: Sequence[Change], batch: int | None = None) -> Taken:
        """Journal settled differences."""
        return await self.run(lambda db: taking.take(db, source, changes, batch, time.time()))

    # --- attempts ---------------------------------------------------------------------------------------------

    async def claim(
        self, limit: int, *, pool: str = "", alone: bool = False, without: Collection[str] = ()
    ) -> list[Row]:
        """Files to load next by the workers of `pool`, now `running`: fresh ones first, sources in turn.

        `alone`: those of any pool that were interrupted so often that each is to run while no other file is loaded.
        `without`: sources that are paused.
        """

        def call(db: sqlite3.Connection) -> list[Row]:
            now = time.time()
            db.execute("UPDATE documents SET state = 'queued' WHERE state = 'failed' AND retry_at <= ?", (now,))
            names = [
                name
                for (name,) in db.execute("SELECT source FROM counts WHERE state = 'queued' AND files > 0")
                if name not in without
            ]
            found: list[int] = []
            if alone:
                found = [
                    id
                    for id, source in db.execute(
                        "SELECT id, source FROM documents WHERE state = 'queued' AND gone = 0 AND alone = 1"
                        " AND sealed = 0 AND retry_at <= ? ORDER BY id",
                        (now,),
                    )
                    if source in names
                ][:limit]
                names = []
            # Fresh files of any source overtake the backlog of all.
            for fresh in (1, 0):
                for turn in range(len(names)):
                    if len(found) == limit:
                        break
                    name = names[(self._turn + turn) % len(names)]
                    share = max(1, (limit - len(found)) // (len(names) - turn))
                    found += [
                        id
                        for (id,) in db.execute(
                            "SELECT id FROM documents WHERE state = 'queued' AND gone = 0 AND pool = ? AND source = ?"
                            " AND fresh = ? AND retry_at <= ? AND alone = 0 AND sealed = 0"
                            " ORDER BY iif(member = '', 1, 0), id LIMIT ?",
                            (pool, name, fresh, now, share),
                        )
                    ]
            self._turn += 1
            rows = []
            for id in found:
                row = db.execute(
                    "UPDATE documents SET state = 'running', loading = 1, attempts = attempts + 1 WHERE id = ?"
                    f" RETURNING {COLUMNS}",
                    (id,),
                ).fetchone()
                rows.append(Row(*row))
            return rows

        return await self.run(call)

    async def claim_gone(
        self, limit: int, holds: Mapping[str, removal.Hold] | None = None, *, without: Collection[str] = ()
    ) -> list[Row]:
        """Documents to remove from the index, now `running`; see `removal.claim`."""
        return await self.run(lambda db: removal.claim(db, limit, holds or {}, without, time.time()))

    async def identified(
        self, row: Row, stat: Stat, digest: bytes, loader: str | None, loader_version: str, max_strikes: int
    ) -> Verdict:
        """Note what the file is, and decide what is to be done with it."""

        def call(db: sqlite3.Connection) -> Verdict:
            db.execute(
                "UPDATE documents SET digest = ?, loader = ?, loader_version = ? WHERE id = ?",
                (digest, loader, loader_version, row.id),
            )
            if not row.member:
                db.execute(
                    "UPDATE documents SET inode = ?, size = ?, mtime_ns = ?, ctime_ns = ? WHERE id = ? AND version = ?",
                    (stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns, row.id, row.version),
                )
            verdict = decide(db, row, digest, loader, loader_version, max_strikes)
            if verdict.action != "load":
                db.execute("UPDATE documents SET loading = 0 WHERE id = ?", (row.id,))
            return verdict

        return await self.run(call)

    async def list_parts(self, row: Row, parts: Sequence[Member], before: int) -> members.Listed:
        """Note some of the parts that the row's file is found to have, after `before` others."""
        return await self.run(lambda db: members.take(db, row, parts, before))

    async def adopt(self, batch: int, source: str, below: Sequence[bytes]) -> int:
        """Parts of files at these places that are not done yet belong to the batch; returns how many."""
        return await self.run(lambda db: members.adopt(db, batch, source, below))

    async def seal(self, row: Row) -> None:
        """The part cannot be loaded before its container was read again."""
        await self.run(lambda db: members.seal(db, row))

    async def route(self, row: Row, pool: str) -> None:
        """Leave the file to the load workers of another pool."""

        def call(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE documents SET state = 'queued', pool = ?, attempts = attempts - 1 WHERE id = ?", (pool, row.id)
            )

        await self.run(call)

    async def unroute(self, pools: Sequence[str]) -> None:
        """Files that are queued for a pool that is no more go back to all."""
        marks = ", ".join("?" * len(pools))
        await self.run(
            lambda db: db.execute(f"UPDATE documents SET pool = '' WHERE pool != '' AND pool NOT IN ({marks})", pools)
        )

    def loaded(self, row: Row) -> None:
        """From here on the end of the daemon says nothing about the file. Not waited for: a hint."""

        def call(db: sqlite3.Connection) -> None:
            db.execute("UPDATE documents SET loading = 0 WHERE id = ?", (row.id,))

        self._calls.put((call, None))

    async def indexed(
        self,
        row: Row,
        digest: bytes,
        loader: str,
        *,
        chunks: int,
        hashes: bytes | None,
        origin: str | None = None,
        partial: str | None = None,
        warnings: Sequence[str] = (),
        title: str | None = None,
        metadata: dict[str, Any] | None = None,
        event: str = "indexed",
        parts: Collection[str] | None = None,
        copied: tuple[str, bytes] | None = None,
    ) -> Ended:
        """The index has committed the document.

        `hashes` None: those of `origin`'s row, or, without one, the row's own stay. `parts`: the members of all that
        the file has; None: they are as they were. `copied`: those of the file at this place, which has the content.
        """

        def call(db: sqlite3.Connection) -> Ended:
            state = "partial" if partial else "indexed"
            joined = 0
            if copied is not None:
                if not members.unchanged(db, *copied, digest):
                    return self._finish(db, row, "queued", "the copy's origin is gone")
                joined = members.copy(db, row, *copied, time.time())
            elif parts is not None:
                members.ended(db, row, parts, time.time())
            db.execute(
                "UPDATE documents SET indexed_digest = ?, indexed_loader = ?, chunks = ?, title = ?, metadata = ?,"
                " partial = ? WHERE id = ?",
                (digest, loader, chunks, title, json.dumps(metadata) if metadata else None, partial, row.id),
            )
            # A move whose other half was held for a deletion.
            db.execute(
                "UPDATE documents SET state = 'queued', retry_at = 0"
                " WHERE indexed_digest = ? AND gone = 1 AND state = 'held'",
                (digest,),
            )
            if hashes is not None:
                db.execute("INSERT OR REPLACE INTO hashes VALUES (?, ?)", (row.id, hashes))
            elif origin is not None:
                db.execute(
                    "INSERT OR REPLACE INTO hashes SELECT ?, hashes FROM hashes JOIN documents ON id = document"
                    " WHERE indexed_digest = ? AND indexed_loader = ? AND id != ? LIMIT 1",
                    (row.id, digest, loader, row.id),
                )
            db.execute("DELETE FROM strikes WHERE digest = ?", (digest,))
            ended = self._finish(
                db, row, state, event, reason=partial, warnings=json.dumps(list(warnings)) if warnings else None
            )
            return ended._replace(joined=joined)

        return await self.run(call)

    async def settle(
        self,
        row: Row,
        state: str,
        event: str,
        *,
        reason: str | None = None,
        detail: str | None = None,
        retry_in: float = 0,
        keep_warnings: bool = False,
    ) -> Ended:
        """The attempt ended without a new version in the index."""

        def call(db: sqlite3.Connection) -> Ended:
            return self._finish(
                db, row, state, event, reason=reason, detail=detail, retry_at=time.time() + retry_in,
                warnings=row.warnings if keep_warnings else None,
            )  # fmt: skip

        return await self.run(call)

    def _finish(
        self,
        db: sqlite3.Connection,
        row: Row,
        state: str,
        event: str,
        *,
        reason: str | None = None,
        detail: str | None = None,
        retry_at: float = 0,
        warnings: str | None = None,
    ) -> Ended:
        """A file that changed while it was worked on is queued again, whatever came out."""
        ended = db.execute(
            "UPDATE documents SET state = CASE WHEN version = ? THEN ? ELSE 'queued' END, reason = ?, detail = ?,"
            " retry_at = CASE WHEN version = ? THEN ? ELSE retry_at END, warnings = ? WHERE id = ?"
            " RETURNING state, batch",
            (row.version, state, reason, detail, row.version, retry_at, warnings, row.id),
        ).fetchone()
        note(db, row.id, event)
        return Ended(members.follow(db, row, ended[0], reason, time.time()), ended[1])

    async def strike(self, row: Row, digest: bytes | None, loader: str, reason: str, detail: str, limit: int) -> int:
        """Count a failure against the content. Returns how many it has; at `limit` it is quarantined for good.

        A file that failed before its digest was known is counted by its own attempts.
        """

        def call(db: sqlite3.Connection) -> int:
            if digest is None:
                return row.attempts - row.interruptions
            (count,) = db.execute(
                "INSERT INTO strikes VALUES (?, 1, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = count + 1,"
                " quarantined = (count + 1 >= ?), reason = excluded.reason, detail = excluded.detail,"
                " loader = excluded.loader RETURNING count",
                (digest, limit <= 1, reason, detail, loader, limit),
            ).fetchone()
            return int(count)

        return await self.run(call)

    async def interrupted(self, row: Row, reason: str, retry_in: float, *, alone: bool = False) -> Ended:
        """The attempt ended through no fault of the file's that can be shown. `alone`: the next one is to run alone."""
        return await self.run(lambda db: interrupt(db, row, reason, time.time() + retry_in, alone=alone))

    async def release(self, row: Row) -> None:
        """The attempt did not begin."""
        await self.run(
            lambda db: db.execute(
                "UPDATE documents SET state = 'queued', attempts = attempts - 1 WHERE id = ? AND state = 'running'",
                (row.id,),
            )
        )

    async def absolve(
        self, row: Row, digest: bytes | None, reason: str, retry_in: float, *, running: bool = False
    ) -> Ended | None:
        """A failure turned out to have a common cause: the file takes no strike and is tried again later.

        `running`: it is the attempt in hand that ends so. Else it is an earlier one: then another attempt that runs by
        now, and a newer version, are left alone (None).
        """

        def call(db: sqlite3.Connection) -> Ended | None:
            if digest is not None:
                db.execute("DELETE FROM strikes WHERE digest = ?", (digest,))
            changed = db.execute(
                "UPDATE documents SET attempts = 0 WHERE id = ?"
                " AND (? OR (state IN ('failed', 'quarantined') AND version = ?))",
                (row.id, running, row.version),
            ).rowcount
            if not changed:
                return None
            return self._finish(db, row, "failed", reason, reason=reason, retry_at=time.time() + retry_in)

        return await self.run(call)

    async def forget(self, row: Row) -> None:
        """The index lacks vectors that it was thought to have: all of them are to be sent."""

        def call(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM hashes WHERE document = ?", (row.id,))
            db.execute("UPDATE documents SET indexed_digest = NULL, chunks = 0 WHERE id = ?", (row.id,))

        await self.run(call)

    async def disown(self, digest: bytes, loader: str) -> None:
        """The index lacks what it was thought to have of this content: all documents of it are indexed anew."""

        def call(db: sqlite3.Connection) -> None:
            key = (digest, loader)
            where = "WHERE indexed_digest = ? AND indexed_loader = ?"
            db.execute(f"DELETE FROM hashes WHERE document IN (SELECT id FROM documents {where})", key)
            db.execute(
                "UPDATE documents SET indexed_digest = NULL,"
                f" state = CASE WHEN state IN ('indexed', 'partial') THEN 'queued' ELSE state END {where}",
                key,
            )

        await self.run(call)

    async def removed(self, row: Row) -> None:
        """The index has removed the document; a file that came back meanwhile is queued."""

        def call(db: sqlite3.Connection) -> None:
            if db.execute("DELETE FROM documents WHERE id = ? AND version = ?", (row.id, row.version)).rowcount:
                members.orphan(db, row, time.time())
            db.execute("DELETE FROM hashes WHERE document = ?", (row.id,))
            db.execute(
                "UPDATE documents SET state = 'queued', indexed_digest = NULL, chunks = 0 WHERE id = ?", (row.id,)
            )

        await self.run(call)

    async def results(self, batch: int, limit: int, *, final: bool) -> list[Row]:
        """Files of the batch that are done and that this has not given yet. `final`: also what is tried again later."""
        states = "('indexed', 'partial', 'quarantined', 'skipped'" + (", 'failed')" if final else ")")

        def call(db: sqlite3.Connection) -> list[Row]:
            found = [
                Row(*row)
                for row in db.execute(
                    f"SELECT {COLUMNS} FROM documents WHERE batch = ? AND state IN {states} LIMIT ?", (batch, limit)
                )
            ]
            db.executemany("UPDATE documents SET batch = NULL WHERE id = ?", [(row.id,) for row in found])
            return found

        return await self.run(call)

    async def pending(self, batch: int, soon: float) -> int:
        """Whether files of the batch are still to be worked on, now or within `soon` seconds (0: none, else 1)."""

        def call(db: sqlite3.Connection) -> int:
            return len(
                db.execute(
                    "SELECT 1 FROM documents WHERE batch = ? AND (state IN ('queued', 'running')"
                    " OR (state = 'failed' AND retry_at < ?)) LIMIT 1",
                    (batch, time.time() + soon),
                ).fetchall()
            )

        return await self.run(call)

    async def meta(self, key: str, value: str | None = None) -> str | None:
        """A value kept for the daemon; with `value`, set it first."""

        def call(db: sqlite3.Connection) -> str | None:
            if value is not None:
                db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))
            found = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return found[0] if found else None

        return await self.run(call)

    # --- life of the daemon -----------------------------------------------------------------------------------

    async def recover(self) -> int:
        """What was running when the last supervisor ended was interrupted. Returns how many."""

        def call(db: sqlite3.Connection) -> int:
            rows = [Row(*row) for row in db.execute(f"SELECT {COLUMNS} FROM documents WHERE state = 'running'")]
            for row in rows:
                if row.loading:
                    interrupt(db, row, "the daemon ended while the file was loaded", 0)
                else:
                    db.execute("UPDATE documents SET state = 'queued' WHERE id = ?", (row.id,))
            db.execute("UPDATE documents SET batch = NULL WHERE batch IS NOT NULL")
            return len(rows)

        return await self.run(call)

    async def set_back(self, seconds: float) -> None:
        """The system's clock was set back: nothing waits longer for that."""
        await self.run(
            lambda db: db.execute("UPDATE documents SET retry_at = retry_at - ? WHERE retry_at > 0", (seconds,))
        )

    async def relinquish(self) -> None:
        """The daemon stops of its own will: what it leaves unfinished was not interrupted by any fault."""
        await self.run(lambda db: db.execute("UPDATE documents SET loading = 0 WHERE state = 'running'"))

    async def revive(self, loaders: dict[str, str]) -> int:
        """Queue what failed under another version of its loader, or was skipped while other loaders were there."""

        def call(db: sqlite3.Connection) -> int:
            table = json.dumps(loaders, sort_keys=True)
            before = db.execute("SELECT value FROM meta WHERE key = 'loaders'").fetchone()
            if before is not None and before[0] == table:
                return 0
            db.execute("INSERT OR REPLACE INTO meta VALUES ('loaders', ?)", (table,))
            if before is None:
                return 0
            queued = db.execute(
                "UPDATE documents SET state = 'queued', reason = NULL, media_type = NULL WHERE state = 'skipped'"
            ).rowcount
            for id, loader, version in db.execute(
                "SELECT id, loader, loader_version FROM documents"
                " WHERE state IN ('failed', 'quarantined', 'partial') AND loader IS NOT NULL"
            ).fetchall():
                if loaders.get(loader, version) != version:
                    db.execute("UPDATE documents SET state = 'queued', retry_at = 0 WHERE id = ?", (id,))
                    queued += 1
            return queued

        return await self.run(call)

    async def retry(self, ids: Sequence[int]) -> int:
        """Give failed, quarantined, partial and skipped files another try, their strikes forgotten."""
        retried = 0
        for start in range(0, len(ids), RETRIES):
            part = ids[start : start + RETRIES]
            retried += await self.run(lambda db, part=part: retry(db, part))  # type: ignore[misc]
        return retried
