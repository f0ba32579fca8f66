"""What a service manager is told, by a real daemon, over a real datagram socket; tests/systemd has a real systemd."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingestd import service
from ingestd.daemon import Daemon
from ingestd.service import describe
from ingestd.supervisor import StartError
from tests.processes.daemons import RunningDaemon, add_source, ingestd, running, write_config
from tests.processes.inside import inside, take_in, until

pytest.importorskip("systemd.daemon", reason="cannot be had: without a compiler; see the step of systemd in .ci/run")
PATIENCE = 60.0


class Manager:
    """Takes what a service says of itself."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(path))
        self.said: list[str] = []

    def hear(self, seconds: float) -> list[str]:
        """The next message, line by line; nothing after `seconds` of silence."""
        self._socket.settimeout(seconds)
        try:
            lines = self._socket.recv(65536).decode().splitlines()
        except TimeoutError:
            return []
        self.said += lines
        return lines

    def until(self, wanted: Callable[[str], bool]) -> str:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for line in self.hear(1.0):
                if wanted(line):
                    return line
        raise AssertionError(self.said)

    def drain(self) -> None:
        while self.hear(0.01):
            pass


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    path = tmp_path / "notify"
    found = Manager(path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    yield found
    found._socket.close()


def test_the_life_of_a_service(tmp_path: Path, manager: Manager) -> None:
    folder, second = tmp_path / "docs", tmp_path / "more"
    folder.mkdir()
    second.mkdir()
    (folder / "a.md").write_text("There is one file.")
    state = tmp_path / "state"
    config = write_config(state, folder)
    with running(config, state) as daemon:
        manager.until(lambda line: line == "READY=1")
        assert daemon.status()["ready"], "it is said only when work can be taken"
        assert "waits for" not in next(line for line in reversed(manager.said) if line.startswith("STATUS="))
        assert any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in manager.said)
        manager.until(lambda line: line.startswith("STATUS=") and "1 indexed, 0 failed" in line)
        manager.until(lambda line: line == "WATCHDOG=1")
        _a_journal_that_cannot_be_written(state, manager)
        _a_reload(config, second, daemon, manager)
        workers = [worker["pid"] for worker in daemon.status()["workers"]]
        environments = [Path(f"/proc/{pid}/environ").read_bytes() for pid in workers]
        assert environments
        assert not [found for found in environments if b"NOTIFY_SOCKET" in found or b"WATCHDOG" in found]
        manager.drain()
        assert daemon.stop() == 0
        manager.until(lambda line: line == "STOPPING=1")


def _a_journal_that_cannot_be_written(state: Path, manager: Manager) -> None:
    """The loop turns, but that is not enough for a sign of life."""
    db = sqlite3.connect(state / "journal.sqlite", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    time.sleep(1.0)
    manager.drain()
    silence = time.monotonic() + 3
    while time.monotonic() < silence:
        assert "WATCHDOG=1" not in manager.hear(0.5)
    db.execute("ROLLBACK")
    db.close()
    manager.until(lambda line: line == "WATCHDOG=1")


def _a_reload(config: Path, second: Path, daemon: RunningDaemon, manager: Manager) -> None:
    """When the command returns, the new source is watched, and the manager knows that the service is ready again."""
    add_source(config, "more", second)
    manager.drain()
    done = ingestd(config, "reload")
    assert done.returncode == 0, done.stderr
    assert "more" in done.stdout
    manager.until(lambda line: line == "RELOADING=1")
    manager.until(lambda line: line == "READY=1")
    good = config.read_text()
    config.write_text(good + "\n[load]\nworkres = 3\n")
    done = ingestd(config, "reload")
    assert done.returncode == 2
    assert "workres: unknown key" in done.stderr
    daemon.process.send_signal(signal.SIGHUP)  # nobody reads the file but the daemon
    manager.until(lambda line: line == "RELOADING=1")
    manager.until(lambda line: line == "READY=1")
    config.write_text(good)
    assert [source["name"] for source in daemon.status()["sources"]] == ["docs", "more"]


def test_a_wrong_configuration_is_told_with_its_line(tmp_path: Path, manager: Manager) -> None:
    config = write_config(tmp_path / "state", tmp_path, load={"workres": 3})
    assert ingestd(config, "run").returncode == 2
    assert "[load] workres: unknown key" in manager.until(lambda line: line.startswith("STATUS="))
    assert not manager.hear(0.1)


def test_an_index_that_cannot_be_reached_holds_nobody_up_for_ever(
    tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "SINK_PATIENCE", 1.0)
    monkeypatch.delenv("WATCHDOG_USEC")  # the socket holds ten messages, and who sends one more waits
    state, folder = tmp_path / "state", tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("found in the end")
    in_the_way = state / "index" / "index.sqlite"
    in_the_way.mkdir(parents=True)

    async def body(daemon: Daemon) -> None:
        serving = asyncio.create_task(service.Service(daemon, service.Notifier(os.environ)).run())
        await until(lambda: "READY=1" in manager.hear(0.01))
        assert [waits.partition(":")[0] for waits in (await daemon.status())["waiting_for"]] == ["index"]
        await until(daemon.index_pool.failed.done)
        with pytest.raises(StartError):
            await daemon.search("found", 1, None, None)
        in_the_way.rmdir()
        await until(daemon.index_pool.ready.is_set)
        await take_in(daemon, folder)
        assert (await daemon.search("found", 1, None, None))[0]["path"] == str(folder / "a.md")
        serving.cancel()

    inside(write_config(state, folder), body, watching=True)


def test_the_counts_fit_in_one_line() -> None:
    files = dict.fromkeys(("settling", "queued", "running", "indexed", "partial", "failed", "quarantined"), 1)
    status = {
        "files": {**files, "indexed": 12345},
        "rates": {"files_per_second": 3.25},
        "waiting_for": ["index: the server does not answer"],
        "sources": [{"name": "docs", "mode": "starting"}, {"name": "more", "mode": "inotify"}],
        "warnings": ["one\nREADY=1", "two"],
    }
    assert describe(status) == (
        "2 queued, 1 running, 12,346 indexed, 2 failed, 3.2 files/s; "
        "waits for index: the server does not answer, source docs; one READY=1"
    )
