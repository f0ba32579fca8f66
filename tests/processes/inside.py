"""A daemon inside the test's own event loop, so that its waits can be shortened and its parts looked at."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from ingestd.config import load
from ingestd.daemon import Daemon

T = TypeVar("T")


def inside(config: Path, body: Callable[[Daemon], Awaitable[T]], *, watching: bool = False) -> T:
    """What `body` returns, given a running daemon."""

    async def run() -> T:
        async with Daemon(load(config, {}), watching=watching) as daemon:
            return await body(daemon)

    return asyncio.run(run())


async def take_in(daemon: Daemon, *paths: Path) -> dict[str, Any]:
    """The summary of `ingest`."""
    summary: dict[str, Any] = {}
    async for told in daemon.ingest([os.fsencode(path) for path in paths]):
        summary = told
    assert "seconds" in summary
    return summary


async def until(condition: Callable[[], object], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def states(state: Path) -> dict[str, int]:
    """Files by state, as the journal on disk has them."""
    db = sqlite3.connect(state / "journal.sqlite")
    try:
        return dict(db.execute("SELECT state, count(*) FROM documents GROUP BY state").fetchall())
    finally:
        db.close()


def events(state: Path) -> list[str]:
    """Every line of every history, in the order in which they were written."""
    db = sqlite3.connect(state / "journal.sqlite")
    try:
        return [event for (event,) in db.execute("SELECT event FROM history ORDER BY id")]
    finally:
        db.close()
