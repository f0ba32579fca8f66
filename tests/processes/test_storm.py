"""The index follows the folder, whatever happens to both: a storm of operations, with kills in between."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestd.control import Control
from ingestd.errors import IngestdError
from ingestd.types import document_id
from tests.processes.daemons import RunningDaemon, add_source, contents, left_over, running, write_config
from tests.processes.storm import Storm, expected

RESTS = 5
"""Moments during the storm in which folder and index are compared."""
PAUSE = 0.016
"""Seconds between two operations, on average."""
STEADY = 2.5
"""Seconds that index and folder stay equal once they are: longer than a rescan interval."""
CALM = 120.0
"""Seconds until they are equal, at the most."""
BURST = 40
"""One operation in so many begins a row of as many without a pause."""
KILLS = {"watch": 130, "supervisor": 400, "load": 500, "index": 500, "encode": 700}
"""Operations between two kills."""
ACTS = {"stop": 650, "ingest": 230, "pause": 270, "reload": 330}
"""Operations between two times that a person does this."""
PAUSED = 60
"""Operations for which a source is paused."""


class Stormy:
    """A daemon with three sources, two of them on one file system: events, events on another one, polling."""

    def __init__(self, tmp_path: Path, elsewhere: Path, seed: int) -> None:
        self.sources = {"docs": tmp_path / "docs", "polled": tmp_path / "polled", "elsewhere": elsewhere}
        self.state = tmp_path / "state"
        outside = tmp_path / "outside"
        for folder in (*self.sources.values(), outside):
            folder.mkdir(exist_ok=True)
        self.storm = Storm(seed, list(self.sources.values()), outside)
        self.dice = random.Random(seed + 1)
        self.kills: Counter[str] = Counter()
        self.category = "0"
        """What the configuration adds to every document now."""
        self.ingests: list[threading.Thread] = []

    def config(self, state: Path) -> Path:
        path = write_config(state, None)
        for name, directory in self.sources.items():
            keys = {"mode": "poll" if name == "polled" else "inotify", "category_id": self.category}
            add_source(path, name, directory, max_settle="3s", hold_deletes=1.0, **keys)
        return path

    def blow(self, daemon: RunningDaemon, operations: int) -> None:
        rush = 0
        for _ in range(operations):
            self.storm.step()
            rush = rush - 1 if rush else BURST * (self.dice.random() < 1 / BURST)
            time.sleep(0 if rush else self.dice.random() * 4 * PAUSE)
            number = sum(self.storm.done.values())
            for role, between in KILLS.items():
                if number % between == between // 2:
                    self.kill(daemon, role)
            for act, between in ACTS.items():
                if number % between == between // 2:
                    self.act(daemon, act)
                elif act == "pause" and number % between == between // 2 + PAUSED:
                    daemon.call("resume", CALM, source=None)

    def kill(self, daemon: RunningDaemon, role: str) -> None:
        if role == "supervisor":
            daemon.kill()
            daemon.start()
        else:
            chosen = [worker["pid"] for worker in daemon.call("status", CALM)["workers"] if worker["stage"] == role]
            if not chosen:  # there is none yet, or it is about to be replaced
                return
            try:
                os.kill(self.dice.choice(chosen), signal.SIGKILL)
            except ProcessLookupError:
                return
        self.kills[role] += 1

    def act(self, daemon: RunningDaemon, act: str) -> None:
        name = self.dice.choice(list(self.sources))
        match act:
            case "stop":
                assert daemon.stop(CALM) == 0
                daemon.start()
            case "ingest":
                thread = threading.Thread(target=self.ingest, args=(daemon, self.sources[name]))
                thread.start()
                self.ingests.append(thread)
            case "pause":
                daemon.call("pause", CALM, source=name)
            case "reload":
                daemon.call("status", CALM)  # it has read the file that is written now
                self.category = str(int(self.category) + 1)
                self.config(self.state)
                daemon.call("reload", CALM)
        self.kills[act] += 1

    def ingest(self, daemon: RunningDaemon, folder: Path) -> None:
        """A person asks for what the daemon does anyhow, and may be disappointed when it dies."""
        with contextlib.suppress(IngestdError), Control(self.state / "control.sock", timeout=CALM) as control:
            control.call("ingest", paths=[os.fsencode(folder)])

    def differences(self, status: dict[str, Any]) -> dict[str, tuple[object, object]]:
        """What is other than it should be: path to the digest that the folder has, and the one that the index has."""
        wanted = expected(self.storm.roots)
        found = {path: digest for path, (_, digest, _) in contents(self.state)[0].items()}
        different: dict[str, tuple[object, object]] = {
            path: (wanted.indexed.get(path), found.get(path))
            for path in sorted(wanted.indexed.keys() | found.keys())
            if wanted.indexed.get(path) != found.get(path) and path.partition("!/")[0] not in wanted.quarantined
        }
        numbers = dict.fromkeys(status["files"], 0) | {name: len(files) for name, files in wanted._asdict().items()}
        older = self.older(wanted.quarantined)
        for state, number in numbers.items():
            number += older[state]
            if status["files"][state] != number:
                different[state] = number, status["files"][state]
        return different

    def older(self, quarantined: Collection[str]) -> Counter[str]:
        """Parts by state of files that were archives, and are now nothing that can be read: the older version stays."""
        db = sqlite3.connect(self.state / "journal.sqlite")
        rows = db.execute("SELECT source, path, state FROM documents WHERE member != '' AND gone = 0").fetchall()
        db.close()
        return Counter(
            state for source, path, state in rows if f"{self.sources[source]}/{path.decode()}" in quarantined
        )

    def rest(self, daemon: RunningDaemon) -> None:
        """Nothing more is done to the folders: soon the index equals them, and stays so."""
        daemon.call("resume", CALM, source=None)
        for path in self.storm.files():
            if path.suffix == ".zip" and not path.stat().st_size:  # no archive: what older version is kept is luck
                path.unlink()
        while self.ingests:
            self.ingests.pop().join(CALM)
        deadline = time.monotonic() + CALM
        equal_since: float | None = None
        while equal_since is None or time.monotonic() - equal_since < STEADY:
            status = daemon.wait(CALM)
            if different := self.differences(status):
                equal_since = None
                if time.monotonic() > deadline:
                    raise AssertionError(self.report(daemon, different))
                time.sleep(0.2)
            elif equal_since is None:
                equal_since = time.monotonic()
        found, chunks = contents(self.state)
        assert len(set(chunks)) == len(chunks) == status["chunks"]
        for path, (identity, _, _) in found.items():
            (name,) = (name for name, folder in self.sources.items() if Path(path).is_relative_to(folder))
            file, _, member = os.path.relpath(path, self.sources[name]).partition("!/")
            assert identity == document_id(name, os.fsencode(file), member)
        hits = daemon.call("search", CALM, text="version word1 word2", top=500, source=None, path=None)["hits"]
        assert {hit["metadata"]["category_id"] for hit in hits} <= {self.category}

    def report(self, daemon: RunningDaemon, different: dict[str, tuple[object, object]]) -> str:
        """What differs, what the daemon knows of it, and what was done there."""
        lines = [f"seed {self.storm.seed}, after {sum(self.storm.done.values())} operations: {daemon.status()}"]
        troubles = [trouble["path"] for trouble in daemon.call("failures")["failures"]]
        for path in [*different, *troubles][:20]:
            if path in different:
                lines.append(f"{path}: wanted %s, found %s" % different[path])
            places = path.split("!/") if "/" in path else []
            for number in range(len(places), 0, -1):  # a member's containers too, outwards
                lines += [f"    {line}" for line in told(daemon, "!/".join(places[:number]))]
            lines += [f"    {line}" for line in self.storm.about(places[0])] if places else []
        return "\n".join([*lines, daemon.tail()])


def told(daemon: RunningDaemon, path: str) -> list[str]:
    """What `why` says of a path, in lines."""
    try:
        why = daemon.call("why", path=os.fsencode(path))
    except IngestdError as error:
        return [error.message]
    history = [f"{line['at']:.3f} {line['event']}" for line in why["history"]]
    return [f"{why['state']}, {why['reason']}, attempts {why['attempts']}, {why['digest']}", *history]


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder on another file system than the test's own, where there is one."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        yield tmp_path / "elsewhere"
        return
    folder = Path(tempfile.mkdtemp(prefix="ingestd-storm-", dir=memory))
    yield folder
    shutil.rmtree(folder)


def run_storm(tmp_path: Path, elsewhere: Path, operations: int, seed: int) -> None:
    stormy = Stormy(tmp_path, elsewhere, seed)
    began = time.monotonic()
    try:
        with running(stormy.config(stormy.state), stormy.state) as daemon:
            for number in range(RESTS + 1):
                stormy.blow(daemon, operations * (number + 1) // (RESTS + 1) - sum(stormy.storm.done.values()))
                blown = time.monotonic()
                stormy.rest(daemon)
                print(f"{sum(stormy.storm.done.values())} operations: equal after {time.monotonic() - blown:.1f} s")
            for path in stormy.storm.files():  # what older version of one is kept is a matter of luck
                if path.suffix == ".json":
                    path.unlink()
            stormy.rest(daemon)
            files = len(stormy.storm.files())
            assert daemon.stop() == 0
    finally:
        stormy.storm.close()
        print(f"seed {seed}, {time.monotonic() - began:.0f} s: {dict(stormy.storm.done.most_common())}")
        print(f"killed and done meanwhile: {dict(stormy.kills)}")
    assert files
    assert stormy.kills["watch"]
    assert stormy.kills["supervisor"]
    assert not left_over(stormy.state)

    calm = tmp_path / "calm"
    with running(stormy.config(calm), calm) as daemon:
        daemon.wait(CALM)
    assert contents(calm) == contents(stormy.state)


@pytest.mark.timeout(3600)  # `--operations` may ask for many; every wait has a deadline of its own
@pytest.mark.parametrize(("operations", "seed"), [(1500, 5), pytest.param(5000, 6, marks=pytest.mark.slow)])
def test_a_storm(tmp_path: Path, elsewhere: Path, request: pytest.FixtureRequest, operations: int, seed: int) -> None:
    option = request.config.getoption
    run_storm(tmp_path, elsewhere, option("--operations") or operations, option("--seed") or seed)
