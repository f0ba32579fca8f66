"""The supervisor's memory with 10,000 and with 1,000,000 journaled files, and a rescan of the million.

A real daemon on a real folder and a journal that has all of it. The kernel's mark of the largest resident set is put
back before each phase.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import rescan, runs, unchanged
from tests.benchmarks.figures import Figure, below
from tests.benchmarks.memory import status_kib
from tests.processes.daemons import RunningDaemon, running, write_config

GOAL = 150.0
FLAT = 1.1
"""Times the peak with few files."""
PHASES = ("start and first scan", "rescan", "20 times status", "failures", "why", "at rest")
PATIENCE = 600.0
REST = 8.0
"""Seconds."""


def phases(daemon: RunningDaemon, folder: Path, files: int) -> tuple[dict[str, float], float]:
    """The supervisor's largest resident set in each phase, MB; and its CPU per second at rest."""
    pid = daemon.process.pid
    spent = 0.0

    def ready() -> None:
        while not (status := daemon.call("status", 120))["ready"]:
            time.sleep(0.5)
        if status["files"]["indexed"] + status["files"]["quarantined"] != files:
            raise SystemExit(f"not what was to be expected: {status['files']}")

    def scanned() -> None:
        """The configured time between scans is short: wait until the watch worker did what it did first, and more."""
        (watcher,) = [worker["pid"] for worker in daemon.status()["workers"] if worker["stage"] == "watch"]
        spent = rescan.cpu(watcher)
        end = time.monotonic() + PATIENCE
        while rescan.cpu(watcher) < 1.5 * spent and time.monotonic() < end:
            time.sleep(0.5)

    def rest() -> None:
        nonlocal spent
        before = rescan.cpu(pid)
        time.sleep(REST)
        spent = (rescan.cpu(pid) - before) / REST

    one = next(path for path in sorted(folder.iterdir())[0].rglob("*.txt"))
    work: dict[str, Callable[[], object]] = dict(
        zip(
            PHASES,
            (
                ready,
                scanned,
                lambda: [daemon.status() for _ in range(20)],
                lambda: daemon.call("failures"),
                lambda: daemon.call("why", path=bytes(one)),
                rest,
            ),
            strict=True,
        )
    )
    peaks = {}
    for name, do in work.items():
        if name != PHASES[0]:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        do()
        peaks[name] = status_kib(pid)["VmHWM"] * 1024 / 1e6
    return peaks, spent


def measure(*, quick: bool) -> list[Figure]:
    sizes = (10_000, 100_000) if quick else (10_000, 1_000_000)
    rounds = 3
    found: dict[int, dict[str, float]] = {}
    spent: dict[int, float] = {}
    figures: list[Figure] = []
    for files in sizes:
        with runs.scratch() as scratch:
            began = time.monotonic()
            folder = unchanged.folder(scratch / "docs", files)
            state = scratch / "state"
            unchanged.journaled(state, folder)
            size = (state / "journal.sqlite").stat().st_size / 1e6
            runs.say(f"{files} files and a journal of {size:.0f} MB, made in {time.monotonic() - began:.0f} s")
            if files == sizes[-1]:
                figures += asyncio.run(rescan.compared(folder, state, files, rounds))
            runs.say("the daemon")
            with running(write_config(state, folder), state) as daemon:
                found[files], spent[files] = phases(daemon, folder, files)
    few, many = sizes
    for name in PHASES:
        figures.append(
            Figure(
                f"{name}: peak RSS at {few}, at {many} files", f"{found[few][name]:.1f} MB, {found[many][name]:.1f} MB"
            )
        )
    idle = f"{spent[few] * 1e3:.1f} ms, {spent[many] * 1e3:.1f} ms"
    figures.append(Figure(f"at rest: CPU of the supervisor per second at {few}, at {many} files", idle))
    figures.append(below(f"peak RSS at {many} files", max(found[many].values()), GOAL, "MB"))
    ratio = max(found[many].values()) / max(found[few].values())
    figures.append(Figure(f"peak RSS, {many} / {few} files", f"{ratio:.2f}x", f"<= {FLAT:g}x", ratio <= FLAT))
    return figures
