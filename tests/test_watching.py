"""The supervisor's side of watching: what watch workers say reaches the journal, across their deaths too."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ingestd.batches import Batch
from ingestd.channel import encode
from ingestd.config import Config, WatchTable
from ingestd.dispatch import Dispatcher
from ingestd.encoders import Encoders
from ingestd.indexer import Indexer
from ingestd.journal import Journal, counts
from ingestd.messages.load import Stat
from ingestd.messages.watch import Change
from ingestd.mounts import mount_points, point_of
from ingestd.recollections import Recollections
from ingestd.slots import Pool, Turns
from ingestd.supervisor import Worker
from ingestd.watching import Watching, frame


def test_mounts_are_told_apart_by_name_alone(tmp_path: Path) -> None:
    points = [b"/mnt/nas/deep", b"/mnt/nas", b"/"]
    assert point_of(b"/mnt/nas/deep/x", points) == b"/mnt/nas/deep"
    assert point_of(b"/mnt/nas", points) == b"/mnt/nas"
    assert point_of(b"/mnt/nasty/x", points) == b"/"
    found = mount_points()
    assert {b"/", b"/proc"} <= set(found)
    assert sorted(found, key=len, reverse=True) == found


def test_a_frame_carries_the_table() -> None:
    table = WatchTable(name="docs", directory="/d", include=("*.md",), settle=1.5, mode="poll", recursive=False)
    made = frame(3, table)
    assert (made.job, made.source, made.root, made.include, made.settle) == (3, "docs", b"/d", ["*.md"], 1.5)
    assert (made.mode, made.recursive, made.once, made.below) == ("poll", False, False, [])
    assert frame(3, table, [b"x"]).once
    encode(made)


class Desk:
    """Journal, dispatcher and watching with real watch workers, without load workers."""

    def __init__(self, path: Path, *tables: WatchTable) -> None:
        self.path = path / "state"  # its own directory: a source never looks into that of the journal
        self.path.mkdir()
        self.journal = Journal(self.path / "journal.sqlite")
        self.config = Config(watch=tables)
        self.dispatcher = Dispatcher(
            self.config, self.journal, Encoders(), Indexer(), Recollections(self.path / "recollections.sqlite")
        )
        self.watching = Watching(self.journal, self.dispatcher, self._pool)

    def _pool(self, stage: str, size: int, settings: Any, serve: Any) -> Pool:
        prefix = f"watching{os.getpid()}.{self.path.parent.name}"
        return Pool(stage, size, settings, serve, self.path / "scratch", prefix)

    async def files(self) -> dict[str, int]:
        found, _ = await self.journal.read(counts)
        return {source: sum(states.values()) for source, states in found.items()}


def with_desk(path: Path, tables: list[WatchTable], body: Callable[[Desk], Awaitable[None]]) -> None:
    async def run() -> None:
        desk = Desk(path, *tables)
        try:
            await body(desk)
        finally:
            await desk.watching.close()
            desk.journal.close()

    asyncio.run(run())


async def until(condition: Callable[[], Awaitable[object]], timeout: float = 60) -> None:
    deadline = time.monotonic() + timeout
    while not await condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(300):
        (folder / f"f{number}.txt").write_text("text")
    return folder


def test_sources_are_followed_and_a_killed_worker_is_replaced(tmp_path: Path, folder: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "one.txt").write_text("x")
    tables = [
        WatchTable(name="docs", directory=str(folder), settle=0.1, rescan=2.0),
        WatchTable(name="other", directory=str(other), settle=0.1),
        WatchTable(name="lost", directory=str(tmp_path / "lost"), settle=0.1),
    ]

    async def body(desk: Desk) -> None:
        assert not desk.watching.ready or not desk.watching.sources
        await desk.watching.follow(tables)

        async def arrived() -> bool:
            return await desk.files() == {"docs": 300, "other": 1} and desk.watching.ready

        await until(arrived)
        assert len(desk.watching.pools) == 1, "one worker for one mount"
        assert desk.watching.sources["docs"].mode
        assert any(text.startswith("source lost: ") for text in desk.watching.warnings)
        assert desk.dispatcher.wanted.is_set()
        (worker,) = desk.watching.workers
        os.kill(worker.pid, signal.SIGKILL)
        (folder / "while it was dead.txt").write_text("x")
        (other / "one.txt").unlink()

        async def caught_up() -> bool:
            return await desk.files() == {"docs": 301, "other": 0}

        await until(caught_up)
        assert desk.watching.workers[0] is not worker

    with_desk(tmp_path, tables, body)


def test_a_scan_counts_for_its_batch_and_widens_what_may_be_read(tmp_path: Path, folder: Path) -> None:
    table = WatchTable(name="ingest", directory="/", settle=0.0)

    async def body(desk: Desk) -> None:
        renewed: list[set[str]] = []
        desk.watching.on_readable = lambda: renewed.append(set(desk.watching.readable))
        batch = desk.dispatcher.batches[7] = Batch(7)
        below = os.fsencode(folder).lstrip(b"/")
        scanned = await desk.watching.scan(table, [below], 7)
        assert (scanned.files, scanned.unchanged, scanned.error) == (300, 0, None)
        assert batch.total == 300
        assert await desk.journal.pending(7, 0) == 1
        assert renewed == [{str(folder)}]
        again = await desk.watching.scan(table, [below], 7)
        assert again.files == 300
        assert len(renewed) == 1, "what could be read already renews no worker"
        rows = await desk.journal.read(
            lambda db: db.execute("SELECT count(*), count(DISTINCT path) FROM documents WHERE batch = 7").fetchone()
        )
        assert rows == (300, 300)
        assert desk.watching.sources == {}

    with_desk(tmp_path, [], body)


def test_a_scan_of_what_is_watched_renews_no_worker(tmp_path: Path, folder: Path) -> None:
    table = WatchTable(name="docs", directory=str(folder), settle=0.0)

    async def body(desk: Desk) -> None:
        renewed: list[int] = []
        desk.watching.on_readable = lambda: renewed.append(1)
        desk.dispatcher.batches[7] = Batch(7)
        scanned = await desk.watching.scan(table, [b""], 7)
        assert (scanned.files, renewed, desk.watching.readable) == (300, [], set())

    with_desk(tmp_path, [table], body)


def test_a_worker_that_cannot_start_fails_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(desk: Desk) -> None:
        desk.watching._make_pool = lambda stage, size, settings, serve: desk._pool(stage, size, lambda _: {}, serve)
        desk.dispatcher.batches[1] = Batch(1)
        with pytest.raises(Exception, match="the watch worker cannot start: KeyError: 'journal'"):
            await asyncio.wait_for(desk.watching.scan(WatchTable(name="s", directory="/"), [b"x"], 1), 60)

    with_desk(tmp_path, [], body)


def test_one_that_leaves_holds_up_nobody_who_waits(tmp_path: Path) -> None:
    """A worker that is to go has its turn before others; what is retried later has to be looked for all the same."""

    async def body(desk: Desk) -> None:
        desk.dispatcher.turns[""] = Turns(1)
        leaving, fresh = (Worker("load", name, tmp_path) for name in ("leaving", "fresh"))
        for worker in (leaving, fresh):
            worker.died = asyncio.get_running_loop().create_future()
        leaving.served = 1
        first = asyncio.ensure_future(desk.dispatcher._next(leaving, ""))
        await asyncio.sleep(0.1)
        second = asyncio.ensure_future(desk.dispatcher._next(fresh, ""))
        await asyncio.sleep(0.1)
        leaving.leaving = True
        assert await first is None
        stat = Stat(device=1, inode=1, size=1, mtime_ns=1, ctime_ns=1)
        await desk.journal.take("docs", [Change(path=b"a.txt", stat=stat)])  # nobody is woken
        row = await asyncio.wait_for(second, 20)
        assert row is not None
        assert row.path == b"a.txt"

    with_desk(tmp_path, [], body)
