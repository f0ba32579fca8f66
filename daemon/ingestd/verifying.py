"""Folder, journal and index compared, and mended: what `verify` does in a daemon."""

from __future__ import annotations

import asyncio
import functools
import os
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from ingestd import reports
from ingestd.channel import read_blob
from ingestd.errors import IngestdError
from ingestd.journal import mending
from ingestd.messages.index import Finding, IndexRemove
from ingestd.messages.watch import Change
from ingestd.planning import judge, known

if TYPE_CHECKING:
    from ingestd.config import WatchTable
    from ingestd.daemon import Daemon

TICK = 0.25
"""Seconds between two looks at how far it is."""
TOLD = 1_000
"""Findings that the answer lists; the others are counted."""
BLOB_LIMIT = 256 << 20
MENDED = 200
"""Documents that are mended in one call of the journal's writer: others have their turn between them."""


async def verify(daemon: Daemon, *, deep: bool = False, repair: bool = False) -> AsyncIterator[dict[str, Any]]:
    """Yields progress (`done`, `total`), and the result last (it has the key `missing`). Raises `IngestdError`."""
    problems: Counter[str] = Counter()
    findings: list[dict[str, Any]] = []
    repaired = 0
    while True:
        comparing = asyncio.ensure_future(
            daemon.or_failure(
                asyncio.ensure_future(
                    daemon.indexer.compare(str(daemon.state / "journal.sqlite"), deep=deep, repair=repair)
                )
            )
        )
        try:
            while not (await asyncio.wait({comparing}, timeout=TICK))[0]:
                if daemon.indexer.compared is not None:
                    yield {"done": daemon.indexer.compared.done, "total": daemon.indexer.compared.total}
        finally:
            comparing.cancel()
        compared, descriptor = comparing.result()
        found = msgspec.msgpack.decode(read_blob(descriptor, BLOB_LIMIT), type=list[Finding])
        if not repaired:
            problems.update(compared.problems)
        findings += [_told(daemon, finding) for finding in found[: TOLD - len(findings)]]
        if not repair or not found:
            break
        mended = await _mend(daemon, found)
        repaired += mended
        if sum(compared.problems.values()) == len(found) or not mended:
            break
    pending = compared.pending
    # Told of once; after a repair the journal knows them, or they are gone and their files are new.
    unknown = set() if repair else {finding.path for finding in found if not finding.row}
    for table in daemon.config.watch:
        if table.name in daemon.dispatcher.idle_sources:
            continue
        folder = _Folder(daemon, table, unknown)
        await folder.compare()
        problems.update(folder.problems)
        pending += folder.pending
        findings += folder.findings[: TOLD - len(findings)]
        if repair and folder.problems:
            await daemon.watching.scan(table, [b""], None)
            repaired += folder.problems.total()
    yield {
        **{problem: problems[problem] for problem in ("missing", "extra", "stale")},
        "repaired": repaired,
        "pending": pending,
        "documents": compared.documents,
        "chunks": compared.chunks,
        "findings": findings,
    }


def _told(daemon: Daemon, finding: Finding) -> dict[str, Any]:
    path = finding.path
    if not path.startswith(b"/"):
        path = daemon.dispatcher.roots.get(finding.source, b"/").rstrip(b"/") + b"/" + path
    return _finding(finding.problem, finding.source, path, finding.reason)


def _finding(problem: str, source: str, path: bytes, reason: str) -> dict[str, Any]:
    return {"problem": problem, **reports.path_fields(path), "source": source, "reason": reason}


async def _mend(daemon: Daemon, found: Sequence[Finding]) -> int:
    """How many documents were queued, or removed from the index since they are nobody's."""
    mended = 0
    for start in range(0, len(found), MENDED):
        part = found[start : start + MENDED]

        def call(db: sqlite3.Connection, part: Sequence[Finding] = part) -> list[mending.Mended]:
            return [mending.mend(db, finding) for finding in part]

        for finding, outcome in zip(part, await daemon.journal.run(call), strict=True):
            if outcome == "remove":
                await daemon.indexer.write(functools.partial(_removal, finding.doc_id))
            mended += outcome != "moved"
    daemon.dispatcher.wanted.set()
    daemon.dispatcher.wake()
    return mended


def _removal(doc_id: str, job: int) -> IndexRemove:
    return IndexRemove(job=job, doc_id=doc_id)


@dataclass
class _Folder:
    """How a source differs from the journal. `unknown`: paths that are told of already, as extra in the index."""

    daemon: Daemon
    table: WatchTable
    unknown: Collection[bytes]
    problems: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)
    pending: int = 0

    async def compare(self) -> None:
        scanned = await self.daemon.watching.scan(self.table, [b""], None, look=self._look)
        if scanned.error:
            raise IngestdError(
                f"source {self.table.name} cannot be compared: {scanned.error}", command="ingestd doctor"
            )

    async def _look(self, changes: list[Change]) -> None:
        source = self.table.name
        root = os.fsencode(self.table.directory).rstrip(b"/") + b"/"
        rows = await self.daemon.journal.read(functools.partial(known, source, changes))
        for change, row in zip(changes, rows, strict=True):
            path = root + change.path
            if row is not None and (row.state in ("queued", "running") or row.gone or change.known):
                self.pending += 1
            elif row is not None or path not in self.unknown:
                problem = "extra" if change.stat is None else "stale" if row is not None else "missing"
                self.problems[problem] += 1
                if len(self.findings) < TOLD:
                    self.findings.append(_finding(problem, source, path, f"in the folder: {judge(change, row)[1]}"))
