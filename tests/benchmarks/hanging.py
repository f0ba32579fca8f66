"""One file that hangs: what it costs 1,000 good ones, from the first of them that is indexed to the last.

The hang has to be noticed by its deadline, three seconds here, and the file is tried three times, as by default. With
the real model and files of a passage the encoders set the pace, as they do for real folders; with the hashing engine
and files of a line the load workers do, and there are only two of them.
"""

from __future__ import annotations

import contextlib
import sqlite3
import statistics
from pathlib import Path
from typing import Any

from tests.benchmarks import folders, runs
from tests.benchmarks.figures import Figure, below, spread
from tests.processes.daemons import write_config

GOAL = 5.0
LIMITS = {"deadline": "3s", "idle_deadline": "3s", "workers": 2}


def seconds(state: Path, primed: int) -> float:
    """From the first to the last good file that was indexed, after `primed` files of the primer."""
    with contextlib.closing(sqlite3.connect(state / "journal.sqlite")) as journal:
        found = journal.execute("SELECT at FROM history WHERE event LIKE 'indexed:%' ORDER BY at").fetchall()
    return float(found[-1][0] - found[primed][0])


def cost(title: str, files: int, rounds: int, sentences: int, tables: dict[str, dict[str, Any]]) -> list[Figure]:
    taken: dict[str, list[float]] = {"without": [], "with": []}
    with runs.scratch() as scratch:
        made = {
            name: folders.one_line(scratch / name, count, seed, ".hostile", "good\n", sentences)
            for seed, (name, count) in enumerate((("primer", 8), ("without", files), ("with", files)))
        }
        (made["with"] / "f00010-hangs.hostile").write_text("hang_in_sleep\n")
        for number in range(rounds):
            runs.say(f"{title}: round {number + 1} of {rounds}, {files} good files, with and without one that hangs")
            for name in ("without", "with") if number % 2 else ("with", "without"):  # neither profits from its turn
                state = scratch / f"{name}{number}"
                config = write_config(state, None, load=LIMITS, **tables)
                record = runs.host(config, made["primer"], made[name], hostile=True).records[1]
                if record["indexed"] != files or record["quarantined"] != (name == "with"):
                    raise SystemExit(f"not what was to be expected: {record}")
                taken[name].append(seconds(state, 8))
    pairs = list(zip(taken["without"], taken["with"], strict=True))
    return [
        Figure(f"{title}: {files} good files alone", spread(taken["without"], " s")),
        Figure(f"{title}: beside one that hangs", spread(taken["with"], " s")),
        Figure(f"{title}: cost in seconds", spread([bad - good for good, bad in pairs], " s")),
        below(f"{title}: cost", statistics.median((bad / good - 1) * 100 for good, bad in pairs), GOAL, "%"),
    ]


def measure(*, quick: bool) -> list[Figure]:
    if quick:
        return cost("hashing", 400, 1, 1, {})
    return cost("real model", 1000, 2, 5, runs.REAL) + cost("hashing", 1000, 2, 1, {})
