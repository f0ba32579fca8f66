"""A fresh file, from its close to the search that finds it: on an idle daemon, and behind a backlog of 10,000 files.

The daemon's own record says where the time goes: the watch worker's part ends when the file is a row of the journal,
that of load, encode and index when the row is `indexed`. Only then is it searched for, so that no question is in the
way of what is measured. A close shortens the settle time, two seconds by default, to `CLOSED_WAIT`.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ingestd.control import Control
from ingestd.watch.settle import CLOSED_WAIT
from tests.benchmarks import folders, runs
from tests.benchmarks.figures import Figure, below, percentile
from tests.processes.daemons import RunningDaemon, running, write_config

GOAL = 0.5
"""Seconds beyond the settle time."""
LOOK = 0.002
PATIENCE = 120.0
TAKEN = 200
"""Files of the backlog that are indexed before the first fresh one comes: by then every window is full."""


class Times(NamedTuple):
    """Seconds since the close."""

    journaled: float
    indexed: float
    found: float


class Folder:
    """The watched folder and its daemon: `write` a file and see when it can be found."""

    def __init__(self, root: Path, daemon: RunningDaemon, journal: sqlite3.Connection, control: Control) -> None:
        self.root = root
        self.daemon = daemon
        self._journal = journal
        self._control = control
        self._prose = folders.Prose(11)
        self._written = 0

    def write(self) -> Times:
        self._written += 1
        path = self.root / f"fresh-{self._written:03}.txt"
        word = f"quagga{self._written}"
        path.write_text(f"{self._prose.paragraph(3)} {word}.\n")
        closed, unix = time.monotonic(), time.time()
        journaled = 0.0
        while True:
            passed = time.monotonic() - closed
            row = self._journal.execute(
                "SELECT state, at FROM documents LEFT JOIN history ON document = documents.id"
                " WHERE source = 'docs' AND path = ? ORDER BY history.id DESC LIMIT 1",
                (path.name.encode(),),
            ).fetchone()
            if row is not None:
                journaled = journaled or passed
                if row[0] == "indexed":
                    break
            if passed > PATIENCE:
                raise SystemExit(f"{path} is not indexed within {PATIENCE:.0f} s: {row}")
            time.sleep(LOOK)
        while not self._control.call("search", text=word, top=1, source="docs", path=str(path))["hits"]:
            pass
        return Times(journaled, float(row[1]) - unix, time.monotonic() - closed)


@contextlib.contextmanager
def watched(root: Path, state: Path, tables: dict[str, dict[str, Any]]) -> Iterator[Folder]:
    """A daemon on the folder with the settings that people have."""
    config = write_config(state, None, **tables)
    with config.open("a") as lines:
        lines.write(f'[[watch]]\nname = "docs"\ndirectory = {json.dumps(str(root))}\n')
    with running(config, state) as daemon:
        daemon.call("status", 60)
        with (
            contextlib.closing(sqlite3.connect(f"file:{state}/journal.sqlite?mode=ro", uri=True)) as journal,
            Control(state / "control.sock", timeout=60) as control,
        ):
            yield Folder(root, daemon, journal, control)
            if daemon.status()["files"]["queued"]:
                daemon.kill()  # nobody waits for the rest of the backlog


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("the daemon does not get on with its backlog")
        time.sleep(0.1)


def waits(title: str, files: int, times: int, sentences: int, tables: dict[str, dict[str, Any]]) -> list[Figure]:
    pick = random.Random(7)
    with runs.scratch() as scratch:
        runs.say(f"{title}: {times} files on an idle daemon")
        root = scratch / "idle"
        root.mkdir()
        with watched(root, scratch / "idle-state", tables) as folder:
            until(lambda: bool(folder.daemon.status()["ready"]))
            for _ in range(3):  # the first ones start what is started when it is needed
                folder.write()
            idle = []
            for _ in range(times):
                time.sleep(pick.uniform(0.3, 1.5))
                idle.append(folder.write())
        runs.say(f"{title}: the same behind a backlog of {files}")
        root = scratch / "busy"
        folders.one_line(root / "backlog", files, sentences=sentences)
        with watched(root, scratch / "busy-state", tables) as folder:
            until(lambda: folder.daemon.status()["files"]["indexed"] >= TAKEN)
            busy = [folder.write() for _ in range(times // 2)]
            left = folder.daemon.status()["files"]["queued"]
            runs.say(f"{left} files of the backlog are left")
    if not left:
        raise SystemExit("the backlog was too short")
    found = [one.found for one in idle]
    behind = [one.found for one in busy]
    return [
        Figure(f"{title}, idle ({len(idle)}): close to found, p50", f"{median(found):.2f} s"),
        Figure(f"{title}, idle: close to found, p99", f"{percentile(found, 0.99):.2f} s"),
        below(f"{title}, idle: beyond {CLOSED_WAIT:g} s of settling, p50", median(found) - CLOSED_WAIT, GOAL, "s"),
        Figure(
            f"{title}, idle: of it in watch, in load to index, in search",
            f"{(median(one.journaled for one in idle) - CLOSED_WAIT) * 1e3:.0f},"
            f" {median(one.indexed - one.journaled for one in idle) * 1e3:.0f},"
            f" {median(one.found - one.indexed for one in idle) * 1e3:.0f} ms",
        ),
        Figure(f"{title}, behind {files} ({len(busy)}): close to found, p50", f"{median(behind):.2f} s"),
        Figure(f"{title}, behind {files}: close to found, p99", f"{percentile(behind, 0.99):.2f} s"),
        Figure(
            f"{title}, behind {files}: in watch, in load to index, in search",
            f"{(median(one.journaled for one in busy) - CLOSED_WAIT) * 1e3:.0f},"
            f" {median(one.indexed - one.journaled for one in busy) * 1e3:.0f},"
            f" {median(one.found - one.indexed for one in busy) * 1e3:.0f} ms",
        ),
        Figure(f"{title}: behind {files} / idle, p50", f"{median(behind) / median(found):.1f}x"),
    ]


def measure(*, quick: bool) -> list[Figure]:
    if quick:
        return waits("hashing", 3000, 12, 1, {})
    return waits("hashing", 10_000, 40, 1, {}) + waits("real model", 10_000, 40, 5, runs.REAL)
