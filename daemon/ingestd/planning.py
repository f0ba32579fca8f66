"""What an `ingest` would do: the same comparison of folder and journal, of which nothing is noted."""

from __future__ import annotations

import asyncio
import functools
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

from ingestd.config.units import spell_size
from ingestd.ingesting import places
from ingestd.journal import Row, at
from ingestd.messages.probe import Manifest
from ingestd.messages.watch import Change
from ingestd.watching import Look

if TYPE_CHECKING:
    from ingestd.daemon import Daemon

AHEAD = 4
"""Frames of findings that wait for their reader."""


async def plan(daemon: Daemon, paths: Sequence[bytes]) -> AsyncIterator[dict[str, Any]]:
    """Yields what would be done to each file that is not unchanged (key `planned`), and the totals last."""
    found: asyncio.Queue[tuple[str, list[Change]]] = asyncio.Queue(AHEAD)

    def look(source: str) -> Look:
        return lambda changes: found.put((source, changes))

    jobs = places(daemon, paths)
    scans = [daemon.watching.scan(table, below, None, look=look(table.name)) for table, below in jobs]
    scanning = asyncio.ensure_future(asyncio.gather(*scans))
    totals: Counter[str] = Counter()
    try:
        while not scanning.done() or not found.empty():
            getting = asyncio.ensure_future(found.get())
            waits: set[asyncio.Future[Any]] = {getting, scanning}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                getting.cancel()
                continue
            source, changes = getting.result()
            rows = await daemon.journal.read(functools.partial(known, source, changes))
            planned = []
            for change, row in zip(changes, rows, strict=True):
                action, reason = judge(change, row)
                totals[action] += 1
                path = daemon.dispatcher.roots.get(source, b"/").rstrip(b"/") + b"/" + change.path
                loader = by_suffix(daemon.plugins.manifest, change.path) if action == "load" else None
                planned.append({"path": path, "action": action, "reason": reason, "loader": loader})
            yield {"planned": planned}
        unchanged: Counter[str] = Counter()
        errors = []
        for scanned in scanning.result():
            unchanged.update(scanned.done)
            errors += [scanned.error] if scanned.error else []
        yield {"load": totals["load"], "remove": totals["remove"], "unchanged": unchanged.total(),
               "quarantined": unchanged["quarantined"], "skipped": unchanged["skipped"], "errors": errors}  # fmt: skip
    finally:
        scanning.cancel()
        await asyncio.gather(scanning, return_exceptions=True)


def known(source: str, changes: Sequence[Change], db: sqlite3.Connection) -> list[Row | None]:
    """What the journal has of each path."""
    return [at(db, source, change.path) for change in changes]


def judge(change: Change, row: Row | None) -> tuple[str, str]:
    """Action and reason."""
    if change.stat is None:
        return "remove", "the file is gone"
    if row is None:
        return "load", "new"
    if row.gone:
        return "load", "it was gone, and is there again"
    if change.known:
        return "load", f"{row.state}: {row.reason}" if row.reason else f"{row.state}, not done yet"
    if row.size != change.stat.size:
        return "load", f"changed: {spell_size(row.size or 0)}, now {spell_size(change.stat.size)}"
    return "load", "its time or place changed; if the content is what it was, nothing is encoded"


def by_suffix(manifest: Manifest, path: bytes) -> str | None:
    """The loader of its suffix; which one it is to be is decided by the first bytes, when it is opened."""
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    return next((item.name for item in manifest.items if item.kind == "loader" and suffix in item.suffixes), None)
