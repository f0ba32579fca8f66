"""Deletions: few go at once, many are held, moves are neither, and a source that was taken out is kept for a while."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ingestd.errors import UsageError
from ingestd.journal import Journal, Row, SourceSettings, counts, pause, removal, sources
from ingestd.journal.removal import LEAST, Hold
from ingestd.messages.load import Stat
from ingestd.messages.watch import Change

DAY = 86400.0
HOLDS = {"docs": Hold(0.5, DAY), "never": Hold(1.0, DAY)}
SETTINGS = {name: SourceSettings(b"/" + name.encode(), "", DAY) for name in ("docs", "never", "other")}


class Desk:
    """A journal with a clock that is moved by hand."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path / "j")
        self.inode = 0

    async def add(self, source: str, *names: str, digest: bytes | None = None, inode: int | None = None) -> None:
        """Files that are indexed; each has content of its own, where no digest is given."""
        changes = []
        for name in names:
            self.inode += 1
            changes.append(Change(os.fsencode(name), Stat(1, inode or self.inode, 1, 1, 1), False))
        await self.journal.take(source, changes)
        await self.index(digest)

    async def index(self, digest: bytes | None = None) -> None:
        for row in await self.journal.claim(1000):
            content = digest or f"{row.source}/{os.fsdecode(row.path)}".encode().ljust(16)
            await self.journal.identified(row, Stat(1, row.inode or 0, 1, 1, 1), content, "text", "1", 3)
            await self.journal.indexed(row, content, "text 1", chunks=1, hashes=b"")

    async def lose(self, source: str, *names: str) -> None:
        await self.journal.take(source, [Change(os.fsencode(name), None) for name in names])

    async def later(self, seconds: float) -> None:
        def call(db: sqlite3.Connection) -> None:
            db.execute("UPDATE documents SET retry_at = retry_at - ? WHERE retry_at > 0", (seconds,))
            db.execute(
                "UPDATE sources SET counted_at = counted_at - :s, removed_until = removed_until - :s", {"s": seconds}
            )

        await self.journal.run(call)

    async def sweep(self, *without: str) -> list[str]:
        """Remove all that may go; returns the names."""
        gone: list[Row] = []
        while rows := await self.journal.claim_gone(64, HOLDS, without=without):
            for row in rows:
                await self.journal.removed(row)
            gone += rows
        return sorted(os.fsdecode(row.path) for row in gone)

    async def states(self, source: str) -> Counter[str]:
        found, _ = await self.journal.read(counts)
        return +found.get(source, Counter())


def with_desk(path: Path, body: Callable[[Desk], Awaitable[None]]) -> None:
    async def run() -> None:
        desk = Desk(path)
        try:
            await desk.journal.configure(SETTINGS)
            await body(desk)
        finally:
            desk.journal.close()

    asyncio.run(run())


def names(start: int, stop: int) -> list[str]:
    return [f"f{number:04}" for number in range(start, stop)]


