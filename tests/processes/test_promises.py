"""What DESIGN promises of the whole, shown on a whole daemon."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from ingestd import blame
from ingestd.daemon import Daemon
from tests.mounting import fill, small_disk
from tests.processes.daemons import contents, environment, write_config
from tests.processes.daemons import ingestd as command
from tests.processes.inside import events, inside, states, take_in, until

ROOT = Path(__file__).parents[2]
HEAVY = (
    "torch", "numpy", "transformers", "sentence_transformers", "tokenizers", "safetensors", "pymupdf", "fitz", "docx",
    "pptx", "openpyxl", "lxml", "watchdog", "pathspec", "apsw", "sqlite_vec", "charset_normalizer", "ingestd_plugins",
)  # fmt: skip
FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "multiprocessing"}


@pytest.mark.parametrize("module", ["ingestd", "ingestd.daemon", "ingestd.commands", "ingestd.cli"])
def test_the_supervisor_imports_no_library_of_a_stage(module: str) -> None:
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & set(HEAVY)
    if module == "ingestd":
        assert "asyncio" not in loaded, "importing it starts nothing and costs nothing"


def sources() -> list[Path]:
    found = [*(ROOT / "daemon").rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    assert len(found) > 40
    return found


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_unpickled_or_evaluated(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("eval", "exec", "compile", "__import__"), f"{path}:{node.lineno}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
            assert not (isinstance(node.func.value, ast.Name) and node.func.value.id == "torch"), (
                f"{path}:{node.lineno}"
            )
        for name in names:
            assert name.partition(".")[0] not in FORBIDDEN, f"{path}:{node.lineno}"  # type: ignore[attr-defined]


def test_an_unchanged_restart_does_nothing_again(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    for number in range(2000):
        place = folder / f"d{number % 20}" / f"f{number}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"line number {number}")
    state = tmp_path / "state"
    config = write_config(state, folder)

    async def first(daemon: Daemon) -> dict[str, Any]:
        return await take_in(daemon, folder)

    summary = inside(config, first)
    assert (summary["indexed"], summary["failures"]) == (2000, [])
    assert states(state) == {"indexed": 2000}
    before = events(state)

    async def again(daemon: Daemon) -> None:
        summary = await take_in(daemon, folder)
        assert (summary["indexed"], summary["unchanged"]) == (0, 2000)
        assert not daemon.encoders.wanted.is_set()
        assert not daemon.dispatcher.wanted.is_set()
        assert daemon.load_pool.workers == daemon.encode_pool.workers == set()

    inside(config, again)

    async def watched(daemon: Daemon) -> None:
        await daemon.started_up()
        await until(lambda: daemon.watching.ready)
        assert daemon.encoders.tokens == 0
        assert daemon.dispatcher.files_done == 0

    inside(config, watched, watching=True)
    assert events(state) == before


class Folder:
    """A watched folder, and how many tokens and chunks each step of its life costs."""

    def __init__(self, daemon: Daemon, folder: Path) -> None:
        self.daemon = daemon
        self.folder = folder
        self.tokens = 0

    async def settled(self, documents: set[str]) -> int:
        """Wait until just these documents are indexed; returns the tokens encoded since the last step."""
        deadline = time.monotonic() + 60
        while True:
            found = await self.daemon.journal.read(
                lambda db: db.execute("SELECT path, state, gone FROM documents").fetchall()
            )
            if {(os.fsdecode(path), state, gone) for path, state, gone in found} == {
                (name, "indexed", 0) for name in documents
            }:
                break
            assert time.monotonic() < deadline, found
            await asyncio.sleep(0.05)
        spent = self.daemon.encoders.tokens - self.tokens
        self.tokens = self.daemon.encoders.tokens
        return spent

    async def searchable(self, word: str) -> None:
        deadline = time.monotonic() + 60
        while not any(word in hit["text"] for hit in await self.daemon.search(word, 5, None, None)):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)


def paragraphs(name: str, count: int) -> list[str]:
    return [f"Paragraph {number} of {name}: " + f"word{number} {name}{number} " * 60 for number in range(count)]


def test_only_what_changed_is_embedded(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)
    text = paragraphs("alpha", 20)
    (folder / "a.md").write_text("\n\n".join(text))
    (folder / "b.md").write_text("\n\n".join(paragraphs("beta", 3)))
    state = tmp_path / "state"

    async def body(daemon: Daemon) -> None:
        watched = Folder(daemon, folder)
        whole = await watched.settled({"a.md", "b.md"})
        assert whole > 2000
        # A rename and a copy: nothing.
        (folder / "a.md").rename(folder / "sub" / "renamed.md")
        shutil.copy(folder / "b.md", folder / "copy.md")
        assert await watched.settled({"sub/renamed.md", "b.md", "copy.md"}) == 0
        # Its modification time alone: nothing.
        os.utime(folder / "b.md")
        await asyncio.sleep(0.5)
        assert await watched.settled({"sub/renamed.md", "b.md", "copy.md"}) == 0
        # One paragraph: few chunks.
        text[10] = "A paragraph about kingfishers, which were not there before."
        (folder / "sub" / "renamed.md").write_text("\n\n".join(text))
        await watched.searchable("kingfishers")
        spent = await watched.settled({"sub/renamed.md", "b.md", "copy.md"})
        assert 0 < spent < whole / 4
        # A deletion removes.
        (folder / "copy.md").unlink()
        (folder / "b.md").unlink()
        assert await watched.settled({"sub/renamed.md"}) == 0

    inside(write_config(state, folder), body, watching=True)
    documents, _ = contents(state)
    assert {os.path.relpath(path, folder) for path in documents} == {"sub/renamed.md"}


def test_a_failed_version_leaves_the_last_good_one(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    path = folder / "data.json"
    path.write_text(json.dumps({"bird": "kingfisher on the river bank"}))
    state = tmp_path / "state"
    config = write_config(state, None, load={"max_strikes": 1})

    async def body(daemon: Daemon) -> None:
        assert (await take_in(daemon, folder))["indexed"] == 1
        path.write_text('{"bird": "heron", ')
        summary = await take_in(daemon, folder)
        assert (summary["indexed"], summary["quarantined"]) == (0, 1)
        hits = await daemon.search("kingfisher", 1, None, None)
        assert "kingfisher" in hits[0]["text"]
        async for told in daemon.handle("why", {"path": os.fsencode(path)}):
            assert told["state"] == "quarantined"
            assert "an older version of it is searchable" in told["reason"]
        path.write_text(json.dumps({"bird": "heron in the reeds"}))
        assert (await take_in(daemon, folder))["indexed"] == 1
        assert "heron" in (await daemon.search("heron", 1, None, None))[0]["text"]

    inside(config, body)


def test_another_model_is_refused_until_the_index_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("kingfisher")
    state = tmp_path / "state"

    async def body(daemon: Daemon) -> None:
        assert (await take_in(daemon, folder))["indexed"] == 1

    inside(write_config(state, None), body)
    config = write_config(state, None, encode={"model": "hashing-128"})
    (folder / "b.md").write_text("heron")
    refused = command(config, "ingest", str(folder))
    assert refused.returncode == 3
    assert "was made with other settings: model was 'hashing', is 'hashing-128'" in refused.stderr
    assert "ingestd reindex" in refused.stderr
    assert "Traceback" not in refused.stderr
    anew = command(config, "reindex")
    assert anew.returncode == 0, anew.stderr

    async def again(daemon: Daemon) -> None:
        await take_in(daemon, folder)
        assert (await daemon.search("heron", 1, None, None))[0]["path"] == str(folder / "b.md")

    inside(config, again)
    assert len(contents(state)[0]) == 2


def test_a_copy_of_what_the_index_has_lost(tmp_path: Path) -> None:
    """The journal thinks that the index has it; to re-key it would fail for ever."""
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("kingfisher")
    state = tmp_path / "state"
    config = write_config(state, None)

    async def body(daemon: Daemon) -> dict[str, Any]:
        return await asyncio.wait_for(take_in(daemon, folder), 60)

    assert inside(config, body)["indexed"] == 1
    shutil.rmtree(state / "index")
    shutil.copy(folder / "a.md", folder / "copy.md")
    assert inside(config, body)["indexed"] >= 1
    inside(config, body)
    assert {os.path.basename(path) for path in contents(state)[0]} == {"a.md", "copy.md"}


def test_what_the_index_committed_and_the_journal_never_learnt(tmp_path: Path) -> None:
    """Killed between the two commits; then the file becomes one that no loader takes, or goes."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("program.txt", "gone.txt", "kept.txt"):
        (folder / name).write_text(f"the text of {name}")
    state = tmp_path / "state"
    config = write_config(state, None)

    async def body(daemon: Daemon) -> dict[str, Any]:
        return await asyncio.wait_for(take_in(daemon, folder), 60)

    assert inside(config, body)["indexed"] == 3
    with contextlib.closing(sqlite3.connect(state / "journal.sqlite")) as db, db:
        db.execute("UPDATE documents SET state = 'running', indexed_digest = NULL, indexed_loader = NULL, chunks = 0")
        db.execute("DELETE FROM hashes")
    (folder / "program.txt").write_bytes(b"\x7fELF\x02\x01\x01\0 and so on")
    (folder / "gone.txt").unlink()
    assert inside(config, body)["skipped"] == 1

    async def until_gone(daemon: Daemon) -> None:
        deadline = time.monotonic() + 60
        while len(contents(state)[0]) > 1:
            assert time.monotonic() < deadline, contents(state)
            await asyncio.sleep(0.2)

    inside(config, until_gone)
    documents, chunks = contents(state)
    assert [os.path.basename(path) for path in documents] == ["kept.txt"]
    assert len(chunks) == 1


