"""Searches through the control socket, one after the other: in the middle of an ingest, and in silence after it."""

from __future__ import annotations

import time

from ingestd.control import Control
from tests.benchmarks import folders, runs
from tests.benchmarks.figures import Figure, below, percentile
from tests.processes.daemons import RunningDaemon, running, write_config

QUESTIONS = (
    "How long do I have to submit my bills after a business trip?",
    "what is paid for hotels",
    "weeks of leave after the birth of a child",
    "who signs a late claim",
)
PAUSE = 0.02
ENOUGH = 0.4
"""The goal for a search in the middle of an ingest, seconds: well under half a second."""


def timed(control: Control, number: int) -> float:
    began = time.monotonic()
    found = control.call("search", text=QUESTIONS[number % len(QUESTIONS)], top=10, source=None, path=None)["hits"]
    if not found:
        raise SystemExit("a search found nothing")
    time.sleep(PAUSE)
    return time.monotonic() - began - PAUSE


def under_load(daemon: RunningDaemon, control: Control, files: int, most: int) -> tuple[list[float], int]:
    """Times of searches while at least a twentieth of the files waits, and how many files waited at the end."""
    taken: list[float] = []
    while True:
        counted = daemon.status()["files"]
        left = files - counted["indexed"]
        if left < files / 20 or len(taken) >= most:
            return taken, left
        if counted["indexed"] >= 10:
            taken += [timed(control, number) for number in range(10)]
        else:
            time.sleep(0.1)


def measure(*, quick: bool) -> list[Figure]:
    files, most = (150, 60) if quick else (400, 250)
    with runs.scratch() as scratch:
        folder = folders.mixed(scratch / "docs", files, seed=5)
        state = scratch / "state"
        runs.say(f"searching while {files} files are taken in")
        with running(write_config(state, folder, **runs.REAL), state) as daemon:
            daemon.status()
            with Control(state / "control.sock", timeout=30) as control:
                busy, left = under_load(daemon, control, files, most)
                runs.say(f"{len(busy)} searches while {left} files and more waited; now in silence")
                daemon.wait(300)
                quiet = [timed(control, number) for number in range(most // 3)]
    figures = []
    for name, taken in (("during an ingest", busy), ("in silence", quiet)):
        middle, late = percentile(taken, 0.5) * 1000, percentile(taken, 0.99) * 1000
        figures.append(Figure(f"search {name} ({len(taken)}): p50", f"{middle:.0f} ms"))
        if taken is busy:
            figures.append(below(f"search {name}: p99", late, ENOUGH * 1000, "ms"))
        else:
            figures.append(Figure(f"search {name}: p99", f"{late:.0f} ms"))
    ratio = percentile(busy, 0.5) / percentile(quiet, 0.5)
    return [*figures, Figure("search: p50 during an ingest / in silence", f"{ratio:.1f}x")]
