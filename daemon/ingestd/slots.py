"""Slots: coroutines that each keep one worker alive; the same code for every stage."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping
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
_serials = itertools.count(1)


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
    """Keep one more worker warm, since imports cost seconds."""
    on_exit: Callable[[Worker, WorkerDied], None] = lambda worker, death: None

    def __post_init__(self) -> None:
        self.workers: set[Worker] = set()
        self.ready = asyncio.Event()
        self.trouble: str | None = None
        self.restarts = 0
        self.failed: asyncio.Future[StartError] = asyncio.get_running_loop().create_future()
        """Set when no worker of this stage could be started `START_ATTEMPTS` times in a row."""
        self._tasks: list[asyncio.Task[None]] = []
        self._warming: asyncio.Task[Worker] | None = None

    def open(self) -> None:
        """Start the slots."""
        self._tasks = [
            asyncio.create_task(self._slot(number), name=f"{self.stage} {number}") for number in range(self.size)
        ]
        for task in self._tasks:
            task.add_done_callback(self._ended)

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
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        await asyncio.gather(*(worker.stop() for worker in list(self.workers)), return_exceptions=True)
        self.workers.clear()

    async def _slot(self, number: int) -> None:
        backoff = 0.2
        failures = 0
        while True:
            try:
                worker = await self._take(number)
            except StartError as error:
                failures += 1
                self.trouble = error.message
                log.log(logging.WARNING if failures <= START_ATTEMPTS else logging.DEBUG, "%s", error.message)
                if (failures >= START_ATTEMPTS or error.fatal) and not self.failed.done():
                    self.failed.set_result(error)
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, 30.0)
                continue
            if failures:
                self.trouble = None
            failures = 0
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

    async def _take(self, number: int) -> Worker:
        """The warm spare, if there is one, else a new worker; and a new spare is begun."""
        if self._warming is not None:
            warming, self._warming = self._warming, None
            try:
                worker = await warming
            except StartError:
                worker = await self._start(number)
            if worker.died.done() or worker.leaving:
                await worker.end()
                self.workers.discard(worker)
                worker = await self._start(number)
        else:
            worker = await self._start(number)
        if self.spare and self._warming is None and len(self.workers) >= self.size:
            self._warming = asyncio.create_task(self._start(number), name=f"{self.stage} spare")
            self._warming.add_done_callback(lambda task: task.cancelled() or task.exception())
        return worker

    async def _start(self, number: int) -> Worker:
        token = f"{self.prefix}.{self.stage}.{next(_serials)}"
        scratch = self.scratch / token
        scratch.mkdir(mode=0o700, parents=True)
        worker = Worker(self.stage, token, scratch)
        self.workers.add(worker)
        try:
            await worker.start(self.settings(number), self.start_timeout)
        except BaseException:
            self.workers.discard(worker)
            shutil.rmtree(scratch, ignore_errors=True)
            raise
        return worker
