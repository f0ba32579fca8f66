"""Operations on the index worker. Whatever happens to it, an operation is sent until it is durable."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from ingestd.errors import IndexUnavailableError
from ingestd.messages import IndexCompare, IndexCompared, IndexComparing, IndexSearch, IndexUnavailable, IndexWritten
from ingestd.slots import Pool
from ingestd.supervisor import Worker, WorkerDied

log = logging.getLogger("ingestd.index")

INDEX_DEATHS = 10
"""Index workers that may die with a document in hand before it is quarantined."""


class Indexer:
    """Operations on the index worker. Whatever happens to it, an operation is sent until it is durable."""

    pool: Pool

    def __init__(self) -> None:
        self.trouble: str | None = None
        self.wanted = asyncio.Event()
        self.compared: IndexComparing | None = None
        """How far a comparison is."""
        self._numbers = itertools.count(1)
        self._worker: Worker | None = None
        self._writing = 0
        self._available = asyncio.Event()

    async def serve(self, worker: Worker) -> None:
        """Lend the worker to `call` for its whole life."""
        self._worker = worker
        worker.on_frame = functools.partial(self._told, worker)
        self._available.set()
        try:
            raise await asyncio.shield(worker.died)
        finally:
            self._worker = None
            self._available.clear()

    async def write(self, make: Callable[[int], Any], descriptors: Sequence[int] = ()) -> IndexWritten:
        """Send the operation that `make` builds from a job number; durable when this returns."""
        delay = 0.5
        deaths = 0
        while True:
            worker = await self._current()
            worker.state = "running"
            self._writing += 1
            try:
                answer, extra = await worker.call(make(next(self._numbers)), descriptors)
            except WorkerDied as death:
                deaths += death.cause not in ("external", "stopped")
                if deaths >= INDEX_DEATHS:
                    return IndexWritten(job=0, error=f"it kills the index worker: {death.reason}")
                continue
            finally:
                self._writing -= 1
                if not self._writing and not worker.died.done():
                    worker.state = "idle"
            for descriptor in extra:
                os.close(descriptor)
            if isinstance(answer, IndexWritten):
                self.trouble = None
                return answer
            reason = answer.reason if isinstance(answer, IndexUnavailable) else f"unexpected {type(answer).__name__}"
            if self.trouble is None:
                log.error("the index cannot be written: %s; ingestion waits", reason)
            self.trouble = reason
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)

    async def search(self, **query: Any) -> tuple[str | None, int | None]:
        """(error, descriptor of the hits), one of them None."""
        while True:
            worker = await self._current()
            try:
                answer, descriptors = await worker.call(IndexSearch(job=next(self._numbers), **query))
            except WorkerDied:
                continue
            error = getattr(answer, "error", "unexpected answer")
            if error is None and len(descriptors) == 1:
                return None, descriptors[0]
            for descriptor in descriptors:
                os.close(descriptor)
            return error or "no result came back", None

    async def compare(self, journal: str, *, deep: bool, repair: bool) -> tuple[IndexCompared, int]:
        """The answer and the descriptor of its findings. Raises `IngestdError`; `WorkerDied` is not tried again."""
        worker = await self._current()
        self.compared = None
        frame = IndexCompare(job=next(self._numbers), journal=journal, deep=deep, repair=repair)
        try:
            answer, descriptors = await worker.call(frame)
        except WorkerDied as death:
            raise IndexUnavailableError(f"the index worker died during the comparison: {death.reason}") from None
        if isinstance(answer, IndexCompared) and answer.error is None and len(descriptors) == 1:
            return answer, descriptors[0]
        for descriptor in descriptors:
            os.close(descriptor)
        raise IndexUnavailableError(f"the index cannot be compared: {getattr(answer, 'error', 'unexpected answer')}")

    def _told(self, worker: Worker, frame: Any, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(frame, IndexComparing):
            self.compared = frame
        else:
            worker.kill("protocol", f"sent a {type(frame).__name__} frame that nobody asked for")

    async def _current(self) -> Worker:
        self.wanted.set()
        while self._worker is None or self._worker.died.done():
            self._available.clear()
            await self._available.wait()
        return self._worker
