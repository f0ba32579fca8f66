"""Slots: coroutines that each keep one worker alive; the same code for every stage."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import itertools
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ingestd import process
from ingestd.errors import IngestdError
from ingestd.supervisor import StartError, Worker, WorkerDied, abandoned

log = logging.getLogger("ingestd.supervisor")

ABANDONED_LIMIT = 8
START_ATTEMPTS = 3
"""Failed starts in a row after which a stage counts as broken; it goes on trying, slowly."""
OUTSIDE_ATTEMPTS = 10
"""The same where the last one was killed from outside."""
_serials = itertools.count(1)


class Turns:
    """Whose turn it is to take the next job of a pool that has a spare.

    As many workers as the pool's `size` work at once. One that stands still does not count, so that a job that hangs
    costs the others nothing: the spare takes its place at once, and the next one when it is killed. Of those that wait
    the one that has served most goes first: the spare stays fresh and small until it is needed.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.working: set[Worker] = set()
        self._waiting: list[Worker] = []

    @contextlib.contextmanager
    def waiting(self, worker: Worker) -> Iterator[None]:
        """The worker wants a job."""
        self._waiting.append(worker)
        try:
            yield
        finally:
            self._waiting.remove(worker)

    def first(self, worker: Worker) -> bool:
        """Whether the next job is for this one of those that wait."""
        busy = sum(not other.still for other in self.working)
        return busy < self.size and worker is max(self._waiting, key=lambda other: other.served)


@dataclass
class Pool:
    """The slots of one stage. Each is one coroutine, `_slot`, which reads like the life of a worker."""

    stage: str
    size: int
    settings: Callable[[int], Mapping[str, Any]]
    """Settings of the worker in the slot of that number; read anew at each start."""
    serve: Callable[[Worker], Awaitable[None]]
    """Give the worker work until it dies (`WorkerDied`), is `leaving`, or is not needed any more."""
    scratch: Path
    prefix: str
    """Of all tokens of this daemon."""
    start_timeout: float = 60.0
    spare: bool = False
    """Have one slot more than `size`, since imports cost seconds: a warm worker that is there when another one is not.
    `serve` says whose turn it is, see `Turns`."""
    on_exit: Callable[[Worker, WorkerDied], None] = lambda worker, death: None

    def __post_init__(self) -> None:
        self.workers: set[Worker] = set()
        self.ready = asyncio.Event()
        self.trouble: str | None = None
        self.restarts = 0
        self.failed: asyncio.Future[StartError] = asyncio.get_running_loop().create_future()
        """Set when no worker of this stage could be started `START_ATTEMPTS` times in a row."""
        self._slots: dict[int, asyncio.Task[None]] = {}

    def open(self) -> None:
        """Start the slots, those that are missing."""
        for number in range(self.size + self.spare):
            if number not in self._slots:
                self._slots[number] = asyncio.create_task(self._slot(number), name=f"{self.stage} {number}")
                self._slots[number].add_done_callback(self._ended)

    @property
    def is_open(self) -> bool:
        """Whether it has slots."""
        return bool(self._slots)

    def resize(self, size: int) -> None:
        """Have so many slots from now on. One too many ends with the job that its worker has in hand."""
        self.size = size
        for worker in self.workers:
            worker.leaving = worker.leaving or worker.slot >= size + self.spare
        if self._slots:
            self.open()

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A slot ends by an error only if ingestd has one: then nothing may wait for its work for ever."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        self.trouble = f"a slot of the {self.stage} workers ended: {error!r}"
        log.error("%s", self.trouble, exc_info=error)
        if not self.failed.done():
            self.failed.set_result(StartError(self.trouble, fatal=True))

    def renew(self) -> None:
        """Have every worker replaced before its next job: the settings changed."""
        for worker in self.workers:
            worker.leaving = True

    async def close(self) -> None:
        """End the slots; their workers climb down the ladder."""
        for task in self._slots.values():
            task.cancel()
        await asyncio.gather(*self._slots.values(), return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in list(self.workers)), return_exceptions=True)
        self.workers.clear()

    async def _slot(self, number: int) -> None:
        backoff = 0.2
        failures = 0
        if number >= self.size:  # the spare does not slow the start of those that are needed
            await self.ready.wait()
        while True:
            if number >= self.size + self.spare:
                del self._slots[number]
                return
            try:
                worker = await self._start(number)
            except StartError as error:
                failures += 1
                self.trouble = error.message
                log.log(logging.WARNING if failures <= START_ATTEMPTS else logging.DEBUG, "%s", error.message)
                broken = failures >= (OUTSIDE_ATTEMPTS if error.outside else START_ATTEMPTS) and not error.passing
                if (error.fatal or broken) and not self.failed.done():
                    self.failed.set_result(error)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, 5.0 if error.away else 30.0)
                continue
            if failures:
                self.trouble = None
            failures = 0
            if self.failed.done():
                self.failed = asyncio.get_running_loop().create_future()
            self.ready.set()
            started = time.monotonic()
            try:
                await self.serve(worker)
                await worker.stop()
            except WorkerDied as death:
                self.restarts += 1
                self.on_exit(worker, death)
                await worker.end()
            except IngestdError as error:  # it lives, but is of no use
                self.trouble = error.message
                if not self.failed.done():
                    self.failed.set_result(StartError(error.message, fatal=True, command=error.command))
                await worker.stop()
                self.workers.discard(worker)
                return
            self.workers.discard(worker)  # only now: `close` waits for what this slot could not
            while self.stage == "watch" and (left := [pid for pid in worker.survivors if process.is_alive(pid)]):
                # It hangs in the file system where its successor would hang as well.
                self.trouble = f"its worker {left[0]} survives SIGKILL; another one starts when it is gone"
                await asyncio.sleep(1)
                self.trouble = None
            while len(abandoned) >= ABANDONED_LIMIT:
                self.trouble = f"{len(abandoned)} workers survive SIGKILL; no more are started"
                await asyncio.sleep(5)
                abandoned[:] = [pid for pid in abandoned if process.is_alive(pid)]
            # A worker that lived for a while is replaced at once; one that dies as soon as it starts is not.
            if time.monotonic() - started > 10 or worker.served:
                backoff = 0.2
            else:
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, 30.0)

    async def _start(self, number: int) -> Worker:
        token = f"{self.prefix}.{self.stage}.{next(_serials)}"
        scratch = self.scratch / token
        try:
            scratch.mkdir(mode=0o700, parents=True)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise StartError(f"no scratch directory for a {self.stage} worker: {error}", passing=full) from error
        worker = Worker(self.stage, token, scratch)
        worker.slot = number
        self.workers.add(worker)
        try:
            await worker.start(self.settings(number), self.start_timeout)
        except BaseException:
            self.workers.discard(worker)
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return worker