def test_half_of_the_files_may_go_and_one_more_is_held(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.add("docs", *names(0, 200))
        await desk.lose("docs", *names(0, 100))
        await desk.later(5)
        assert await desk.sweep() == names(0, 100)
        await desk.lose("docs", "f0100")  # with those before it, it is more than half
        await desk.later(5)
        assert await desk.sweep() == []
        assert await desk.states("docs") == {"indexed": 99, "held": 1}
        assert await desk.journal.run(lambda db: removal.confirm(db, "docs")) == 1
        assert await desk.sweep() == ["f0100"]
        assert await desk.states("docs") == {"indexed": 99}

    with_desk(tmp_path, body)


def test_the_window_ends(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.add("docs", *names(0, 200))
        await desk.lose("docs", *names(0, 100))
        await desk.later(5)
        assert len(await desk.sweep()) == 100
        await desk.later(2 * removal.WINDOW)
        await desk.lose("docs", *names(100, 149))
        await desk.later(5)
        assert len(await desk.sweep()) == 49

    with_desk(tmp_path, body)


def test_fewer_than_the_least_are_never_held(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.add("docs", *names(0, LEAST - 1))
        await desk.lose("docs", *names(0, LEAST - 1))
        await desk.later(5)
        assert len(await desk.sweep()) == LEAST - 1
        await desk.add("other", *names(0, LEAST))
        await desk.lose("other", *names(0, LEAST))
        await desk.later(5)
        assert await desk.sweep() == []
        assert (await desk.states("other"))["held"] == LEAST

    with_desk(tmp_path, body)


def test_a_share_of_one_holds_nothing(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.add("never", *names(0, 200))
        await desk.lose("never", *names(0, 200))
        await desk.later(5)
        assert len(await desk.sweep()) == 200

    with_desk(tmp_path, body)


def test_deletions_that_still_come_in_are_judged_together(tmp_path: Path) -> None:
    """`rm -r` takes its time: its first files are not gone while the rest is still being missed."""

    async def body(desk: Desk) -> None:
        await desk.add("docs", *names(0, 100))
        await desk.lose("docs", *names(0, 30))
        await desk.later(5)
        await desk.lose("docs", *names(30, 60))
        assert await desk.sweep() == []
        await desk.later(5)
        assert await desk.sweep() == []
        assert await desk.states("docs") == {"indexed": 40, "held": 60}

    with_desk(tmp_path, body)


def test_a_trickle_does_not_put_deletions_off_for_ever(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.add("docs", *names(0, 100))
        await desk.lose("docs", "f0000")
        await desk.later(removal.QUIET_LIMIT + 5)
        await desk.lose("docs", "f0001")
        assert await desk.sweep() == ["f0000"]

    with_desk(tmp_path, body)


def test_a_folder_that_turns_over_is_not_held(tmp_path: Path) -> None:
    """A spool: all files go within the window, as many others come."""

    async def body(desk: Desk) -> None:
        await desk.add("docs", *names(0, 100))
        for turn in range(10):
            await desk.add("docs", *names(100 * turn + 100, 100 * turn + 120))
            await desk.lose("docs", *names(100 * turn, 100 * turn + 20))
            await desk.add("docs", *names(100 * turn + 120, 100 * turn + 200))
            await desk.later(5)
            assert len(await desk.sweep()) == 20

    with_desk(tmp_path, body)


def test_a_moved_tree_is_no_deletion(tmp_path: Path) -> None:
    """Within the source by its inodes, to another source or by a copy as soon as the content is indexed there."""

    async def body(desk: Desk) -> None:
        await desk.add("docs", *names(0, 100))
        moved = [f"new/{name}" for name in names(0, 100)]
        await desk.lose("docs", *names(0, 100))
        await desk.journal.take(
            "docs", [Change(os.fsencode(name), Stat(1, n + 1, 1, 1, 1)) for n, name in enumerate(moved)]
        )
        await desk.later(5)
        assert await desk.sweep() == []  # the new names are still to be read
        assert await desk.states("docs") == {"queued": 200}
        for row in await desk.journal.claim(1000):
            content = b"docs/" + row.path.removeprefix(b"new/")
            await desk.journal.identified(row, Stat(1, row.inode or 0, 1, 1, 1), content.ljust(16), "text", "1", 3)
            await desk.journal.indexed(row, content.ljust(16), "text 1", chunks=1, hashes=None, origin="x")
        assert await desk.sweep() == names(0, 100)
        assert await desk.states("docs") == {"indexed": 100}

    with_desk(tmp_path, body)


def test_what_was_held_is_let_go_once_its_content_is_elsewhere(tmp_path: Path) -> None:
    """A move between file systems: the old names are missed long before the copies are read."""

    async def body(desk: Desk) -> None:
        await desk.add("docs", *names(0, 60))
        await desk.lose("docs", *names(0, 60))
        await desk.later(5)
        assert await desk.sweep() == []
        assert await desk.states("docs") == {"held": 60}
        await desk.add("other", "copy", digest=b"docs/f0007".ljust(16))
        assert await desk.sweep() == ["f0007"]
        assert await desk.states("docs") == {"held": 59}

    with_desk(tmp_path, body)


def test_files_that_come_back_are_held_no_longer(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.add("docs", *names(0, 60))
        await desk.lose("docs", *names(0, 60))
        await desk.later(5)
        await desk.sweep()
        await desk.add("docs", *names(0, 60))
        await desk.later(2 * DAY)
        assert await desk.sweep() == []
        assert await desk.states("docs") == {"indexed": 60}

    with_desk(tmp_path, body)


def test_the_grace_period_ends(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.add("docs", *names(0, 60))
        await desk.lose("docs", *names(0, 60))
        await desk.later(5)
        await desk.sweep()
        await desk.later(DAY - 60)
        assert await desk.sweep() == []
        await desk.later(120)
        assert await desk.sweep() == names(0, 60)

    with_desk(tmp_path, body)


def test_many_files_of_one_content_are_counted_and_not_slow(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.add("docs", *names(0, 900), digest=b"empty".ljust(16))
        await desk.lose("docs", *names(0, 899))
        await desk.later(5)
        assert len(await desk.sweep()) == 899  # one is left that has it
        await desk.lose("docs", "f0899")
        await desk.later(5)
        assert await desk.sweep() == []  # with it the source would be empty

    with_desk(tmp_path, body)


def test_a_paused_source_keeps_everything(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.add("docs", "a", "b")
        assert await desk.journal.run(lambda db: pause(db, "docs", True)) == ["docs"]
        known = await desk.journal.read(sources)
        assert [name for name, source in known.items() if source.idle] == ["docs"]
        await desk.lose("docs", "a")
        await desk.journal.take("docs", [Change(b"c", Stat(1, 99, 1, 1, 1))])
        await desk.journal.take("other", [Change(b"d", Stat(1, 98, 1, 1, 1))])
        await desk.later(5)
        assert await desk.sweep("docs") == []
        claimed = [row.path for _ in range(3) for row in await desk.journal.claim(1, without={"docs"})]
        assert claimed == [b"d"]
        assert [row.path for row in await desk.journal.claim(1)] == [b"c"]
        assert await desk.sweep() == ["a"]
        assert await desk.journal.run(lambda db: pause(db, None, False)) == ["docs", "never", "other"]
        assert not any(source.idle for source in (await desk.journal.read(sources)).values())
        with pytest.raises(UsageError, match="no source 'dosc'; known: docs, never, other"):
            await desk.journal.run(lambda db: pause(db, "dosc", True))

    with_desk(tmp_path, body)


def test_a_source_that_was_taken_out_is_held_whole(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.add("docs", "a", "b", "c")
        await desk.add("other", "x")
        rest = {name: settings for name, settings in SETTINGS.items() if name != "docs"}
        known = await desk.journal.configure(rest)
        assert known["docs"].removed_until is not None
        assert known["docs"].idle
        await desk.later(DAY - 60)
        assert await desk.journal.configure(rest)  # another start does not begin the time anew
        assert await desk.sweep() == []
        assert await desk.states("docs") == {"held": 3}
        known = await desk.journal.configure(SETTINGS)  # it is back: as if nothing had been
        assert known["docs"].removed_until is None
        assert await desk.states("docs") == {"indexed": 3}
        await desk.journal.configure(rest)
        await desk.later(2 * DAY)
        assert await desk.sweep() == ["a", "b", "c"]
        assert await desk.sweep() == []
        assert set(await desk.journal.read(sources)) == {"never", "other"}
        assert await desk.states("other") == {"indexed": 1}

    with_desk(tmp_path, body)


def test_the_removal_of_a_source_can_be_confirmed(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.add("docs", *names(0, 300))
        await desk.journal.configure({name: settings for name, settings in SETTINGS.items() if name != "docs"})
        assert await desk.journal.run(lambda db: removal.confirm(db, "docs")) == 300
        assert len(await desk.sweep()) == 300
        with pytest.raises(UsageError, match="no source"):
            await desk.journal.run(lambda db: removal.confirm(db, "docs"))

    with_desk(tmp_path, body)


def test_changed_constants_queue_what_is_indexed(tmp_path: Path) -> None:
    async def body(desk: Desk) -> None:
        await desk.add("docs", "a", "b")
        await desk.journal.take("docs", [Change(b"new", Stat(1, 50, 1, 1, 1))])
        await desk.journal.configure(SETTINGS)
        assert await desk.states("docs") == {"indexed": 2, "queued": 1}
        await desk.journal.configure({**SETTINGS, "docs": SourceSettings(b"/docs", "category 7", DAY)})
        assert await desk.states("docs") == {"queued": 3}
        claimed = [row for _ in range(3) for row in await desk.journal.claim(1)]
        assert claimed[0].path == b"new"  # what is new comes first
        verdict = await desk.journal.identified(
            claimed[1], Stat(1, 1, 1, 1, 1), claimed[1].indexed_digest or b"", "text", "1", 3
        )
        assert verdict.action == "unchanged"

    with_desk(tmp_path, body)


def test_changed_constants_reach_what_is_in_hand(tmp_path: Path) -> None:
    """It may have the old ones already, on its way to the index."""

    async def body(desk: Desk) -> None:
        await desk.journal.configure(SETTINGS)
        await desk.journal.take("docs", [Change(b"new", Stat(1, 50, 1, 1, 1))])
        for constants, state in (("category 7", "queued"), ("category 7", "indexed")):
            (row,) = await desk.journal.claim(1)
            await desk.journal.identified(row, Stat(1, 50, 1, 1, 1), b"digest", "text", "1", 3)
            await desk.journal.configure({**SETTINGS, "docs": SourceSettings(b"/docs", constants, DAY)})
            ended = await desk.journal.indexed(row, b"digest", "text 1", chunks=1, hashes=b"")
            assert ended.state == state

    with_desk(tmp_path, body)
