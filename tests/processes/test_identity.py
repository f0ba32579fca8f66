"""Nothing unchanged is done again: what restarts, renames, copies and changes cost, counted at the encoders."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from ingestd.daemon import Daemon
from ingestd.journal import Row
from tests.processes.daemons import HOSTILE, add_source, contents, write_config
from tests.processes.inside import events, inside, until

Identity = tuple[str, bytes, int, int, int, int]
"""Source, path, inode, size, mtime_ns, ctime_ns."""


class Folders:
    """Two watched folders, and what each step of their life costs."""

    def __init__(self, tmp_path: Path) -> None:
        self.sources = {"docs": tmp_path / "docs", "more": tmp_path / "more"}
        for folder in self.sources.values():
            folder.mkdir()
        self.docs, self.more = self.sources.values()
        self.state = tmp_path / "state"
        self.texts = 0
        """Chunks that the encoders were given since this was last set to 0."""
        self.loaded = 0
        """Files that were parsed."""

    def config(self, docs: dict[str, Any] | None = None, **tables: dict[str, Any]) -> Path:
        """`docs`: more keys of the first source."""
        config = write_config(self.state, None, **tables)
        add_source(config, "docs", self.docs, **docs or {})
        add_source(config, "more", self.more)
        return config

    def count(self, daemon: Daemon) -> None:
        """Count what goes to the encoders of this daemon, and what its load workers parsed."""
        encode, loaded = daemon.encoders.encode, daemon.journal.loaded

        async def counted(descriptor: int, texts: int, *rest: Any, **options: Any) -> int:
            self.texts += texts
            return await encode(descriptor, texts, *rest, **options)

        def parsed(row: Row) -> None:
            self.loaded += 1
            loaded(row)

        daemon.encoders.encode = counted  # type: ignore[method-assign]
        daemon.journal.loaded = parsed  # type: ignore[method-assign]

    def found(self) -> set[Identity]:
        identities = set()
        for name, root in self.sources.items():
            for directory, _, files in os.walk(root):
                for file in files:
                    path = os.path.join(directory, file)
                    stat = os.lstat(path)
                    relative = os.fsencode(os.path.relpath(path, root))
                    identities.add((name, relative, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
        return identities

    def journaled(self, daemon: Daemon) -> set[Identity]:
        with contextlib.closing(sqlite3.connect(daemon.journal.path)) as db:
            query = "SELECT source, path, inode, size, mtime_ns, ctime_ns FROM documents WHERE gone = 0"
            return set(db.execute(query).fetchall())

    async def settled(self, daemon: Daemon, timeout: float = 600) -> None:
        """Until every file is indexed as it is now, and nothing else is."""
        deadline = time.monotonic() + timeout
        query = "SELECT source, path, state, gone FROM documents WHERE state != 'indexed' OR gone LIMIT 5"

        async def unfinished() -> list[Any]:
            return await daemon.journal.read(lambda db: db.execute(query).fetchall())

        # Once more at last: a change may have been journaled just before the journal was compared with the folder.
        while await unfinished() or self.journaled(daemon) != self.found() or await unfinished():
            assert time.monotonic() < deadline, await unfinished()
            await asyncio.sleep(0.1)

    async def cost(self, daemon: Daemon) -> tuple[int, int]:
        """Files parsed and chunks encoded since the last time, once all is settled."""
        await self.settled(daemon)
        spent = self.loaded, self.texts
        self.loaded = self.texts = 0
        return spent


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def paragraph(number: int) -> str:
    return f"Paragraph {number} of a long document: " + f"word{number} thing{number} " * 60


FREE = (0, 0)


@pytest.mark.parametrize("files", [600, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_whole_directories_and_a_restart(folders: Folders, files: int) -> None:
    big = folders.docs / "deep" / "big"
    for number in range(files // 2):
        for folder in (big / f"d{number % 20}", folders.docs / "other"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.md").write_text(f"{number} {folder.name}: a line that no other file has")

    async def life(daemon: Daemon) -> None:
        folders.count(daemon)
        assert await folders.cost(daemon) == (files, files)
        # Within a source, between two sources, copies with and without their times.
        big.rename(folders.docs / "renamed")
        assert await folders.cost(daemon) == FREE
        (folders.docs / "renamed").rename(folders.more / "moved")
        assert await folders.cost(daemon) == FREE
        shutil.copytree(folders.more / "moved", folders.docs / "copied")
        assert await folders.cost(daemon) == FREE
        shutil.rmtree(folders.more / "moved")
        assert await folders.cost(daemon) == FREE
        shutil.copytree(folders.docs / "copied", folders.more / "again", copy_function=shutil.copyfile)
        assert await folders.cost(daemon) == FREE
        assert daemon.encoders.tokens > 0

    inside(folders.config(), life, watching=True)
    before = contents(folders.state)
    assert len(before[0]) == len(folders.found()) == files // 2 * 3
    told = events(folders.state)

    async def again(daemon: Daemon) -> None:
        folders.count(daemon)
        await daemon.started_up()
        await until(lambda: daemon.watching.ready)
        assert await folders.cost(daemon) == FREE
        assert daemon.encoders.tokens == daemon.dispatcher.files_done == 0

    inside(folders.config(), again, watching=True)
    assert events(folders.state) == told
    assert contents(folders.state) == before


def test_a_changed_paragraph_of_a_long_document(folders: Folders) -> None:
    text = [paragraph(number) for number in range(80)]
    path = folders.docs / "long.md"
    path.write_text("\n\n".join(text))

    async def body(daemon: Daemon) -> None:
        folders.count(daemon)
        loaded, whole = await folders.cost(daemon)
        assert (loaded, whole > 40) == (1, True)
        text[40] = "A paragraph about kingfishers, which were not there before."
        path.write_text("\n\n".join(text))
        loaded, changed = await folders.cost(daemon)
        assert loaded == 1
        assert 1 <= changed <= 3
        # Without its end.
        path.write_text("\n\n".join(text[:-1]))
        loaded, changed = await folders.cost(daemon)
        assert (loaded, changed <= 1) == (1, True)
        # Paragraphs in another order.
        path.write_text("\n\n".join([*text[20:], *text[:20]]))
        loaded, changed = await folders.cost(daemon)
        assert (loaded, changed <= 4) == (1, True)

    inside(folders.config(), body, watching=True)


def test_what_leaves_the_content_alone_embeds_nothing(folders: Folders) -> None:
    (folders.docs / "sub").mkdir()
    one, other = folders.docs / "one.md", folders.docs / "other.md"
    one.write_text("kingfishers by the river")
    other.write_text("herons in the reeds")

    async def body(daemon: Daemon) -> None:
        folders.count(daemon)
        assert await folders.cost(daemon) == (2, 2)
        one.chmod(0o600)  # ctime alone
        assert await folders.cost(daemon) == FREE
        os.utime(one)
        assert await folders.cost(daemon) == FREE
        os.utime(one, (1e9, 1e9))
        assert await folders.cost(daemon) == FREE
        one.write_bytes(one.read_bytes())
        assert await folders.cost(daemon) == FREE
        shutil.copy(one, folders.docs / "copy.md")
        assert await folders.cost(daemon) == FREE
        shutil.copy2(one, folders.more / "copy with its times.md")
        assert await folders.cost(daemon) == FREE
        (folders.docs / "sub" / "link.md").hardlink_to(one)
        assert await folders.cost(daemon) == FREE
        one.rename(folders.docs / "sub" / "renamed.md")
        assert await folders.cost(daemon) == FREE
        (folders.docs / "sub" / "renamed.md").rename(folders.more / "moved.md")
        assert await folders.cost(daemon) == FREE
        # A copy takes the place of another document, and what was there is written once more elsewhere.
        shutil.copy(folders.more / "moved.md", folders.docs / "beside.tmp")
        text = other.read_text()
        (folders.docs / "beside.tmp").rename(other)
        (folders.docs / "elsewhere.md").write_text(text)
        spent = await folders.cost(daemon)
        assert spent in (FREE, (1, 1)), spent  # the old text may be gone before its copy is met
        # One that comes back before its removal.
        kept = folders.docs.parent / "kept.md"
        (folders.docs / "elsewhere.md").rename(kept)
        await asyncio.sleep(1.5)
        kept.rename(folders.docs / "elsewhere.md")
        assert await folders.cost(daemon) == FREE

    inside(folders.config(), body, watching=True)
    by_name = {os.path.basename(path): digest for path, (_, digest, _) in contents(folders.state)[0].items()}
    assert len(set(by_name.values())) == 2
    assert by_name["other.md"] == by_name["moved.md"] != by_name["elsewhere.md"]


def test_a_reused_inode_is_no_rename(folders: Folders) -> None:
    path = folders.docs / "one.md"
    path.write_text("kingfishers by the river")

    async def body(daemon: Daemon) -> None:
        folders.count(daemon)
        assert await folders.cost(daemon) == (1, 1)
        inode = path.stat().st_ino
        path.unlink()
        for number in range(1000):  # the file system gives a freed one to a file to come, sooner or later
            reused = folders.docs / "two.md"
            reused.write_text("herons in the reeds, and not by the river")
            if reused.stat().st_ino == inode:
                break
            reused.rename(folders.docs / f"{number}.tmp")
        else:
            pytest.skip("cannot be had: a file system that uses inodes again")
        for other in folders.docs.glob("*.tmp"):
            other.unlink()
        assert await folders.cost(daemon) == (1, 1)
        hits = await daemon.search("kingfishers", 5, None, None)
        assert [os.path.basename(hit["path"]) for hit in hits] == ["two.md"]
        assert "herons" in hits[0]["text"]

    inside(folders.config(), body, watching=True)
    assert [os.path.basename(path) for path in contents(folders.state)[0]] == ["two.md"]


def test_a_device_number_alone_is_nothing(folders: Folders) -> None:
    for number in range(50):
        (folders.docs / f"{number}.md").write_text(f"text {number}")

    async def body(daemon: Daemon) -> None:
        folders.count(daemon)
        await folders.settled(daemon)

    inside(folders.config(), body, watching=True)
    assert folders.texts == 50
    with contextlib.closing(sqlite3.connect(folders.state / "journal.sqlite")) as db, db:
        db.execute("UPDATE documents SET device = device + 1000")  # as after a reboot
    folders.texts = folders.loaded = 0

    async def again(daemon: Daemon) -> None:
        folders.count(daemon)
        await until(lambda: daemon.watching.ready)
        (folders.docs / "0.md").unlink()
        (folders.docs / "1.md").rename(folders.more / "1.md")
        assert await folders.cost(daemon) == FREE

    inside(folders.config(), again, watching=True)
    assert len(contents(folders.state)[0]) == 49


CONSTANTS: list[dict[str, Any]] = [
    {},
    {"category_id": "birds"},
    {"category_id": "birds", "category_path": "animals/birds"},
    {"category_id": "fish", "category_path": "animals/fish", "metadata": {"owner": "Ms Heron", "year": 2026}},
    {"metadata": {"owner": "Mr Pike"}},
    {},
]


def test_changed_constants_of_a_source_embed_nothing(folders: Folders) -> None:
    for number in range(60):
        (folders.docs / f"{number}.md").write_text(f"text {number}")
        (folders.more / f"{number}.md").write_text(f"text {number} of more")

    async def life(daemon: Daemon, constants: dict[str, Any], expected: tuple[int, int]) -> None:
        """Until every document of the first source has these constants, and none of the other one has any."""
        folders.count(daemon)
        names = ("category_id", "category_path", "owner", "year")
        mine = {**dict.fromkeys(names), **constants, **constants.get("metadata", {})}
        wanted = {("docs", *(mine[name] for name in names)), ("more", None, None, None, None)}
        deadline = time.monotonic() + 60
        while True:
            hits = await daemon.search("text", 500, None, None)
            told = {(hit["source"], *(hit["metadata"].get(name) for name in names)) for hit in hits}
            if told == wanted and len(hits) == 120:
                break
            assert time.monotonic() < deadline, (told, len(hits))
            await asyncio.sleep(0.1)
        assert await folders.cost(daemon) == expected

    for constants in CONSTANTS:
        folders.texts = folders.loaded = 0
        expected = FREE if (folders.state / "journal.sqlite").exists() else (120, 120)
        inside(
            folders.config(constants), functools.partial(life, constants=constants, expected=expected), watching=True
        )


def test_changed_excludes_apply_to_what_is_indexed(folders: Folders) -> None:
    (folders.docs / "drafts").mkdir()
    for number in range(10):
        (folders.docs / f"{number}.md").write_text(f"text {number}")
        (folders.docs / "drafts" / f"{number}.md").write_text(f"draft {number}")
    everything = folders.found()

    async def first(daemon: Daemon) -> None:
        folders.count(daemon)
        assert await folders.cost(daemon) == (20, 20)

    inside(folders.config(), first, watching=True)
    assert len(contents(folders.state)[0]) == len(everything)

    async def excluded(daemon: Daemon) -> None:
        folders.count(daemon)
        await until(lambda: len(contents(folders.state)[0]) == 9)
        assert (folders.loaded, folders.texts) == FREE

    inside(folders.config({"exclude": ["drafts/", "7.md"]}), excluded, watching=True)
    left = {os.path.relpath(path, folders.docs) for path in contents(folders.state)[0]}
    assert left == {f"{number}.md" for number in range(10) if number != 7}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [("bad.hostile", "exit 3", "exit code 3"), ("bad.json", '{"bird": "heron", ', "JSON"), ("bad.docx", "PK\3\4", "")],
)
def test_a_quarantine_follows_the_content(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, name: str, text: str, reason: str
) -> None:
    monkeypatch.syspath_prepend(str(HOSTILE))
    path = folders.docs / name
    path.write_text(text)

    async def quarantined(daemon: Daemon, *names: str) -> None:
        query = "SELECT CAST(path AS TEXT) FROM documents WHERE state = 'quarantined' AND gone = 0"
        deadline = time.monotonic() + 60
        while True:
            found = {path for (path,) in await daemon.journal.read(lambda db: db.execute(query).fetchall())}
            if found == set(names) and folders.found() == folders.journaled(daemon):
                return
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.05)

    async def body(daemon: Daemon) -> None:
        await quarantined(daemon, name)
        deaths = daemon.load_pool.restarts
        attempts = len([event for event in events(folders.state) if reason in event])
        assert attempts == 1
        copy = folders.docs / f"copy of {name}"
        shutil.copy(path, copy)
        await quarantined(daemon, name, copy.name)
        path.rename(folders.docs / f"renamed {name}")
        await quarantined(daemon, f"renamed {name}", copy.name)
        told = events(folders.state)
        assert daemon.load_pool.restarts == deaths
        assert told.count("same content as a quarantined file") == 2
        async for answer in daemon.handle("why", {"path": os.fsencode(copy)}):
            assert reason in answer["reason"]

    inside(folders.config(load={"max_strikes": 1}), body, watching=True)
