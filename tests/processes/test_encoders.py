"""Encoders that are killed, hang, run out of memory or meet poison: only the poisoned file is the worse for it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ingestd import encoders
from ingestd.daemon import Daemon
from ingestd.errors import IngestdError
from ingestd.supervisor import StartError
from tests.processes.daemons import ingestd, write_config
from tests.processes.inside import events, inside, states, take_in, until

ENGINES = Path(__file__).parent / "engines"


class Bench:
    """A folder, a state directory and an engine that notes its calls."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path / "docs"
        self.folder.mkdir()
        self.state = path / "state"

    def config(self, engine: str = "obedient", devices: int = 2) -> Path:
        encode = {"engine": engine, "model": "hashing", "devices": ["cpu"] * devices}
        return write_config(self.state, None, encode=encode, load={"workers": 1})

    def write(self, count: int, words: str = "") -> None:
        for number in range(count):
            paragraphs = [f"The number{number} part{part} of it is here. {words}" for part in range(3)]
            (self.folder / f"f{number}.md").write_text(f"# Title{number}\n\n" + "\n\n".join(paragraphs))

    def calls(self) -> list[list[int]]:
        """(pid, whether a text said "dawdle", texts, tokens) of each."""
        calls = self.path / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [[int(word) for word in line.split()] for line in lines]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.syspath_prepend(str(ENGINES))
    monkeypatch.setenv("PYTHONPATH", str(ENGINES), prepend=os.pathsep)
    monkeypatch.setenv("ENGINES_DIRECTORY", str(tmp_path))
    return Bench(tmp_path)


async def found(daemon: Daemon, text: str) -> str:
    hits = await daemon.search(text, 1, None, None)
    return Path(hits[0]["path"]).name if hits else ""


def test_two_devices_share_and_a_killed_one_loses_nothing(bench: Bench) -> None:
    bench.write(60, "dawdle")

    async def body(daemon: Daemon) -> None:
        work = asyncio.ensure_future(take_in(daemon, bench.folder))
        killed: set[int] = set()

        def at_work() -> list[int]:
            called = {pid for pid, dawdles, _, _ in bench.calls() if dawdles} - killed
            return [w.pid for w in daemon.encode_pool.workers if w.state == "running" and w.pid in called]

        for _ in range(2):
            await until(at_work)
            victim = at_work()[0]
            killed.add(victim)
            os.kill(victim, signal.SIGKILL)
        summary = await work
        assert (summary["indexed"], summary["failed"], summary["quarantined"]) == (60, 0, 0)
        for number in (0, 17, 59):
            assert await found(daemon, f"number{number} part1 Title{number}") == f"f{number}.md"
        await until(lambda: all(worker.state != "starting" for worker in daemon.encode_pool.workers))
        status = await daemon.status()
        assert [encoder["device"] for encoder in status["encoders"]] == ["cpu", "cpu"]

    inside(bench.config(), body)
    busy = {pid for pid, dawdles, _, _ in bench.calls() if dawdles}
    assert len(busy) >= 3, "both devices worked, and a successor"


def test_a_few_documents_are_work_for_all_devices(bench: Bench) -> None:
    """Far less than one device's window."""
    bench.write(12, "dawdle")

    async def body(daemon: Daemon) -> None:
        daemon.encoders.wanted.set()
        await until(lambda: len([w for w in daemon.encode_pool.workers if w.state == "idle"]) == 2)
        assert (await take_in(daemon, bench.folder))["indexed"] == 12

    inside(bench.config(), body)
    share = Counter(pid for pid, dawdles, _, _ in bench.calls() if dawdles)
    assert len(share) == 2


def test_a_hung_encoder_is_replaced(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoders, "SILENCE", 1.0)
    bench.write(20)
    (bench.folder / "once.md").write_text("It will hangonce, and then be well.")

    async def body(daemon: Daemon) -> dict[str, Any]:
        return await take_in(daemon, bench.folder)

    summary = inside(bench.config(devices=1), body)
    assert (summary["indexed"], summary["failures"]) == (21, [])
    assert len({pid for pid, *_ in bench.calls()}) == 2


