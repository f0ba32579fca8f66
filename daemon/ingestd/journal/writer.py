"""One thread that writes to an SQLite file, with group commit."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from ingestd.errors import IngestdError
from ingestd.journal.schema import connect

GROUP = 500
"""Calls that share one commit at the most."""

T = TypeVar("T")
Call = Callable[[sqlite3.Connection], Any]


class Writer:
    """Carries out calls on the journal's file, in their order.

    `trouble` is the reason why nothing can be committed now (a full disk), else None; calls wait meanwhile.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trouble: str | None = None
        self.full = False
        """The trouble is a full disk."""
        self._db = connect(path)
        self._reader = connect(path, readonly=True)
        self._reading = threading.Lock()
        self._calls: queue.SimpleQueue[tuple[Call, asyncio.Future[Any] | None] | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self.commits = 0
        self._thread = threading.Thread(target=self._write, name="journal", daemon=True)
        self._thread.start()

    async def run(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """Carry out `call` in the writer thread; durable when this returns. It may be carried out again."""
        if self._closing.is_set():
            raise IngestdError("the journal is closed: ingestd stops")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._calls.put((call, future))
        return await future

    async def read(self, call: Callable[[sqlite3.Connection], T]) -> T:
        """Carry out a call that only reads, beside the writer: it answers even while nothing can be written.

        Raises `IngestdError` once the journal is closed.
        """
        return await asyncio.to_thread(self._read, call)

    def _read(self, call: Callable[[sqlite3.Connection], T]) -> T:
        with self._reading:
            if self._closing.is_set():
                raise IngestdError("the journal is closed: ingestd stops")
            return call(self._reader)

    def close(self) -> None:
        """Carry out what was called before, then close. What cannot be written even now fails; the disk is full."""
        self._closing.set()
        self._calls.put(None)
        self._thread.join()
        with self._reading:
            self._reader.close()

    def _write(self) -> None:
        last = False
        while not last:
            group = [self._calls.get()]
            while len(group) < GROUP and not self._calls.empty():
                group.append(self._calls.get())
            last = None in group
            calls = [call for call in group if call is not None]
            delay = 0.1
            while calls:
                try:
                    outcomes = self._commit([call for call, _ in calls])
                except sqlite3.DatabaseError as error:
                    self.trouble = f"the journal cannot be written: {error}"
                    self.full = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL
                    if self._db.in_transaction:
                        self._db.rollback()
                    if isinstance(error, sqlite3.OperationalError) and not self._closing.is_set():
                        # The whole group is done again: a full disk or a lock passes, and then no call is lost.
                        self._closing.wait(delay)
                        delay = min(delay * 2, 5.0)
                        continue
                    # Damage does not pass, and who wants to stop cannot wait for room on the disk.
                    outcomes = [(None, IngestdError(self.trouble))] * len(calls)
                else:
                    self.trouble, self.full = None, False
                answers = [(future, *outcome) for (_, future), outcome in zip(calls, outcomes, strict=True) if future]
                if answers:  # the loop is woken once for all of them
                    answers[0][0].get_loop().call_soon_threadsafe(answer, answers)
                break
        self._db.close()

    def _commit(self, calls: Iterable[Callable[[sqlite3.Connection], Any]]) -> list[tuple[Any, Exception | None]]:
        outcomes: list[tuple[Any, Exception | None]] = []
        self._db.execute("BEGIN IMMEDIATE")
        for call in calls:
            self._db.execute("SAVEPOINT call")
            try:
                outcomes.append((call(self._db), None))
            except Exception as error:
                if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
                    raise  # the disk's fault
                # Of this call alone: the others of the group are not affected.
                self._db.execute("ROLLBACK TO call")
                outcomes.append((None, error))
            self._db.execute("RELEASE call")
        self._db.execute("COMMIT")
        self.commits += 1
        return outcomes


def answer(answers: Iterable[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    """Hand out what came of a group of calls to those who still wait for it. Runs in the event loop."""
    for future, value, failure in answers:
        if future.done():
            continue
        if failure is None:
            future.set_result(value)
        else:
            future.set_exception(failure)
