"""A rescan of unchanged files by a real watch worker, against `find -printf`: CPU and wall time, in turn."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ingestd.config import DEFAULT_EXCLUDES
from ingestd.messages.watch import Rescan, Scanned, WatchSource, WatchWarning
from ingestd.supervisor import Worker
from tests.benchmarks import runs, unchanged
from tests.benchmarks.figures import Figure, spread
from tests.benchmarks.memory import status_kib

GOAL = 2.0
"""Times the cost of `find`."""
FORMAT = r"%P\0%i %s %T@ %C@\n"
"""What a scan needs to know of a file."""
PATIENCE = 300


class Cost(NamedTuple):
    """Seconds."""

    cpu: float
    wall: float


def cpu(pid: int) -> float:
    """Seconds of CPU that a process, all its threads, has used so far."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3)


def find(folder: Path) -> Cost:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(["find", str(folder), "-type", "f", "-printf", FORMAT], stdout=subprocess.DEVNULL, check=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


async def scans(folder: Path, state: Path, files: int) -> AsyncIterator[tuple[Cost, int]]:
    """What each scan of one watch worker costs, and its pid: first the one at the start."""
    scratch = state / "watch"
    scratch.mkdir()
    worker = Worker("watch", f"benchmark{os.getpid()}.0.watch.0", scratch)
    heard: asyncio.Queue[Any] = asyncio.Queue()
    worker.on_frame = lambda frame, _: heard.put_nowait(frame)
    await worker.start({"journal": str(state / "journal.sqlite")}, 60)
    frame: Any = WatchSource(
        job=1, source="docs", root=os.fsencode(folder), exclude=list(DEFAULT_EXCLUDES), settle=2.0, rescan=86_400.0
    )
    try:
        while True:
            spent, began = cpu(worker.pid), time.monotonic()
            await worker.send(frame)
            while not isinstance(said := await asyncio.wait_for(heard.get(), PATIENCE), Scanned):
                if isinstance(said, WatchWarning):
                    raise SystemExit(f"the watch worker warns: {said.reason}")
            cost = Cost(cpu(worker.pid) - spent, time.monotonic() - began)
            if (said.files, said.unchanged) != (files, files):
                raise SystemExit(f"not what was to be expected: {said}")
            yield cost, worker.pid
            frame = Rescan(job=1)
    finally:
        await worker.end()


async def compared(folder: Path, state: Path, files: int, rounds: int) -> list[Figure]:
    """Figures of one folder that the journal knows."""
    scanned: list[Cost] = []
    found: list[Cost] = []
    peak = 0.0
    find(folder)  # both find the kernel's caches warm
    costs = scans(folder, state, files)
    async for cost, pid in costs:
        scanned.append(cost)
        peak = status_kib(pid)["VmHWM"] * 1024 / 1e6
        if len(scanned) > rounds + 1:
            break
        found.append(find(folder))
    await costs.aclose()  # type: ignore[attr-defined]
    first, _, *again = scanned  # the first rescan still fills the worker's caches
    figures = [
        Figure(f"{files} files: find, CPU", spread([cost.cpu for cost in found], " s")),
        Figure(f"{files} files: rescan, CPU", spread([cost.cpu for cost in again], " s")),
    ]
    for what in Cost._fields:
        ratios = [getattr(one, what) / getattr(other, what) for one, other in zip(again, found[1:], strict=True)]
        name = "CPU" if what == "cpu" else "wall time"
        figures.append(
            Figure(
                f"{files} files: rescan / find, {name}", spread(ratios, "x"), f"<= {GOAL:g}x", median(ratios) <= GOAL
            )
        )
    return [
        *figures,
        Figure(
            f"{files} files: CPU per file of a rescan", f"{median(cost.cpu for cost in again) / files * 1e6:.1f} µs"
        ),
        Figure(f"{files} files: CPU per file of the scan at the start", f"{first.cpu / files * 1e6:.1f} µs"),
        Figure(f"{files} files: peak RSS of the watch worker", f"{peak:.0f} MB"),
    ]


def measure(*, quick: bool) -> list[Figure]:
    files, rounds = (20_000, 5) if quick else (100_000, 7)
    with runs.scratch() as scratch:
        runs.say(f"{files} files, and a journal that has them")
        folder = unchanged.folder(scratch / "docs", files)
        state = scratch / "state"
        unchanged.journaled(state, folder)
        return asyncio.run(compared(folder, state, files, rounds))
