"""Reloads under load: what they change is in force at once, and no document is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.processes.daemons import RunningDaemon, ingestd
from tests.processes.test_sources import Folders, fill, loaders, until
from tests.processes.test_sources import folders as folders

WORKERS = 1 + len(os.sched_getaffinity(0))
"""Load workers by default: one for each core, and one to spare."""


def set_load(folders: Folders, text: str, *names: str) -> None:
    """Write the configuration with these tables of `[load]`."""
    folders.write(*(names or ("a",)))
    folders.config.write_text(folders.config.read_text().replace("[encode]", f"{text}\n[encode]", 1))


def test_a_loader_gets_workers_of_its_own_and_loses_them(folders: Folders) -> None:
    fill(folders.a, 5)
    set_load(folders, "")
    with folders.daemon() as daemon:
        until(daemon, lambda status: loaders(status) == WORKERS)
        for workers in (2, 1, 0, 3):
            set_load(folders, f"[load.text]\nworkers = {workers}\n")
            assert folders.say("reload") == {"sources": ["a"], "restart": []}
            (folders.a / f"with{workers}.txt").write_text(f"loaded by {workers}")  # the first one has them started
            until(daemon, lambda _, own=workers: f"a/with{own}.txt" in folders.paths())
            until(daemon, lambda status, own=workers: loaders(status) == WORKERS + own + bool(own))
        set_load(folders, "[load.text]\ndisabled = true\n")
        folders.say("reload")
        (folders.a / "none.txt").write_text("loaded by nobody")
        until(daemon, lambda status: status["files"]["skipped"] == 1)
        set_load(folders, "")
        folders.say("reload")
        until(daemon, lambda status: loaders(status) == WORKERS)


@pytest.mark.slow
def test_many_reloads_while_files_change_and_workers_are_killed(folders: Folders) -> None:
    rng = random.Random(11)
    tables = ["", "[load]\nworkers = 1\n", "[load]\nworkers = 4\n", "[load.text]\nworkers = 2\n",
              "[load.text]\nworkers = 1\ndeadline = \"9s\"\n", "[load]\nmax_text = \"1MiB\"\n"]  # fmt: skip
    fill(folders.a, 40)
    fill(folders.b, 40)
    set_load(folders, "", "a", "b")
    with folders.daemon() as daemon:
        daemon.status()
        for turn in range(30):
            set_load(folders, rng.choice(tables), *(["a", "b"] if turn % 3 else ["a"]))
            (folders.a / f"f{rng.randrange(40)}.txt").write_text(f"changed in turn {turn}")
            (folders.b / f"new{turn}.txt").write_text(f"new in turn {turn}")
            if turn % 4 == 0:
                kill_one(daemon, rng)
            if turn % 5 == 0:
                daemon.process.send_signal(signal.SIGHUP)
            if turn % 7 == 0:
                good = folders.config.read_text()
                folders.config.write_text(good + "\n[load]\nworkers = 'many'\n")
                assert ingestd(folders.config, "reload").returncode == 2
                folders.config.write_text(good)
            daemon.call("reload", timeout=60)
        set_load(folders, "", "a", "b")
        folders.say("reload")
        expected = {f"{folder.name}/{path.name}" for folder in (folders.a, folders.b) for path in folder.iterdir()}
        until(daemon, lambda _: folders.paths() == expected)
        assert daemon.call("verify", deep=True, repair=False)["findings"] == []
        until(daemon, lambda status: loaders(status) == WORKERS)


def kill_one(daemon: RunningDaemon, rng: random.Random) -> None:
    """SIGKILL to any worker."""
    workers = daemon.status()["workers"]
    if workers:
        try:
            os.kill(rng.choice(workers)["pid"], signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_reloads_at_once_and_while_it_stops(folders: Folders, tmp_path: Path) -> None:
    fill(folders.a, 20)
    set_load(folders, "")
    with folders.daemon() as daemon:
        daemon.status()
        for _ in range(20):
            daemon.process.send_signal(signal.SIGHUP)
        daemon.wait()
        assert folders.say("reload")["sources"] == ["a"]
        daemon.process.send_signal(signal.SIGHUP)
        daemon.process.send_signal(signal.SIGINT)
        time.sleep(0.05)
        daemon.process.send_signal(signal.SIGHUP)
        assert daemon.process.wait(60) in (0, -signal.SIGHUP)  # a signal in the last moment ends it the hard way
    assert len(folders.paths()) == 20
