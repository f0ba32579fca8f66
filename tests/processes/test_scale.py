"""A million journaled files: no statement of the daemon's life reads a whole table, however large it is."""

from __future__ import annotations

import asyncio
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ingestd import config as configuration
from ingestd.daemon import Daemon
from tests.benchmarks import unchanged
from tests.processes.daemons import write_config

FILES = 300
OF_WORK = {"queue", "loners", "tombstones", "held", "routed", "waiting", "troubles", "running", "moving", "batches"}
"""Indexes that hold only files that something is to be done about."""


def reads_a_table(plan: str) -> bool:
    """Or all rows of a source."""
    found = re.match(r"(SCAN|SEARCH) (documents|old|hashes|history)\b(?:.* USING (?:COVERING )?INDEX (\w+)(.*))?", plan)
    if found is None or found[3] in OF_WORK:
        return False
    return found[1] == "SCAN" or found[4] == " (source=?)"


class Explained(sqlite3.Connection):
    """Asks for the plan of each statement before it is carried out."""

    plans: dict[str, list[str]] = {}  # noqa: RUF012

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement not in self.plans and re.match(r"\s*(SELECT|UPDATE|DELETE|INSERT)", statement):
            rows = super().execute(f"EXPLAIN QUERY PLAN {statement}", *values)
            self.plans[statement] = [row[3] for row in rows]
        return super().execute(statement, *values)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await asyncio.sleep(0.1)


async def live(config: Path, folder: Path) -> None:
    """A start on a journal that has everything, each kind of change, and what people ask."""
    async with Daemon(configuration.load(config, os.environ)) as daemon:
        await daemon.started_up()
        await until(lambda: daemon.watching.ready)
        files = sorted(folder.rglob("*.txt"))

        async def ask(command: str, **arguments: Any) -> list[dict[str, Any]]:
            return [said async for said in daemon.handle(command, arguments)]

        async def states() -> dict[str, int]:
            counted: dict[str, int] = (await ask("status"))[0]["files"]
            return counted

        files[-1].write_text("changed")
        files[-2].unlink()
        files[-3].rename(folder / "moved.txt")
        (folder / "new.txt").write_text("new")
        async with asyncio.timeout(120):
            while daemon.dispatcher.files_done < 3 or sum((await states()).values()) != FILES:
                await asyncio.sleep(0.1)
        assert len((await ask("failures"))[0]["failures"]) == unchanged.QUARANTINED
        await ask("why", path=os.fsencode(files[-4]))
        await ask("retry", paths=[os.fsencode(files[0])])
        await ask("ingest", paths=[os.fsencode(folder)])


def test_no_statement_reads_a_whole_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = unchanged.folder(tmp_path / "docs", FILES)
    state = tmp_path / "state"
    unchanged.journaled(state, folder)
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **options: connect(*a, **options, factory=Explained))
    monkeypatch.setattr(Explained, "plans", {})
    asyncio.run(live(write_config(state, folder), folder))
    assert len(Explained.plans) > 40
    assert [statement for statement, plan in Explained.plans.items() if any(map(reads_a_table, plan))] == []
