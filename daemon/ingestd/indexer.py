"""Operations on the index worker. Whatever happens to it, an operation is sent until it is durable."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from ingestd.errors import IndexUnavailableError, IngestdError, UnreachableError
from ingestd.messages.index import (
    IndexCompare,
    IndexCompared,
    IndexComparing,
    IndexDocument,
    IndexRead,
    IndexRemove,
    IndexSearch,
    IndexUnavailable,
    IndexWritten,
)
from ingestd.slots import Pool
from ingestd.supervisor import Worker, WorkerDied

log = logging.getLogger("ingestd.index")

SUSPECT_AFTER = 2
"""Index workers that died with an operation in hand before it is tried alone."""
POISON_FAILURES = 2
"""Times that an operation, alone, must break a sink that works before it is refused."""
DOUBTFUL = 8
"""Operations refused in a row that may be at fault; from then on it is the sink, until it has written another."""
OUT_OF_ORDER = 30.0
"""Seconds for which the sink did nothing but fail after which `ingest` does not wait for it any more."""
SILENCE = 300.0
"""Seconds without an answer after which a sink with writes in hand counts as hung."""
SEARCH_SILENCE = 60.0
"""The same for a search."""
SEARCH_DEATHS = 2
"""Index workers that may die of a search."""
NOBODY = "0" * 32
"""The id of no document; to remove it shows whether the sink works."""


class Indexer:
    """Operations on the index worker. Whatever happens to it, an operation is sent until it is durable."""

    pool: Pool

    def __init__(self) -> None:
        self.sink = "the sink"
        """As messages name it."""
        self.trouble: str | None = None
        self.wanted = asyncio.Event()
        self.compared: IndexComparing | None = None
        """How far a comparison is."""
        self._numbers = itertools.count(1)
        self._worker: Worker | None = None
        self._available = asyncio.Event()
        self._gate = asyncio.Lock()
        self._writing = 0
        self._quiet = asyncio.Event()
        """Nothing is being written."""
        self._quiet.set()
        self._heard = 0.0
        """When the writes in hand began, or one of them was answered."""
        self._done = 0
        """Documents written."""
        self._refused = 0
        """Since one was written."""
        self._failing: float | None = None
        """Since when the sink does nothing but fail."""

    async def serve(self, worker: Worker) -> None:
        """Lend the worker to `call` for its whole life."""
        self._worker = worker
        worker.on_frame = functools.partial(self._told, worker)
        self._available.set()
        try:
            while not worker.died.done():
                await asyncio.wait({worker.died}, timeout=SILENCE / 8)
                silence = time.monotonic() - self._heard
                if self._writing and silence > SILENCE and not worker.died.done():
                    worker.capture_stack()
                    await asyncio.sleep(0.2)
                    worker.kill("limit", f"{self.sink} gave no answer for {silence:.0f} s")
            raise worker.died.result()
        finally:
            self._worker = None
            self._available.clear()

    async def write(self, make: Callable[[int], Any], descriptors: Sequence[int] = ()) -> IndexWritten:
        """Send the operation that `make` builds from a job number; durable when this returns.

        What kills the worker, or breaks the sink, is refused only if it does so alone and the sink works otherwise: it
        wrote another document since, or it can remove one that is not there. Else the sink is at fault: nothing is
        blamed, and the operation waits.
        """
        delay = 0.5
        deaths = failures = 0
        done: int | None = None
        while True:
            alone = deaths >= SUSPECT_AFTER
            async with self._turn(alone):
                answer = await self._ask(make, descriptors)
                if isinstance(answer, IndexWritten) and not answer.broken:
                    self.trouble = self._failing = None
                    if answer.error is None and not answer.missing:
                        self._done += 1
                        self._refused = 0
                    return answer
                reason = getattr(answer, "reason", None) or getattr(answer, "error", None) or "unexpected answer"
                done = self._done if done is None else done
                if isinstance(answer, WorkerDied):
                    if answer.cause in ("external", "stopped"):
                        continue
                    deaths += 1
                    if not alone:
                        continue
                    reason = f"it kills the index worker: {reason}"
                if not isinstance(answer, IndexUnavailable):
                    failures += 1
                    if failures >= POISON_FAILURES and (self._done > done or await self._works(alone)):
                        self._refused += 1
                        self.trouble = self._failing = None
                        return IndexWritten(job=0, error=reason)
            self._fails(reason)
            if self._failing is None and not isinstance(answer, IndexUnavailable):
                self._failing = time.monotonic()
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)

    @property
    def failed(self) -> IngestdError | None:
        """Why nobody should wait for the sink: it does not say that it is away, it fails."""
        if self._failing is None or time.monotonic() - self._failing < OUT_OF_ORDER:
            return None
        return UnreachableError(f"the index cannot be written: {self.trouble}", command="ingestd plugins")

    async def _ask(self, make: Callable[[int], Any], descriptors: Sequence[int] = ()) -> Any:
        """The answer, or the death of the worker."""
        worker = await self._current()
        worker.state = "running"
        try:
            answer, extra = await worker.call(make(next(self._numbers)), descriptors)
        except WorkerDied as death:
            return death
        worker.served += 1
        self._heard = time.monotonic()
        for descriptor in extra:
            os.close(descriptor)
        return answer

    @contextlib.asynccontextmanager
    async def _turn(self, alone: bool) -> AsyncIterator[None]:
        """To write beside others; or `alone`, when they are done and before any further one begins."""
        await self._gate.acquire()
        try:
            if alone:
                await self._quiet.wait()
        except BaseException:
            self._gate.release()
            raise
        if not self._writing:
            self._heard = time.monotonic()
            self._quiet.clear()
        self._writing += 1
        if not alone:
            self._gate.release()
        try:
            yield
        finally:
            self._writing -= 1
            if not self._writing:
                self._quiet.set()
                if self._worker is not None and not self._worker.died.done():
                    self._worker.state = "idle"
            if alone:
                self._gate.release()

    async def _works(self, alone: bool) -> bool:
        """Whether the sink can write at all; so many refusals in a row say that it cannot."""
        if self._refused >= DOUBTFUL:
            return False
        answer = await self._ask(lambda job: IndexRemove(job=job, doc_id=NOBODY))
        return isinstance(answer, IndexWritten) and answer.error is None

    def _fails(self, reason: str) -> None:
        """The sink is at fault, or away."""
        if self.trouble is None:
            log.error("the index cannot be written: %s; ingestion waits", reason)
        self.trouble = reason

    async def search(self, **query: Any) -> tuple[str | None, int | None]:
        """(error, descriptor of the hits), one of them None."""
        deaths = 0
        while True:
            worker = await self._current()
            try:
                async with asyncio.timeout(SEARCH_SILENCE):
                    answer, descriptors = await worker.call(IndexSearch(job=next(self._numbers), **query))
            except TimeoutError:
                reason = f"{self.sink} gave no answer to a search for {SEARCH_SILENCE:.0f} s"
                worker.capture_stack()
                worker.kill("stopped", reason)
                return reason, None
            except WorkerDied as death:
                deaths += death.cause not in ("external", "stopped")
                if deaths >= SEARCH_DEATHS:
                    return f"the index worker dies of the question: {death.reason}", None
                continue
            error = getattr(answer, "error", "unexpected answer")
            if error is None and len(descriptors) == 1:
                return None, descriptors[0]
            for descriptor in descriptors:
                os.close(descriptor)
            return error or "no result came back", None

    async def read(self, doc_id: str) -> tuple[IndexDocument, list[int]]:
        """A document as it is stored, and descriptors of its chunks and of their texts, where it is there."""
        deaths = 0
        while deaths < SEARCH_DEATHS:
            worker = await self._current()
            try:
                answer, descriptors = await worker.call(IndexRead(job=next(self._numbers), doc_id=doc_id))
            except WorkerDied as death:
                deaths += death.cause not in ("external", "stopped")
                continue
            if isinstance(answer, IndexDocument) and len(descriptors) == (2 if answer.document is not None else 0):
                return answer, descriptors
            for descriptor in descriptors:
                os.close(descriptor)
            break
        return IndexDocument(job=0, error="it cannot be read from the index"), []

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
