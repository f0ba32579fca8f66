"""Feeding the encode workers: a window of documents in flight to each device, nothing lost when one dies."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingestd.channel import read_blob, write_blob
from ingestd.errors import IngestdError
from ingestd.messages.encode import (
    Encode,
    Encoded,
    EncodeFailed,
    EncodeQuery,
    EncoderLoad,
    QueryVector,
    Tokenize,
    Tokenized,
)
from ingestd.slots import Pool
from ingestd.supervisor import Worker, WorkerDied

log = logging.getLogger("ingestd.encode")

WINDOW_SECONDS = 2.0
"""Work that is in flight to a device: it never waits, and little is done again when it dies."""
WINDOW_TOKENS = 16_384
"""The least window, for a device whose rate is not known yet."""
WINDOW_DOCUMENTS = 256
WINDOW_AHEAD = 2
"""Windows that may be in flight to a device for the sake of documents that are ahead of others."""
SILENCE = 60.0
"""Seconds without a frame after which an encoder that has work counts as hung; it speaks once a second."""
SLOWEST = 100.0
"""Tokens per second of a device whose rate is not known yet, at the worst."""
SUSPECT_AFTER = 2
"""Encoders that died with a document in flight before it is tried alone."""
POISON_KILLS = 2
"""Fresh encoders that a single chunk must kill, alone, to be poison."""
EXTERNAL_LIMIT = 10
"""The same for kills from outside, which say little about the chunk."""


class PoisonError(IngestdError):
    """A chunk that alone kills encoders, or that the engine refuses."""


@dataclass(slots=True, eq=False)
class Job:
    """One document's fresh chunks on their way to vectors."""

    number: int
    descriptor: int
    texts: int
    tokens: int
    done: asyncio.Future[int]
    """The descriptor of the vectors."""
    ahead: bool = False
    """Before all that are not; the encoder too computes it before what it has in hand."""
    deaths: int = 0
    suspects: list[tuple[int, int, int, int]] = field(default_factory=list)
    """(start, stop, kills, kills from outside): ranges of chunks still to be tried alone."""
    parts: list[tuple[int, int]] = field(default_factory=list)
    """(start, descriptor of the vectors): ranges that went well alone."""

    def joined(self) -> int:
        """The vectors of all parts in one blob, copied by the kernel. Returns its descriptor."""
        whole = os.memfd_create("ingestd", os.MFD_CLOEXEC)
        for _, part in sorted(self.parts):
            position, size = 0, os.fstat(part).st_size
            while position < size:
                position += os.sendfile(whole, part, position, size - position)
        return whole

    def drop_parts(self) -> None:
        while self.parts:
            os.close(self.parts.pop()[1])


