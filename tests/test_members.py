"""Parts in the journal: who is asked for bytes, who goes with whom, and what an old journal becomes."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from ingestd import journal as journals
from ingestd import types
from ingestd.errors import LimitError
from ingestd.journal import Journal, Row, connect, members
from ingestd.journal.schema import MIGRATION, PARTS, SCHEMA, VERSION
from ingestd.messages.load import Member
from ingestd.types import Allowance, File
from tests.test_journal import DIGEST, gone, identify, index, new, with_journal

TEXT = ("text/plain", "text", "1")


def part(name: str, digest: bytes = b"p" * 16, offset: int = 0) -> Member:
    return Member(name, 5, digest, *TEXT, offset)


async def rows(journal: Journal) -> dict[str, Row]:
    def call(db: sqlite3.Connection) -> dict[str, Row]:
        found = (Row(*row) for row in db.execute(f"SELECT {journals.COLUMNS} FROM documents"))
        return {f"{row.path.decode()} {row.member}".strip(): row for row in found}

    return await journal.run(call)


async def container(journal: Journal, name: str, *parts: Member, digest: bytes = DIGEST) -> Row:
    """A container that is in hand and was found to have these parts."""
    await journal.take("docs", [new(name, 9)])
    (row,) = await journal.claim(1)
    await identify(journal, row, digest)
    await journal.list_parts(row, parts, 0)
    return row


async def done(journal: Journal, row: Row, *names: str, digest: bytes = DIGEST) -> journals.Ended:
    return await journal.indexed(row, digest, "text 1", chunks=1, hashes=b"h" * 16, parts=names)


def test_a_part_that_is_its_container_ends_the_recursion(tmp_path: Path) -> None:
    """A zip quine: whatever unpacks to itself, at once or one container further down."""

    async def body(journal: Journal) -> None:
        await container(journal, "q.zip", part("q.zip", DIGEST), part("r.zip", b"r" * 16))
        (row,) = await journal.claim(9)
        assert row.member == "r.zip"
        await identify(journal, row, b"r" * 16)
        await journal.list_parts(row, [part("q.zip", DIGEST), part("s.txt", b"s" * 16)], 0)
        found = await rows(journal)
        for name in ("q.zip q.zip", "q.zip r.zip!/q.zip"):
            assert (found[name].state, found[name].reason) == ("quarantined", members.IN_ITSELF)
        assert found["q.zip r.zip!/s.txt"].state == "queued"

    with_journal(tmp_path / "j", body)


def test_a_part_without_bytes_has_its_container_read_again(tmp_path: Path) -> None:
    """Not before it is claimed in vain; then it waits, and is asked for when the container is read."""

    async def body(journal: Journal) -> None:
        row = await container(journal, "a.zip", part("x"), part("y", b"y" * 16, -1))
        assert [each.member for each in await journal.claim(9)] == ["x"]
        ended = await done(journal, row, "x", "y")
        assert ended.state == "queued"  # for the sake of y
        await journal.run(lambda db: db.execute("UPDATE documents SET retry_at = 0"))
        (again,) = await journal.claim(9)
        assert again.member == ""
        verdict = await identify(journal, again)
        assert verdict.action == "load"
        assert verdict.parts == b""  # x is in hand, y is wanted
        listed = await journal.list_parts(again, [part("x"), part("y", b"y" * 16, 7)], 0)
        assert listed.wanted == {"x", "y"}
        assert (await done(journal, again, "x", "y")).state == "indexed"
        (y,) = await journal.claim(9)
        await journal.seal(y)  # it was lost after all
        assert [each.member for each in await journal.claim(9)] == [""]

    with_journal(tmp_path / "j", body)


def test_an_attempt_that_came_to_nothing_leaves_no_part_for_another_version(tmp_path: Path) -> None:
    """Its container was put back to what it was while the parts of another version of it were listed."""

    async def body(journal: Journal) -> None:
        outer = await container(journal, "o.zip", part("i.zip", b"1" * 16))
        await done(journal, outer, "i.zip")
        (inner,) = await journal.claim(9)
        await identify(journal, inner, b"1" * 16)
        await journal.list_parts(inner, [part("a", b"a" * 16)], 0)
        await done(journal, inner, "i.zip!/a", digest=b"1" * 16)
        await journal.list_parts(outer, [part("i.zip", b"2" * 16)], 0)
        (inner,) = [row for row in await journal.claim(9) if row.member == "i.zip"]
        await identify(journal, inner, b"2" * 16)
        await journal.list_parts(outer, [part("i.zip", b"1" * 16)], 0)  # the file is as it was before
        await journal.list_parts(inner, [part("a", b"b" * 16)], 0)
        await journal.interrupted(inner, "killed", 0)
        (inner,) = [row for row in await journal.claim(9) if row.member == "i.zip"]
        assert (await identify(journal, inner, b"1" * 16)).action == "load"

    with_journal(tmp_path / "j", body)


def test_parts_are_not_copied_along_while_one_is_to_be_loaded(tmp_path: Path) -> None:
    """What lies inside of it may be of another version."""

    async def body(journal: Journal) -> None:
        row = await container(journal, "a.zip", part("x"))
        await done(journal, row, "x")
        await journal.take("docs", [new("copy.zip", 8)])
        (copy,) = [row for row in await journal.claim(9) if row.path == b"copy.zip"]
        assert (await identify(journal, copy)).action == "load"
        await journal.release(copy)
        (part_row,) = [row for row in (await rows(journal)).values() if row.member == "x"]
        await identify(journal, part_row, b"p" * 16)
        await journal.indexed(part_row, b"p" * 16, "text 1", chunks=1, hashes=b"h" * 16)
        (copy,) = await journal.claim(9)
        assert (await identify(journal, copy)).action == "rekey"

    with_journal(tmp_path / "j", body)


def test_what_lies_in_a_part_that_leaves_is_not_copied_along(tmp_path: Path) -> None:
    """It leaves the index once the part itself has gone: a copy would have it for ever."""

    async def body(journal: Journal) -> None:
        outer = await container(journal, "o.zip", part("i.zip", b"1" * 16), part("x"))
        await done(journal, outer, "i.zip", "x")
        for row in await journal.claim(9):
            await identify(journal, row, b"1" * 16 if row.member == "i.zip" else b"p" * 16)
            inside = ["i.zip!/a"] if row.member == "i.zip" else []
            await journal.list_parts(row, [part("a", b"a" * 16)][: len(inside)], 0)
            await done(journal, row, *inside, digest=b"1" * 16 if row.member == "i.zip" else b"p" * 16)
        (a,) = await journal.claim(9)
        await identify(journal, a, b"a" * 16)
        await done(journal, a, digest=b"a" * 16)

        await journal.take("docs", [new("o.zip", 8)])  # a version without i.zip
        (outer,) = await journal.claim(9)
        await identify(journal, outer, b"2" * 16)
        await journal.list_parts(outer, [part("x")], 0)
        await done(journal, outer, "x", digest=b"2" * 16)
        await journal.take("docs", [new("copy.zip", 7)])
        (copy,) = await journal.claim(9)
        verdict = await identify(journal, copy, b"2" * 16)
        assert verdict.action == "rekey"
        await journal.indexed(copy, b"2" * 16, "text 1", chunks=1, hashes=None, copied=verdict.place)
        assert sorted(name for name in await rows(journal) if name.startswith("copy")) == ["copy.zip", "copy.zip x"]

    with_journal(tmp_path / "j", body)


def test_a_nested_archive_is_no_origin_while_its_parts_are_copied(tmp_path: Path) -> None:
    """Its row still says which version is indexed, and its parts are those of the version to come."""

    async def body(journal: Journal) -> None:
        async def nested(name: str, digest: bytes, inner: bytes, text: bytes) -> None:
            outer = await container(journal, name, part("i.zip", inner), digest=digest)
            await done(journal, outer, "i.zip", digest=digest)
            (row,) = await journal.claim(9)
            await identify(journal, row, inner)
            await journal.list_parts(row, [part("a", text)], 0)
            await done(journal, row, "i.zip!/a", digest=inner)
            (a,) = await journal.claim(9)
            await identify(journal, a, text)
            await done(journal, a, digest=text)

        await nested("o.zip", b"1" * 16, b"i" * 16, b"a" * 16)
        await nested("p.zip", b"2" * 16, b"j" * 16, b"b" * 16)
        await journal.take("docs", [new("o.zip", 8)])  # now what p.zip is
        (outer,) = await journal.claim(9)
        verdict = await identify(journal, outer, b"2" * 16)
        await journal.indexed(outer, b"2" * 16, "text 1", chunks=1, hashes=None, copied=verdict.place)
        inner = (await rows(journal))["p.zip i.zip"]
        assert (await identify(journal, inner, b"i" * 16)).action == "load"

    with_journal(tmp_path / "j", body)


def test_parts_go_with_their_container(tmp_path: Path) -> None:
    """One that is not there any more at once, and all of them when it is gone; deletions of parts are no one's loss."""

    async def body(journal: Journal) -> None:
        row = await container(journal, "a.zip", *(part(f"{n}", bytes([n]) * 16) for n in range(80)))
        for each in await journal.claim(99):
            await identify(journal, each, each.digest or b"")
            await index(journal, each, each.digest or b"")
        await done(journal, row, *(f"{n}" for n in range(1, 80)))
        assert [each.member for each in await journal.claim_gone(9)] == ["0"]
        await journal.take("docs", [gone("a.zip")])
        await journal.run(lambda db: db.execute("UPDATE documents SET retry_at = 0 WHERE gone = 1"))
        removed = []
        while found := await journal.claim_gone(9):
            for each in found:
                removed.append(each.member)
                await journal.removed(each)
        assert removed[0] == ""
        assert len(removed) == 80
        assert list(await rows(journal)) == ["a.zip 0"]  # which is in hand

    with_journal(tmp_path / "j", body)