def test_a_clock_that_is_set_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits for a moment, a deletion or another attempt, does not wait for the old time to come round again."""
    folder = tmp_path / "docs"
    folder.mkdir()
    for name in ("kept.txt", "gone.txt"):
        (folder / name).write_text(f"the text of {name}")
    state = tmp_path / "state"
    now = time.time

    async def waits(daemon: Daemon) -> int:
        query = "SELECT count(*) FROM documents WHERE gone = 1 AND state = 'queued'"
        (found,) = await daemon.journal.read(lambda db: db.execute(query).fetchone())
        return int(found)

    async def body(daemon: Daemon) -> None:
        watched = Folder(daemon, folder)
        await watched.settled({"kept.txt", "gone.txt"})
        (folder / "gone.txt").unlink()
        while not await waits(daemon):
            await asyncio.sleep(0.02)
        monkeypatch.setattr(time, "time", lambda: now() - 86400)
        await watched.settled({"kept.txt"})

    try:
        inside(write_config(state, folder), body, watching=True)
    finally:
        monkeypatch.undo()
    assert [os.path.basename(path) for path in contents(state)[0]] == ["kept.txt"]


def test_a_full_disk_pauses_and_resumes(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(60):
        (folder / f"f{number}.md").write_text("\n\n".join(paragraphs(f"f{number}x", 6)))
    with small_disk(tmp_path / "disk", "24m") as disk:
        state = disk / "state"

        async def body(daemon: Daemon) -> None:
            filler = fill(disk)
            work = asyncio.ensure_future(take_in(daemon, folder))
            deadline = time.monotonic() + 60
            while not any("full" in warning for warning in (await daemon.status())["warnings"]):
                assert time.monotonic() < deadline
                assert not work.done()
                await asyncio.sleep(0.1)
            await asyncio.sleep(1.0)
            filler.unlink()
            summary = await asyncio.wait_for(work, 120)
            assert (summary["indexed"], summary["failures"]) == (60, [])
            assert not any("full" in warning for warning in (await daemon.status())["warnings"])

        inside(write_config(state, None), body)
        assert not any("strike" in event for event in events(state))
        assert len(contents(state)[0]) == 60


MOODY = """
from pathlib import Path
from ingestd.hookspecs import hookimpl
from ingestd.types import Element
class Moody:
    name, version, suffixes, media_types = "moody", "1", [".moody"], ["application/x-moody"]
    def load(self, file):
        if (file.path.resolve().parent / "broken.tmp").exists():
            raise RuntimeError(f"cannot reach the licence server for {file.size}")
        yield Element(file.path.read_text())
