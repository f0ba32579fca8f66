"""Events that get lost, or never come: the index ends equal to the folder all the same."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.processes.watched import Apart, apart_only, digest, files, held, watching, write, write_sources
from tests.test_watch import root_only, tiny_queue


def stir(folder: Path, name: str) -> None:
    """Changes of every kind, many more than a tiny queue holds."""
    for number in range(60):
        write(folder / f"{name}/{number % 4}/{number}.txt", f"{name} {number}")
    for number in range(0, 60, 3):
        (folder / f"{name}/{number % 4}/{number}.txt").unlink()
    for number in range(1, 60, 3):
        write(folder / f"{name}/{number % 4}/{number}.txt", f"{name} {number} changed")
    (folder / f"{name}/3").rename(folder / f"{name}/moved")
    shutil.rmtree(folder / f"{name}/2")


def drown(folder: Path) -> None:
    """Noise that fills a tiny queue, then changes in directories that the noise does not point at."""
    for number in range(40):
        write(folder / f"noise/{number}.txt", f"noise at {time.monotonic_ns()}")
    for number in range(1, 60, 12):
        write(folder / f"early/1/{number}.txt", f"changed at {time.monotonic_ns()}")
        write(folder / f"early/1/new-{time.monotonic_ns()}.txt", f"new at {time.monotonic_ns()}")
    min((folder / "early/0").glob("*.txt")).unlink()
    path = min((folder / "early/1").glob("*7.txt"))
    path.rename(path.with_name(f"renamed-{time.monotonic_ns()}7.txt"))


@root_only
def test_an_overflown_queue(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The watch worker stands still while the queue runs over; no scan is due for an hour."""
    one, other, state = tmp_path / "one", tmp_path / "other", tmp_path / "state"
    for folder in (one, other):
        stir(folder, "early")
        write(folder / "noise/0.txt", "noise")
    never = {"rescan": "1h"}
    config = write_sources(state, {"one": one, "other": other}, settings={"one": never, "other": never})
    with contextlib.ExitStack() as stack:
        with tiny_queue(tmp_path_factory.getbasetemp().parent / "inotify.lock"):
            watched = stack.enter_context(watching(config, state))
            watched.until(lambda: watched.modes == {"one": "inotify", "other": "inotify"}, "events are not watched")
        watched.equals(one, other)
        workers = [worker["pid"] for worker in watched.daemon.status()["workers"] if worker["stage"] == "watch"]
        for _ in range(2):
            for worker in workers:
                os.kill(worker, signal.SIGSTOP)
            try:
                drown(one)
                drown(other)
            finally:
                for worker in workers:
                    os.kill(worker, signal.SIGCONT)
            watched.equals(one, other)
        assert watched.modes == {"one": "inotify", "other": "inotify"}


def limit_of(limit: str, value: int) -> str:
    """The command that sets a limit of the user namespace that it runs in."""
    return f"echo {value} > /proc/sys/user/max_inotify_{limit}"


@apart_only
@pytest.mark.parametrize(("limit", "value"), [("watches", 3), ("instances", 0)])
def test_no_watches_and_no_instances_left(tmp_path: Path, limit: str, value: int) -> None:
    """What cannot be watched is scanned instead."""
    folder, state = tmp_path / "docs", tmp_path / "state"
    stir(folder, "early")
    config = write_sources(state, {"docs": folder}, settings={"docs": {"rescan": "1h"}})
    daemon = Apart(config, state, limit_of(limit, value))
    with watching(daemon.config, state, daemon) as watched:
        watched.warns("source docs", "no inotify", f"sysctl -w fs.inotify.max_user_{limit}=")
        watched.equals(folder)
        stir(folder, "late")
        write(folder / "early/1/1.txt", "changed while nobody told")
        watched.equals(folder)


@pytest.mark.slow  # it is tried again after a minute for the first time
@apart_only
@pytest.mark.parametrize(("limit", "value"), [("watches", 3), ("instances", 0)])
def test_once_the_limit_is_raised_there_are_events_again(tmp_path: Path, limit: str, value: int) -> None:
    folder, state = tmp_path / "docs", tmp_path / "state"
    stir(folder, "early")
    config = write_sources(state, {"docs": folder}, settings={"docs": {"rescan": "1h"}})
    daemon = Apart(config, state, limit_of(limit, value))
    with watching(config, state, daemon) as watched:
        watched.warns("source docs", f"sysctl -w fs.inotify.max_user_{limit}=")
        daemon.inside(limit_of(limit, 10_000))
        watched.until(lambda: watched.modes == {"docs": "inotify"}, "there are no events again")
        watched.calms()
        stir(folder, "late")
        watched.equals(folder)


def test_events_switched_off(tmp_path: Path) -> None:
    folder, state = tmp_path / "docs", tmp_path / "state"
    stir(folder, "early")
    config = write_sources(state, {"docs": folder}, settings={"docs": {"mode": "poll", "rescan": "1h"}})
    with watching(config, state) as watched:
        watched.equals(folder)
        assert watched.modes == {"docs": "poll"}
        stir(folder, "late")
        (folder / "late/0").rename(folder / "early/0/below")
        watched.equals(folder)
        path = write(folder / "early/1/1.txt", "changed while nobody told")
        watched.until(lambda: held(state).get(str(path)) == digest(path), "the change is not found")
        assert held(state) == files(folder)
        assert not watched.warnings