def test_a_container_that_cannot_be_read_takes_waiting_parts_along(tmp_path: Path) -> None:
    async def body(journal: Journal) -> None:
        row = await container(journal, "a.zip", part("x", b"x" * 16, -1))
        await journal.settle(row, "quarantined", "damaged", reason="damaged")
        found = await rows(journal)
        assert (found["a.zip x"].state, found["a.zip x"].reason) == (
            "quarantined", "its container is quarantined: damaged"
        )  # fmt: skip
        assert await journal.retry([row.id]) == 1
        (again,) = await journal.claim(9)
        await journal.list_parts(again, [part("x", b"x" * 16, 3)], 0)
        assert [each.member for each in await journal.claim(9)] == ["x"]

    with_journal(tmp_path / "j", body)


def test_a_journal_of_version_2_is_brought_up_to_date(tmp_path: Path) -> None:
    """Also by a command that only reads."""
    path = tmp_path / "j"
    old = SCHEMA
    for line in ("ALTER TABLE documents ADD COLUMN parent", "sealed", "media_type"):
        assert line.split()[-1] in MIGRATION
    old = old.replace(" parent TEXT,", "").replace("    sealed INTEGER NOT NULL DEFAULT 0, media_type TEXT,\n", "")
    old = old.replace("    parts INTEGER NOT NULL DEFAULT 0, PRIMARY", "    PRIMARY")
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    triggers = PARTS[PARTS.index("CREATE TRIGGER documents_added") :]
    for added in (", new.member != ''", ", parts = parts + excluded.parts", ", parts = parts - (old.member != '')"):
        triggers = triggers.replace(added, "")
    db.executescript(
        f"BEGIN; {old}"
        " CREATE INDEX queue ON documents(pool, source, fresh DESC, id) WHERE state = 'queued' AND gone = 0;"
        " CREATE INDEX loners ON documents(id) WHERE state = 'queued' AND gone = 0 AND alone = 1;"
        f" {triggers} PRAGMA user_version = 2; COMMIT;"
    )
    db.execute("INSERT INTO documents(source, path, state, chunks) VALUES ('docs', x'61', 'indexed', 7)")
    db.close()
    reader = connect(path, readonly=True)
    assert reader.execute("PRAGMA user_version").fetchone()[0] == VERSION
    assert journals.counts(reader)[1] == 7
    reader.close()
    fresh = connect(tmp_path / "fresh")
    migrated = connect(path)

    def schema(db: sqlite3.Connection) -> set[str]:
        return {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'")}

    assert schema(migrated) == schema(fresh)
    columns = "SELECT name FROM pragma_table_info('documents')"
    assert set(migrated.execute(columns)) == set(fresh.execute(columns))
    migrated.close()
    fresh.close()


@pytest.mark.parametrize(
    ("allowance", "packed", "exactly"),
    [
        (Allowance(ratio=4), 100, 400),
        (Allowance(ratio=5), None, 1000),  # of the file, of 200 bytes
        (Allowance(part=1000), None, 1000),
        (Allowance(size=1500, used=300, spent=200), None, 1000),
    ],
    ids=["ratio of a part", "ratio of a file", "size of a part", "size of all"],
)
def test_a_part_that_meets_a_limit_is_taken(
    allowance: Allowance, packed: int | None, exactly: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(types, "RATIO_FREE", 100)
    file = File(tmp_path, "a.zip", ".zip", "application/zip", 200, tmp_path, allowance=allowance)
    part = file.part("a", bytes(exactly), packed)
    assert part.path is not None
    assert part.path.stat().st_size == exactly
    if packed or allowance.part == exactly:
        assert file.part("a", bytes(exactly + 1), packed).error
    else:
        with pytest.raises(LimitError):
            file.part("a", bytes(exactly + 1), packed)
