"""The journal: nothing is lost, nothing is handed out twice, and every transition ends where it should."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ingestd import journal as journals
from ingestd.errors import IngestdError
from ingestd.journal import Journal, Row, SourceSettings, connect, history
from ingestd.journal.retrying import ALONE_AFTER, ALONE_LIMIT, HISTORY
from ingestd.messages.load import Stat
from ingestd.messages.watch import Change
from ingestd.types import document_id
from tests.mounting import fill, small_disk

LOADER = ("text", "1")
DIGEST = b"d" * 16


def stat(inode: int = 1, *, size: int = 10, mtime: int = 1) -> Stat:
    return Stat(7, inode, size, mtime, mtime)


def new(name: str, inode: int = 1, *, fresh: bool = True, mtime: int = 1) -> Change:
    return Change(os.fsencode(name), stat(inode, mtime=mtime), fresh)


def gone(name: str) -> Change:
    return Change(os.fsencode(name), None)


def with_journal(path: Path, body: Callable[[Journal], Awaitable[None]]) -> None:
    async def run() -> None:
        journal = Journal(path)
        await journal.configure({"docs": SourceSettings(b"/srv/docs")})
        try:
            await body(journal)
        finally:
            journal.close()

    asyncio.run(run())


async def rows(journal: Journal) -> dict[str, Row]:
    def call(db: sqlite3.Connection) -> dict[str, Row]:
        found = (Row(*row) for row in db.execute(f"SELECT {journals.COLUMNS} FROM documents"))
        return {os.fsdecode(row.path): row for row in found}

    return await journal.run(call)


async def age(journal: Journal, seconds: float = 1000) -> None:
    """As if so much time had passed for everything that waits."""
    await journal.run(lambda db: db.execute("UPDATE documents SET retry_at = retry_at - ?", (seconds,)))


async def identify(journal: Journal, row: Row, digest: bytes = DIGEST, loader: str | None = "text") -> journals.Verdict:
    version = "1" if loader else ""
    return await journal.identified(row, stat(row.inode or 0), digest, loader, version, 3)


async def index(journal: Journal, row: Row, digest: bytes = DIGEST, chunks: int = 2) -> journals.Ended:
    return await journal.indexed(row, digest, "text 1", chunks=chunks, hashes=b"h" * 16 * chunks)


async def put_in(journal: Journal, name: str, inode: int = 1, digest: bytes = DIGEST) -> Row:
    """A document that is loaded and indexed."""
    await journal.take("docs", [new(name, inode)])
    (row,) = await journal.claim(1)
    await identify(journal, row, digest)
    await index(journal, row, digest)
    return (await rows(journal))[name]


# --- the writer -----------------------------------------------------------------------------------------------


def test_calls_share_commits(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        before = journal.commits
        await asyncio.gather(*(journal.take("docs", [new(f"f{number}", number)]) for number in range(2000)))
        assert len(await rows(journal)) == 2000
        assert journal.commits - before < 100

    with_journal(tmp_path / "j", body)


def test_an_error_is_one_calls_own(tmp_path: Path) -> None:
    """Neither its effects nor those of its neighbours go wrong, whatever it raises."""

    async def body(journal: Journal) -> None:
        def spoil(error: Exception | None) -> Callable[[sqlite3.Connection], None]:
            def call(db: sqlite3.Connection) -> None:
                db.execute("INSERT INTO meta VALUES (?, 'spoiled')", (f"{error!r}",))
                if error is None:
                    db.execute("SELECT no such thing")
                else:
                    raise error

            return call

        before = journal.commits
        outcomes = await asyncio.gather(
            journal.meta("a", "1"),
            journal.run(spoil(ValueError("mine"))),
            journal.meta("b", "2"),
            journal.run(spoil(sqlite3.IntegrityError("mine"))),
            journal.run(spoil(None)),
            journal.meta("c", "3"),
            return_exceptions=True,
        )
        assert [outcomes[0], outcomes[2], outcomes[5]] == ["1", "2", "3"]
        assert [type(outcomes[n]) for n in (1, 3, 4)] == [ValueError, sqlite3.IntegrityError, sqlite3.OperationalError]
        assert journal.commits - before <= 2
        assert journal.trouble is None
        assert (
            await journal.run(lambda db: db.execute("SELECT value FROM meta WHERE value = 'spoiled'").fetchall()) == []
        )

    with_journal(tmp_path / "j", body)


def test_a_cancelled_call_is_carried_out(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        task = asyncio.create_task(journal.meta("key", "value"))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await journal.meta("key") == "value"

    with_journal(tmp_path / "j", body)


async def until(condition: Callable[[], object], timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_a_full_disk_pauses_and_loses_nothing(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m") as disk:

        async def body(journal: Journal) -> None:
            await journal.meta("before", "1")
            filler = fill(disk)
            names = [f"f{number}-{'x' * 200}" for number in range(800)]
            tasks = [asyncio.create_task(journal.take("docs", [new(name, n)])) for n, name in enumerate(names)]
            await until(lambda: journal.trouble)
            assert journal.trouble == "the journal cannot be written: database or disk is full"
            assert await journal.read(lambda db: db.execute("SELECT value FROM meta").fetchall()) == [("1",)]
            assert not all(task.done() for task in tasks)
            filler.unlink()
            await asyncio.gather(*tasks)
            assert journal.trouble is None
            assert set(await rows(journal)) == set(names)

        with_journal(disk / "j", body)


def test_a_full_disk_does_not_keep_it_from_stopping(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1m") as disk:

        async def body(journal: Journal) -> None:
            fill(disk)
            task = asyncio.create_task(journal.meta("big", "x" * 2_000_000))
            await until(lambda: journal.trouble)
            began = time.monotonic()
            journal.close()
            assert time.monotonic() - began < 30
            with pytest.raises(IngestdError, match="disk is full"):
                await task
            with pytest.raises(IngestdError, match="closed"):
                await journal.meta("late")

        async def run() -> None:
            await body(Journal(disk / "j"))

        asyncio.run(run())


def test_damage_is_told_not_waited_for(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        def damage(db: sqlite3.Connection) -> None:
            raise sqlite3.DatabaseError("database disk image is malformed")

        with pytest.raises(sqlite3.DatabaseError):
            await journal.run(damage)
        assert await journal.meta("still", "here") == "here"

    with_journal(tmp_path / "j", body)


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"not a database" * 1000, "not a database"), (None, r"has version 99; this ingestd reads version \d")],
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "journal.sqlite"
    if content is None:
        connect(path).close()
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 99")
        db.close()
    else:
        path.write_bytes(content)
    for readonly in (False, True):
        with pytest.raises(IngestdError, match=words) as caught:
            connect(path, readonly=readonly)
        assert str(path) in str(caught.value)


def test_a_strange_path_is_opened_as_it_is(tmp_path: Path) -> None:
    for name in ("a?mode=memory", "b#c", "d%41"):
        connect(tmp_path / name).close()
        assert (tmp_path / name).exists()


# --- transitions ----------------------------------------------------------------------------------------------


def test_the_life_of_a_document(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        assert (await journal.take("docs", [new("a.md")], batch=5)).joined == 1
        (row,) = await journal.claim(10)
        assert (row.state, row.attempts, row.batch, row.doc_id) == ("running", 1, 5, document_id("docs", b"a.md"))
        assert await journal.claim(10) == []
        verdict = await identify(journal, row)
        assert (verdict.action, verdict.hashes) == ("load", b"")
        assert await index(journal, row) == ("indexed", 5, 0)
        found = (await rows(journal))["a.md"]
        assert (found.state, found.chunks, found.indexed_digest) == ("indexed", 2, DIGEST)
        await journal.take("docs", [new("a.md", mtime=2)])
        (row,) = await journal.claim(1)
        assert (await identify(journal, row)).action == "unchanged"
        await journal.settle(row, "indexed", "unchanged content")
        await journal.take("docs", [new("a.md", mtime=3)])
        (row,) = await journal.claim(1)
        verdict = await identify(journal, row, b"e" * 16)
        assert (verdict.action, verdict.hashes) == ("load", b"h" * 32)
        await journal.settle(row, "quarantined", "broken", reason="it is broken")
        found = (await rows(journal))["a.md"]
        assert (found.state, found.indexed_digest, found.chunks, found.reason) == (
            "quarantined",
            DIGEST,
            2,
            "it is broken",
        )

    with_journal(tmp_path / "j", body)


def test_a_file_that_changes_while_it_runs_is_queued_again(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        for ending in ("indexed", "settled", "interrupted"):
            await journal.take("docs", [new("a", mtime=1)])
            (row,) = await journal.claim(1)
            await identify(journal, row)
            await journal.take("docs", [new("a", mtime=2)])
            assert (await rows(journal))["a"].state == "running"
            if ending == "indexed":
                ended = await index(journal, row)
            elif ending == "settled":
                ended = await journal.settle(row, "failed", "late", retry_in=1000)
            else:
                ended = await journal.interrupted(row, "late", 0)
            assert ended.state == "queued"
            (again,) = await journal.claim(1)
            assert again.mtime_ns == 2
            await index(journal, again)

    with_journal(tmp_path / "j", body)


def test_failures_wait_and_return(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        await journal.take("docs", [new("a")])
        (row,) = await journal.claim(1)
        await journal.settle(row, "failed", "no luck", reason="no luck", retry_in=100)
        assert await journal.claim(1) == []
        await age(journal)
        (row,) = await journal.claim(1)
        assert row.attempts == 2
        await journal.release(row)
        assert (await rows(journal))["a"].attempts == 1
        assert await journal.pending(5, 1) == 0

    with_journal(tmp_path / "j", body)


def test_strikes_follow_the_content(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        await journal.take("docs", [new("a", 1), new("b", 2)])
        first, second = await journal.claim(2)
        await identify(journal, first)
        assert [await journal.strike(first, DIGEST, "text 1", f"r{n}", "", 3) for n in range(3)] == [1, 2, 3]
        verdict = await identify(journal, second)
        assert (verdict.action, verdict.reason) == ("quarantine", "r2")
        # Another version of the loader may do better, a success clears the slate.
        verdict = await journal.identified(second, stat(2), DIGEST, "text", "2", 3)
        assert verdict.action == "load"
        assert await journal.strike(second, DIGEST, "text 2", "again", "", 3) == 1
        await journal.indexed(second, DIGEST, "text 2", chunks=1, hashes=b"")
        assert await journal.run(lambda db: db.execute("SELECT * FROM strikes").fetchall()) == []
        # Without a digest the file's own attempts count, interruptions left out.
        await journal.settle(first, "failed", "x")
        await age(journal)
        (first,) = await journal.claim(1)
        assert await journal.strike(first, None, "", "r", "", 3) == 2

    with_journal(tmp_path / "j", body)


def test_ten_interruptions_alone_quarantine(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        await journal.take("docs", [new("a")])
        alone = 0
        for number in range(1, 100):
            rows_found = await journal.claim(1)
            if not rows_found:
                rows_found = await journal.claim(1, alone=True)
                alone += 1
            (row,) = rows_found
            assert bool(row.alone) == (number > ALONE_AFTER)
            if (await journal.interrupted(row, "killed from outside", 0)).state == "quarantined":
                break
        assert (number, alone) == (ALONE_AFTER + ALONE_LIMIT, ALONE_LIMIT)

    with_journal(tmp_path / "j", body)


def test_the_end_of_the_daemon_interrupts_what_is_loaded(tmp_path: Path) -> None:
    """A file that takes the daemon down must not be tried for ever; one that waits for the index is innocent."""

    async def first(journal: Journal) -> None:
        await journal.take("docs", [new("loading", 1), new("loaded", 2), new("copy", 3)])
        for row in await journal.claim(3):
            digest = row.path.ljust(16)
            if row.path == b"copy":
                await identify(journal, row, digest, None)
            else:
                await identify(journal, row, digest)
            if row.path == b"loaded":
                journal.loaded(row)

    async def second(journal: Journal) -> None:
        assert await journal.recover() == 3
        found = await rows(journal)
        assert {name: (row.state, row.interruptions) for name, row in found.items()} == {
            "loading": ("queued", 1),
            "loaded": ("queued", 0),
            "copy": ("queued", 0),
        }
        (event,) = await journal.run(lambda db: history(db, found["loading"].id))
        assert "the daemon ended" in event[1]
        await journal.claim(3)
        await journal.relinquish()

    async def third(journal: Journal) -> None:
        assert await journal.recover() == 3
        assert sum(row.interruptions for row in (await rows(journal)).values()) == 1

    for body in (first, second, third):
        with_journal(tmp_path / "j", body)


def test_a_common_cause_is_no_strike(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        await journal.take(
            "docs", [new("failed", 1), new("again", 2), new("deleted", 3), new("good", 4), new("mine", 5)]
        )
        claimed = {os.fsdecode(row.path): row for row in await journal.claim(5)}
        for row in claimed.values():
            await journal.strike(row, row.path.ljust(16), "text 1", "r", "", 3)
        for name in ("failed", "again", "deleted"):
            await journal.settle(claimed[name], "failed", "x", retry_in=0)
        await index(journal, claimed["good"])
        await journal.take("docs", [gone("deleted")])
        again = next(row for row in await journal.claim(5) if row.path == b"again")
        await journal.release((await rows(journal))["failed"])
        await journal.settle((await rows(journal))["failed"], "failed", "x", retry_in=0)
        for row in claimed.values():
            await journal.absolve(row, row.path.ljust(16), "common", 1000, running=row.path == b"mine")
        found = await rows(journal)
        assert {name: row.state for name, row in found.items()} == {
            "failed": "failed", "again": "running", "good": "indexed", "mine": "failed",
        }  # fmt: skip
        assert await journal.claim(5) == []
        assert await journal.run(lambda db: db.execute("SELECT * FROM strikes").fetchall()) == []
        await journal.settle(again, "queued", "x")

    with_journal(tmp_path / "j", body)


# --- deletions and moves --------------------------------------------------------------------------------------


def test_a_deletion_waits_for_the_other_half_of_a_move(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        old = await put_in(journal, "old", inode=42)
        await journal.take("docs", [gone("old")])
        assert await journal.claim_gone(9) == []  # the other half may come in a moment
        await journal.take("docs", [new("new", inode=42)])
        await age(journal)
        assert await journal.claim_gone(9) == []  # it has come, and is still to be read
        (row,) = await journal.claim(1)
        assert await journal.claim_gone(9) == []
        verdict = await identify(journal, row)
        assert (verdict.action, verdict.origin) == ("rekey", old.doc_id)
        await journal.indexed(row, DIGEST, "text 1", chunks=2, hashes=None, origin=verdict.origin)
        (tombstone,) = await journal.claim_gone(9)
        assert tombstone.path == b"old"
        assert await journal.claim_gone(9) == []
        await journal.removed(tombstone)
        found = await rows(journal)
        assert set(found) == {"new"}
        hashes = await journal.run(lambda db: db.execute("SELECT document, hashes FROM hashes").fetchall())
        assert hashes == [(found["new"].id, b"h" * 32)]

    with_journal(tmp_path / "j", body)


def test_a_file_that_comes_back_is_not_lost(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        await put_in(journal, "a")
        await journal.take("docs", [gone("a")])
        await age(journal)
        (tombstone,) = await journal.claim_gone(1)
        await journal.take("docs", [new("a", mtime=9)])
        await journal.removed(tombstone)
        (row,) = await journal.claim(1)
        assert (row.indexed_digest, row.chunks, row.gone) == (None, 0, 0)
        assert (await identify(journal, row)).hashes == b""  # all vectors are to be sent

    with_journal(tmp_path / "j", body)


def test_what_the_index_may_have_is_removed_from_it(tmp_path: Path) -> None:
    """The index has the document, the journal does not say so yet: the daemon is killed, then the file is deleted."""

    async def first(journal: Journal) -> None:
        await journal.take("docs", [new("a", 1), new("changed", 2), new("never read", 3)])
        for row in await journal.claim(2):
            if row.path == b"changed":
                await journal.take("docs", [new("changed", 2, mtime=2)])
            await identify(journal, row)
            journal.loaded(row)

    async def second(journal: Journal) -> None:
        await journal.recover()
        await journal.take("docs", [gone("a"), gone("changed"), gone("never read")])
        await age(journal)
        assert sorted(row.path for row in await journal.claim_gone(9)) == [b"a", b"changed"]
        assert set(await rows(journal)) == {"a", "changed"}

    with_journal(tmp_path / "j", first)
    with_journal(tmp_path / "j", second)


# --- claims ---------------------------------------------------------------------------------------------------


def test_sources_share_and_fresh_files_come_first(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        await journal.take("big", [new(f"b{n}", n, fresh=False) for n in range(100)])
        await journal.take("small", [new(f"s{n}", 200 + n, fresh=False) for n in range(10)])
        await journal.take("big", [new("fresh", 300)])
        first = [(await journal.claim(1))[0] for _ in range(13)]
        assert first[0].path == b"fresh"
        sources = Counter(row.source for row in first[1:])
        assert sources == {"big": 6, "small": 6}
        many = await journal.claim(8)
        assert Counter(row.source for row in many) == {"big": 4, "small": 4}

    with_journal(tmp_path / "j", body)


def test_claims_never_hand_out_a_row_twice(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        await journal.take("docs", [new(f"f{n}", n) for n in range(500)])
        handed: list[Row] = []
        while found := [row for part in await asyncio.gather(*(journal.claim(7) for _ in range(20))) for row in part]:
            handed += found
        assert len(handed) == len({row.id for row in handed}) == 500

    with_journal(tmp_path / "j", body)


def test_a_pool_gets_its_own_rows(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        await journal.take("docs", [new("a.pdf")])
        (row,) = await journal.claim(1)
        await journal.route(row, "pdf")
        assert await journal.claim(1) == []
        (row,) = await journal.claim(1, pool="pdf")
        assert (row.pool, row.attempts) == ("pdf", 1)
        await journal.release(row)
        await journal.unroute(["ocr"])
        assert len(await journal.claim(1)) == 1

    with_journal(tmp_path / "j", body)


def test_other_loaders_give_another_try(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        assert await journal.revive({"text": "1"}) == 0
        await journal.take("docs", [new("skipped", 1), new("broken", 2), new("other", 3)])
        for row in await journal.claim(3):
            if row.path == b"skipped":
                await identify(journal, row, loader=None)
                await journal.settle(row, "skipped", "no loader")
            else:
                await journal.identified(
                    row, stat(), row.path.ljust(16), "text" if row.path == b"broken" else "pdf", "1", 3
                )
                await journal.settle(row, "quarantined", "broken")
        assert await journal.revive({"text": "1"}) == 0
        assert await journal.revive({"text": "2"}) == 2
        assert sorted(row.path for row in await journal.claim(9)) == [b"broken", b"skipped"]

    with_journal(tmp_path / "j", body)


def test_retry_forgets_strikes(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        await journal.take("docs", [new("a")])
        (row,) = await journal.claim(1)
        await identify(journal, row)
        await journal.strike(row, DIGEST, "text 1", "bad", "", 1)
        await journal.settle(row, "quarantined", "bad", reason="bad")
        assert await journal.retry(await journal.read(journals.failed)) == 1
        (row,) = await journal.claim(1)
        assert row.attempts == 1
        assert (await identify(journal, row)).action == "load"
        assert await journal.retry([row.id]) == 0  # it runs

    with_journal(tmp_path / "j", body)


def test_history_is_bounded(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        await journal.take("docs", [new("a"), new("b", 2)])
        row, other = await journal.claim(2)
        await journal.settle(other, "queued", "kept")
        for number in range(HISTORY + 10):
            await journal.settle(row, "queued", f"event {number}")
        events = [event for _, event in await journal.run(lambda db: history(db, row.id))]
        assert events == [f"event {number}" for number in range(10, HISTORY + 10)]
        assert len(await journal.run(lambda db: history(db, other.id))) == 1

    with_journal(tmp_path / "j", body)


def test_find_takes_files_and_directories(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        await journal.configure({"docs": SourceSettings(b"/srv/docs"), "all": SourceSettings(b"/")})
        await journal.take("docs", [new("a/b.md", 1), new("a.md", 2), new("a0", 3), new("a/\udcff", 4)])
        await journal.take("all", [new("srv/docs/x", 5)])
        for path, names in (
            (b"/srv/docs/a", [b"a/b.md", b"a/\xff"]),
            (b"/srv/docs/a.md", [b"a.md"]),
            (b"/srv/docs/a/\xff", [b"a/\xff"]),
            (b"/srv/doc", []),
            (b"/srv/docs", [b"a.md", b"a/b.md", b"a/\xff", b"a0", b"srv/docs/x"]),
        ):
            found = await journal.run(lambda db, path=path: list(journals.find(db, path)))  # type: ignore[misc]
            assert sorted(row.path for row in found) == sorted(names), path

    with_journal(tmp_path / "j", body)


# --- all of it together ---------------------------------------------------------------------------------------


class Operations(RuleBasedStateMachine):
    """Any order of operations: the counts stay true, and no row is in two hands."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.path = Path(self.directory.name) / "j"
        self.journal = self._open()
        self.hands: dict[int, Row] = {}
        self.removals: dict[int, Row] = {}
        self.past: dict[int, Row] = {}
        self.mtime = 0

    def _open(self) -> Journal:
        journal = Journal(self.path)
        self.do(journal.configure({"a": SourceSettings(b"/a"), "b": SourceSettings(b"/b")}))
        return journal

    def do(self, call: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(call)

    def teardown(self) -> None:
        self.journal.close()
        self.loop.close()
        self.directory.cleanup()

    @rule(source=st.sampled_from("ab"), name=st.sampled_from("pqrs"), exists=st.booleans(), fresh=st.booleans())
    def take(self, source: str, name: str, exists: bool, fresh: bool) -> None:
        self.mtime += 1
        change = new(name, ord(name), fresh=fresh, mtime=self.mtime) if exists else gone(name)
        self.do(self.journal.take(source, [change], batch=1 if fresh else None))

    @rule(limit=st.integers(1, 3), alone=st.booleans())
    def claim(self, limit: int, alone: bool) -> None:
        for row in self.do(self.journal.claim(limit, alone=alone)):
            assert row.id not in self.hands
            assert row.id not in self.removals
            assert bool(row.alone) == alone
            assert not row.gone
            self.hands[row.id] = self.past[row.id] = row

    @rule()
    def claim_gone(self) -> None:
        for row in self.do(self.journal.claim_gone(2)):
            assert row.id not in self.hands
            assert row.id not in self.removals
            assert row.gone
            self.removals[row.id] = row

    @precondition(lambda self: self.removals)
    @rule(data=st.data())
    def removed(self, data: st.DataObject) -> None:
        self.do(self.journal.removed(self.removals.pop(data.draw(st.sampled_from(sorted(self.removals))))))

    @precondition(lambda self: self.hands)
    @rule(
        data=st.data(), ending=st.sampled_from(["index", "fail", "quarantine", "skip", "interrupt", "release", "rekey"])
    )
    def end(self, data: st.DataObject, ending: str) -> None:
        row = self.hands.pop(data.draw(st.sampled_from(sorted(self.hands))))
        digest = row.path.ljust(16)
        if ending == "release":
            self.do(self.journal.release(row))
            return
        if ending == "interrupt":
            self.do(self.journal.interrupted(row, "why", 0))
            return
        self.do(identify(self.journal, row, digest, None if ending == "skip" else "text"))
        if ending == "index":
            self.do(index(self.journal, row, digest, data.draw(st.integers(0, 3))))
        elif ending == "rekey":
            self.do(self.journal.indexed(row, digest, "text 1", chunks=1, hashes=None, origin="x"))
        elif ending == "skip":
            self.do(self.journal.forget(row))
            self.do(self.journal.settle(row, "skipped", "no loader"))
        elif ending == "quarantine":
            self.do(self.journal.strike(row, digest, "text 1", "r", "", 1))
            self.do(self.journal.settle(row, "quarantined", "bad", reason="bad"))
        else:
            self.do(self.journal.strike(row, digest, "text 1", "r", "", 3))
            self.do(self.journal.settle(row, "failed", "bad", reason="bad"))

    @precondition(lambda self: self.past)
    @rule(data=st.data())
    def absolve(self, data: st.DataObject) -> None:
        """Attempts of long ago turn out to be nobody's fault; the files may be anywhere by now."""
        row = self.past[data.draw(st.sampled_from(sorted(self.past)))]
        running = self.hands.get(row.id) is row
        if running:
            del self.hands[row.id]
        self.do(self.journal.absolve(row, None, "common", 0, running=running))

    @rule()
    def retry(self) -> None:
        self.do(self.journal.retry(self.do(self.journal.read(journals.failed))))

    @rule()
    def time_passes(self) -> None:
        self.do(age(self.journal))

    @rule()
    def restart(self) -> None:
        self.journal.close()
        self.journal = self._open()
        assert self.do(self.journal.recover()) == len(self.hands) + len(self.removals)
        self.hands.clear()
        self.removals.clear()

    @invariant()
    def counts_are_true(self) -> None:
        def call(db: sqlite3.Connection) -> tuple[Any, Any, Any]:
            kept = db.execute(
                "SELECT source, state, files, chunks FROM counts WHERE files != 0 OR chunks != 0"
            ).fetchall()
            real = db.execute("SELECT source, state, count(*), sum(chunks) FROM documents GROUP BY 1, 2").fetchall()
            running = {id for (id,) in db.execute("SELECT id FROM documents WHERE state = 'running'")}
            orphans = db.execute("SELECT document FROM hashes EXCEPT SELECT id FROM documents").fetchall()
            return (sorted(kept), sorted(real)), running, orphans

        (kept, real), running, orphans = self.do(self.journal.run(call))
        assert kept == real
        assert running == self.hands.keys() | self.removals.keys()
        assert not orphans


TestOperations = Operations.TestCase
TestOperations.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