@pytest.mark.parametrize(("word", "cause"), [("poisonpill", "exit code 5"), ("hangalways", "no answer for")])
def test_poison_costs_its_own_document(bench: Bench, monkeypatch: pytest.MonkeyPatch, word: str, cause: str) -> None:
    if word == "hangalways":  # it costs a second each time, so that it is a document of one chunk
        monkeypatch.setattr(encoders, "SILENCE", 0.8)
    bench.write(20)
    filler = f"It {'has many words ' * 90}" if word == "poisonpill" else ""
    (bench.folder / "poison.md").write_text(f"{filler}\n\nThis one is a {word}.\n")

    async def body(daemon: Daemon) -> dict[str, Any]:
        summary = await take_in(daemon, bench.folder)
        if word == "poisonpill":  # in a question too
            with pytest.raises(IngestdError, match="the question cannot be encoded"):
                await daemon.search(word, 1, None, None)
        assert await found(daemon, "number7 part2 Title7") == "f7.md"
        deaths = daemon.encode_pool.restarts
        shutil.copy(bench.folder / "poison.md", bench.folder / "copy.md")
        again = await take_in(daemon, bench.folder / "copy.md")
        assert again["quarantined"] == 1
        assert "same content as a quarantined file" in events(bench.state)
        if word == "poisonpill":  # where a hang is called one after a second, innocents are killed too
            assert daemon.encode_pool.restarts == deaths
        return summary

    summary = inside(bench.config(devices=1), body)
    assert (summary["indexed"], summary["quarantined"], summary["failed"]) == (20, 1, 0)
    (failure,) = summary["failures"]
    assert Path(failure["path"]).name == "poison.md"
    assert "kills the encoder" in failure["reason"]
    assert cause in failure["reason"]


def test_out_of_memory_halves(bench: Bench) -> None:
    bench.write(30)

    async def body(daemon: Daemon) -> dict[str, Any]:
        summary = await take_in(daemon, bench.folder)
        assert await found(daemon, "number3 part0 Title3") == "f3.md"
        return summary

    # One document of many chunks arrives as a whole, however slowly the others come.
    sections = [f"# Section{number}\n\nIt says sentence{number} and some more words." for number in range(40)]
    (bench.folder / "long.md").write_text("\n\n".join(sections))
    summary = inside(bench.config("short", devices=1), body)
    assert (summary["indexed"], summary["failures"]) == (31, [])
    sizes = [tokens for _, _, texts, tokens in bench.calls() if texts > 1]
    assert max(sizes) > 60
    assert len([size for size in sizes if size > 60]) < 10, "it is not tried with as much again"
    assert len({pid for pid, *_ in bench.calls()}) == 1


def test_a_device_that_fails_its_warm_up_blames_no_file(bench: Bench) -> None:
    bench.write(3)
    config = bench.config("broken")

    async def body(daemon: Daemon) -> None:
        with pytest.raises(StartError, match=r"fails its warm-up batch on cpu: RuntimeError: .* off the bus"):
            await take_in(daemon, bench.folder)

    inside(config, body)
    assert set(states(bench.state)) <= {"queued", "running"}
    done = ingestd(config, "ingest", str(bench.folder))
    assert done.returncode == 3, done.stderr
    assert "fallen off the bus" in done.stderr
    assert "Traceback" not in done.stderr
    db = sqlite3.connect(bench.state / "journal.sqlite")
    assert db.execute("SELECT count(*) FROM strikes").fetchone() == (0,)
    assert db.execute("SELECT count(*) FROM documents WHERE interruptions > 0").fetchone() == (0,)
    db.close()
    # The next run, with an engine that works, takes them in.
    assert ingestd(bench.config(), "ingest", str(bench.folder)).returncode == 0
    assert states(bench.state) == {"indexed": 3}
