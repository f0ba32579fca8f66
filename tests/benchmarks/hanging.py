"""One file that hangs: what it costs 1,000 good ones, from the first attempt until the last good one is indexed.

The hang has to be noticed by its deadline, three seconds here, and the file is tried three times, as by default.
"""

from __future__ import annotations

import sqlite3
import statistics
from pathlib import Path

from tests.benchmarks import folders, runs
from tests.benchmarks.figures import Figure, below, spread
from tests.processes.daemons import write_config

GOAL = 5.0
LIMITS = {"deadline": "3s", "idle_deadline": "3s", "workers": 2}


def seconds(state: Path, primed: int) -> float:
    """From the first to the last good file that was indexed, after `primed` files of the primer."""
    with sqlite3.connect(state / "journal.sqlite") as journal:
        times = [
            at
            for (at,) in journal.execute("SELECT at FROM history WHERE event LIKE 'indexed:%' ORDER BY at").fetchall()
        ]
    journal.close()
    return float(times[-1] - times[primed])


def measure(*, quick: bool) -> list[Figure]:
    files, rounds = (300, 2) if quick else (1000, 5)
    taken: dict[str, list[float]] = {"without": [], "with": []}
    with runs.scratch() as scratch:
        primer = folders.one_line(scratch / "primer", 8, seed=9, suffix=".hostile", first="good\n")
        good = folders.one_line(scratch / "good", files, suffix=".hostile", first="good\n")
        bad = folders.one_line(scratch / "bad", files, suffix=".hostile", first="good\n")
        (bad / "f00010-hangs.hostile").write_text("hang_in_sleep\n")
        for number in range(rounds):
            runs.say(f"round {number + 1} of {rounds}: {files} good files, with and without one that hangs")
            order = (("without", good), ("with", bad))
            for name, folder in order if number % 2 else reversed(order):  # neither profits from being second
                state = scratch / f"{name}{number}"
                config = write_config(state, None, load=LIMITS)
                record = runs.host(config, primer, folder, hostile=True).records[1]
                if record["indexed"] != files or record["quarantined"] != (name == "with"):
                    raise SystemExit(f"not what was to be expected: {record}")
                taken[name].append(seconds(state, 8))
    costs = [(w / o - 1) * 100 for o, w in zip(taken["without"], taken["with"], strict=True)]
    return [
        Figure(f"{files} good files alone", spread(taken["without"], " s")),
        Figure(f"{files} good files beside one that hangs", spread(taken["with"], " s")),
        below("cost of the one that hangs, median of the rounds", statistics.median(costs), GOAL, "%"),
    ]
