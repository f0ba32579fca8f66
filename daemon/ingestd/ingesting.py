"""What `ingest` does in a daemon: folders compared with the journal, and every difference seen through to its end."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from ingestd import reports
from ingestd.batches import Batch
from ingestd.channel import FRAME_LIMIT
from ingestd.config import WatchTable
from ingestd.errors import UsageError
from ingestd.types import display

if TYPE_CHECKING:
    from ingestd.daemon import Daemon

SOURCE: Final = "ingest"
"""The source of files that `ingest` was given and that lie in no watched directory; its root is `/`."""
RESULTS: Final = 200
"""Files told of at once."""
TICK: Final = 0.2
"""Seconds between two looks at the progress."""


async def ingest(daemon: Daemon, paths: Sequence[bytes], *, results: bool = False) -> AsyncIterator[dict[str, Any]]:
    """Take in files and directories; yields progress, and the summary last (it has the key `seconds`).

    With `results` some of the progress has the key `results`: files that were worked on, each once.
    """
    began = time.monotonic()
    number = next(daemon.batch_numbers)
    jobs = places(daemon, paths)
    batch = daemon.dispatcher.batches[number] = Batch(number)
    try:
        scans = [daemon.watching.scan(table, below, number) for table, below in jobs]
        scanning = asyncio.ensure_future(asyncio.gather(*scans))
        scanning.add_done_callback(lambda done: done.cancelled() or done.exception())  # who asked may be gone
        adopted = False
        while True:
            if scanning.done():
                await asyncio.sleep(TICK)
            done, _ = await asyncio.wait({scanning}, timeout=TICK)
            if done and not adopted:
                adopted = True
                for table, below in jobs:
                    batch.total += await daemon.journal.adopt(number, table.name, below)
                daemon.dispatcher.wake()
            pending = await daemon.journal.pending(number, 20.0)
            current = [display(w.path) for pool in daemon.load_pools for w in pool.workers if w.path]
            told = batch.progress(current, scanning=not done, seconds=time.monotonic() - began)
            final = bool(done) and not pending
            while results and (rows := await daemon.journal.results(number, RESULTS, final=final)):
                found = [reports.result(daemon.dispatcher.document_path(row), row) for row in rows]
                yield {**told, "results": found}
            yield told
            if final:
                break
            for pool in (daemon.load_pool, daemon.encode_pool, daemon.index_pool):
                if pool.failed.done():
                    raise pool.failed.result()
            if daemon.indexer.failed is not None:
                raise daemon.indexer.failed
        yield batch.summary(scanning.result(), time.monotonic() - began)
    finally:
        daemon.dispatcher.batches.pop(number, None)


def places(daemon: Daemon, paths: Sequence[bytes]) -> list[tuple[WatchTable, list[bytes]]]:
    """The paths by the source that they belong to, in parts that a frame holds. Raises `UsageError`."""
    found: dict[str, tuple[WatchTable, list[bytes]]] = {}
    for path in paths:
        table, below = place(daemon, path)
        if table.name in daemon.dispatcher.stopped:
            raise UsageError(f"source {table.name} is paused", command=f"ingestd resume {table.name}")
        found.setdefault(table.name, (table, []))[1].append(below)
    return [(table, part) for table, below in found.values() for part in _frames(below)]


def place(daemon: Daemon, path: bytes) -> tuple[WatchTable, bytes]:
    """The source that a path belongs to, and its place there: the innermost, where one lies in another."""
    found, below = WatchTable(name=SOURCE, directory="/"), path.lstrip(b"/")
    for table in daemon.config.watch:
        root = os.fsencode(table.directory).rstrip(b"/")
        if (path == root or path.startswith(root + b"/")) and len(path) - len(root) - 1 <= len(below):
            found, below = table, path[len(root) + 1 :]
    return found, below


def _frames(paths: Sequence[bytes]) -> Iterator[list[bytes]]:
    """The paths in as many parts as frames are needed for them."""
    part: list[bytes] = []
    size = 0
    for path in paths:
        if part and size + len(path) > FRAME_LIMIT // 2:
            yield part
            part, size = [], 0
        part.append(path)
        size += len(path) + 8
    yield part
