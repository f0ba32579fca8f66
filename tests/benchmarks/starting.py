"""What a command costs before it does anything: `--help`, and `status` and `search` of a running daemon.

CPU of the command alone, children of this process, interleaved with `python -c pass`, which is the ratio's one.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence

from tests.benchmarks import folders, runs
from tests.benchmarks.figures import Figure, below, spread
from tests.processes.daemons import environment, running, write_config


def cpu(command: Sequence[str]) -> float:
    """Seconds of CPU, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(*, quick: bool) -> list[Figure]:
    rounds = 5 if quick else 20
    with runs.scratch() as scratch:
        docs = folders.one_line(scratch / "docs", 20)
        state = scratch / "state"
        config = write_config(state, docs)
        python = [sys.executable, "-c", "pass"]
        ingestd = [sys.executable, "-m", "ingestd"]
        commands = {
            "ingestd --help": [*ingestd, "--help"],
            "ingestd status, of a daemon": [*ingestd, "--config", os.fspath(config), "status"],
            "ingestd search, of a daemon": [*ingestd, "--config", os.fspath(config), "search", "text"],
        }
        took: dict[str, list[float]] = {name: [] for name in commands}
        bare: list[float] = []
        with running(config, state) as daemon:
            daemon.wait()
            for command in commands.values():
                cpu(command)  # whatever is compiled or read for the first time
            for _ in range(rounds):
                bare.append(cpu(python))
                for name, command in commands.items():
                    took[name].append(cpu(command))
    figures = [below("ingestd --help", statistics.median(took["ingestd --help"]), 0.25, "s CPU")]
    figures.append(Figure("python -c pass", spread([1e3 * value for value in bare], " ms CPU", 0)))
    for name, values in took.items():
        ratio = statistics.median(values) / statistics.median(bare)
        figures.append(
            Figure(f"{name}, times `python -c pass`", f"{ratio:.1f} ({statistics.median(values):.2f} s CPU)")
        )
    return figures