@hookimpl
def register_loaders(): return [Moody()]
"""


def test_a_common_cause_strikes_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    info = site / "moody-1.dist-info"
    info.mkdir(parents=True)
    (site / "moody.py").write_text(MOODY)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: moody\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ingestd]\nmoody = moody\n")
    monkeypatch.syspath_prepend(str(site))
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(blame.ALIKE + 10):
        (folder / f"f{number}.moody").write_text(f"text {number}")
    flag = folder / "broken.tmp"
    flag.touch()
    state = tmp_path / "state"

    async def body(daemon: Daemon) -> None:
        work = asyncio.ensure_future(take_in(daemon, folder))
        await until(lambda: "moody" in daemon.dispatcher.causes.warnings)
        assert "failed alike: RuntimeError: cannot reach the licence server" in daemon.troubles[0]
        flag.unlink()
        summary = await asyncio.wait_for(work, 60)
        assert (summary["indexed"], summary["failed"], summary["quarantined"]) == (blame.ALIKE + 10, 0, 0)
        assert daemon.troubles == []

    inside(write_config(state, None), body)


def test_a_defect_leaves_no_file_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(5):
        (folder / f"f{number}.txt").write_text(f"text {number}")
    state = tmp_path / "state"

    async def body(daemon: Daemon) -> None:
        index = daemon.indexer.write
        failures = [KeyError("a defect"), KeyError("a defect")]

        async def write(*arguments: Any) -> Any:
            if failures:
                raise failures.pop()
            return await index(*arguments)

        monkeypatch.setattr(daemon.indexer, "write", write)
        summary = await asyncio.wait_for(take_in(daemon, folder), 60)
        assert (summary["indexed"], summary["failures"]) == (5, [])

    inside(write_config(state, None), body)
    interrupted = [event for event in events(state) if "interrupted" in event]
    assert interrupted == ["interrupted: its outcome was not recorded: KeyError: 'a defect'"] * 2


def test_few_descriptors_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More small documents than an ordinary limit has descriptors for, and an encoder that cannot keep up."""
    engines = Path(__file__).parent / "engines"
    monkeypatch.setenv("PYTHONPATH", str(engines), prepend=os.pathsep)
    monkeypatch.setenv("ENGINES_DIRECTORY", str(tmp_path))
    folder = tmp_path / "docs"
    folder.mkdir()
    for number in range(250):
        (folder / f"f{number}.txt").write_text(f"dawdle {number}")
    config = write_config(
        tmp_path / "state", None, encode={"engine": "obedient", "devices": ["cpu"], "batch_tokens": 16}
    )
    script = f"ulimit -n 160; exec '{sys.executable}' -m ingestd --config '{config}' ingest --json '{folder}'"
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["indexed"] == 250