class Encoders:
    """The pool of encode workers. `pool` is set by the daemon."""

    pool: Pool

    def __init__(self) -> None:
        self.engine = ""
        """As messages name it."""
        self.wanted = asyncio.Event()
        """Set at the first need, so that a run over unchanged files never loads the model."""
        self.rates: dict[Worker, float] = {}
        """Tokens per second while busy."""
        self.busy: dict[Worker, float] = {}
        self.spent = dict.fromkeys(("busy", "input", "output", "rest"), 0.0)
        """Seconds that all devices told of, by what they did: "busy", "input" and "output" (waiting), "rest"."""
        self.tokens = 0
        self._numbers = itertools.count(1)
        self._queue: deque[Job] = deque()
        self._ahead: deque[Job] = deque()
        self._turns: list[asyncio.Event] = []
        self._loads: dict[Worker, float] = {}
        """Tokens in flight."""

    @property
    def tokens_per_second(self) -> float:
        """Of all devices together, while they are busy; 0 where it is not known yet."""
        return sum(self.rates.values())

    async def encode(self, descriptor: int, texts: int, tokens: int, *, ahead: bool = False) -> int:
        """Vectors of a blob of token ids, as a descriptor that the caller owns. Raises `PoisonError`.

        The blob's descriptor stays the caller's. `ahead`: the document overtakes the backlog.
        """
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        job = Job(next(self._numbers), descriptor, texts, tokens, done, ahead)
        self._put(job)
        return await job.done

    async def vectors(self, texts: bytes, scratch: Path, *, query: bool) -> bytes:
        """float32 (texts, dims), raw, of texts (msgpack list of str), ahead of the backlog. Raises `IngestdError`."""
        blob = write_blob([texts], scratch)
        try:
            tokens, told = await self.tokenize(blob, query=query)
        finally:
            os.close(blob)
        try:
            found = await self.encode(tokens, told.texts, told.tokens, ahead=True)
        finally:
            os.close(tokens)
        return read_blob(found)

    async def query(self, text: str) -> bytes:
        """The vector of a question, ahead of everything that waits."""
        answer, descriptors = await self._between(lambda job: EncodeQuery(job=job, text=text), [], "the question")
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(answer, QueryVector):
            return answer.vector
        raise IngestdError(f"the question cannot be encoded: {getattr(answer, 'reason', answer)}")

    async def tokenize(self, texts: int, *, query: bool) -> tuple[int, Tokenized]:
        """Token ids of a blob of texts (msgpack), as a descriptor that the caller owns. Raises `IngestdError`."""
        answer, descriptors = await self._between(lambda job: Tokenize(job=job, query=query), [texts], "the texts")
        if isinstance(answer, Tokenized) and len(descriptors) == 1:
            return descriptors[0], answer
        for descriptor in descriptors:
            os.close(descriptor)
        raise IngestdError(f"the texts cannot be encoded: {getattr(answer, 'reason', answer)}")

    async def _between(
        self, frame: Callable[[int], Any], descriptors: Sequence[int], what: str
    ) -> tuple[Any, list[int]]:
        """Ask the encoder that has the least to do, between its batches; another one, should it die.

        A death with documents in flight says as little about the question as a kill from outside.
        """
        self.wanted.set()
        deaths = shared = 0
        while deaths < POISON_KILLS and shared < EXTERNAL_LIMIT:
            await self.pool.ready.wait()
            workers = [worker for worker in self.pool.workers if worker.state in ("idle", "running")]
            if not workers:
                await asyncio.sleep(0.05)
                continue
            worker = min(workers, key=lambda worker: self.busy.get(worker, 0.0))
            company = bool(self._loads.get(worker))
            try:
                async with asyncio.timeout(2 * SILENCE):
                    return await worker.call(frame(next(self._numbers)), descriptors)
            except TimeoutError:
                worker.kill("limit", f"no answer about {what} for {2 * SILENCE:.0f} s")
                deaths += 1
            except WorkerDied as death:
                if company or self._loads.get(worker):
                    shared += 1
                else:
                    deaths += death.cause not in ("external", "stopped")
        raise IngestdError(f"{what} cannot be encoded: encoders die of it")

    def _put(self, job: Job, *, first: bool = False) -> None:
        self.wanted.set()
        queue = self._ahead if job.ahead else self._queue
        if first:
            queue.appendleft(job)
        else:
            queue.append(job)
        for turn in self._turns:
            turn.set()

    def _take(self, company: bool, room: float) -> Job | None:
        """The next document; a suspect only for an encoder that has nothing else in hand.

        `room`: the share of the window that is free. The window is no reason to wait for one that is ahead.
        """
        for queue, least in ((self._ahead, 1.0 - WINDOW_AHEAD), (self._queue, 0.0)):
            if room <= least:
                continue
            for job in queue:
                if job.deaths < SUSPECT_AFTER or not company:
                    queue.remove(job)
                    return job
        return None

    def _others_first(self, worker: Worker) -> bool:
        """Whether another device would begin sooner: the window of one is no reason for the other to wait."""
        if len(self._loads) == 1:
            return False
        mean = self.tokens_per_second / len(self.rates) if self.rates else 1.0
        seconds = {one: load / (self.rates.get(one) or mean) for one, load in self._loads.items()}
        return seconds[worker] > min(seconds.values())

    async def serve(self, worker: Worker) -> None:
        """Feed one encoder for its whole life."""
        flight: dict[int, Job] = {}
        turn = asyncio.Event()
        self._turns.append(turn)
        self._loads[worker] = 0.0
        worker.on_frame = lambda frame, descriptors: self._heard(worker, frame, descriptors)
        worker.died.add_done_callback(lambda _: turn.set())

        def answered(job: Job, future: asyncio.Future[tuple[Any, list[int]]]) -> None:
            turn.set()
            if not future.cancelled() and future.exception() is None:
                del flight[job.number]
                self._loads[worker] -= job.tokens
                worker.state = "running" if flight else "idle"
                self._answered(job, *future.result())

        async def look() -> None:
            """Wake up now and then: a timeout for each wait would cost more than all the rest."""
            while True:
                await asyncio.sleep(SILENCE / 4)
                turn.set()

        looking = asyncio.create_task(look())
        try:
            while True:
                if worker.died.done():
                    raise worker.died.result()
                window = max(WINDOW_TOKENS, self.rates.get(worker, 0.0) * WINDOW_SECONDS)
                load = self._loads[worker]
                room = 1.0 - max(load / window, len(flight) / WINDOW_DOCUMENTS) if flight else 1.0
                job = self._take(bool(flight), room) if not flight or not self._others_first(worker) else None
                if job is None:
                    turn.clear()
                    await turn.wait()
                    if flight and time.monotonic() - worker.last_frame > SILENCE:
                        await self._check_silence(worker, flight.values())
                    continue
                worker.served += 1
                if job.done.done():  # its document was given up
                    job.drop_parts()
                    continue
                if job.deaths >= SUSPECT_AFTER:
                    self._loads[worker] = math.inf
                    await self._isolate(worker, job)
                    self._loads[worker] = 0.0
                    continue
                if not flight:
                    worker.last_frame = time.monotonic()
                flight[job.number] = job
                self._loads[worker] = load + job.tokens
                for other in self._turns:
                    if other is not turn:  # it may have left this document to this device
                        other.set()
                worker.state = "running"
                answer = await worker.ask(Encode(job=job.number, ahead=job.ahead), [job.descriptor])
                answer.add_done_callback(functools.partial(answered, job))
        except WorkerDied as death:
            for job in flight.values():
                # Kills from outside say nothing about what was in flight.
                job.deaths += death.cause not in ("external", "stopped")
            raise
        finally:
            looking.cancel()
            self._turns.remove(turn)
            self._loads.pop(worker, None)
            for job in reversed(list(flight.values())):
                self._put(job, first=True)
            self.rates.pop(worker, None)
            self.busy.pop(worker, None)

    def _patience(self, worker: Worker, flight: Iterable[Job]) -> float:
        """Seconds of silence that are no sign of a hang: it cannot speak while it computes one batch."""
        largest = max(job.tokens / max(1, job.texts) for job in flight)
        return SILENCE + largest / max(self.rates.get(worker, 0.0), SLOWEST)

    def _answered(self, job: Job, answer: Any, descriptors: list[int]) -> None:
        if isinstance(answer, Encoded) and len(descriptors) == 1 and not job.done.done():
            self.tokens += answer.tokens
            job.done.set_result(descriptors[0])
            return
        for descriptor in descriptors:
            os.close(descriptor)
        if not job.done.done():
            reason = answer.reason if isinstance(answer, EncodeFailed) else f"unexpected {type(answer).__name__} frame"
            job.done.set_exception(PoisonError(reason))

    def _heard(self, worker: Worker, frame: Any, descriptors: list[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(frame, EncoderLoad):
            self.busy[worker] = frame.busy
            share = {"busy": frame.busy, **{cause: frame.idle.get(cause, 0.0) for cause in ("input", "output")}}
            share["rest"] = max(0.0, 1.0 - sum(share.values()))
            for what, seconds in share.items():  # it speaks once a second
                self.spent[what] += seconds
            if frame.busy > 0.05 and frame.tokens:
                rate = frame.tokens / frame.busy
                self.rates[worker] = 0.7 * self.rates.get(worker, rate) + 0.3 * rate

    async def _alone(self, worker: Worker, job: Job, frame: Encode) -> tuple[Any, list[int]]:
        """Ask with nothing else in flight; a hang is a death like any other. Raises `WorkerDied`."""
        worker.last_frame = time.monotonic()
        worker.state = "running"
        answer = await worker.ask(frame, [job.descriptor])
        while True:
            await asyncio.wait({answer}, timeout=SILENCE / 4)
            if answer.done():
                answered = answer.result()
                worker.state = "idle"
                return answered
            await self._check_silence(worker, [job])

    async def _check_silence(self, worker: Worker, flight: Iterable[Job]) -> None:
        silence = time.monotonic() - worker.last_frame
        if silence > self._patience(worker, flight):
            worker.capture_stack()
            await asyncio.sleep(0.2)
            worker.kill("limit", f"no answer for {silence:.0f} s")

    async def _isolate(self, worker: Worker, job: Job) -> None:
        """Try a suspect alone, by halves, until one chunk is shown to kill fresh encoders, or none does."""
        if not job.suspects:
            job.suspects = [(0, job.texts, 0, 0)]
        while job.suspects and not job.done.done():
            start, stop, kills, outside = job.suspects.pop()
            try:
                answer, descriptors = await self._alone(worker, job, Encode(job=job.number, start=start, stop=stop))
            except WorkerDied as death:
                if death.cause in ("external", "stopped"):
                    outside += 1
                else:
                    kills += 1
                if stop - start > 1 and kills >= 1:
                    middle = (start + stop) // 2
                    job.suspects += [(start, middle, 0, 0), (middle, stop, 0, 0)]
                elif kills >= POISON_KILLS or outside >= EXTERNAL_LIMIT:
                    told = f"{death.reason}, with {self.engine}" if self.engine else death.reason
                    reason = f"chunk {start + 1} kills the encoder: {told}"
                    log.error("%s", reason)
                    if not job.done.done():
                        job.done.set_exception(PoisonError(reason))
                    job.drop_parts()
                    raise
                else:
                    job.suspects.append((start, stop, kills, outside))
                self._put(job, first=True)
                raise
            if not isinstance(answer, Encoded) or len(descriptors) != 1:
                self._answered(job, answer, descriptors)
                break
            self.tokens += answer.tokens
            job.parts.append((start, descriptors[0]))
        if not job.done.done():  # alone it does no harm, or only whole
            job.done.set_result(job.joined())
        job.drop_parts()
