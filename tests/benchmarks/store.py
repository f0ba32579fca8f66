"""The embedded store alone: load, replace and search. `index` does the work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks import runs
from tests.benchmarks.figures import Figure
from tests.processes.daemons import environment

SCRIPT = Path(__file__).with_name("index.py")


def measure(*, quick: bool) -> list[Figure]:
    chunks = 2_000 if quick else 10_000
    runs.say(f"{chunks} chunks")
    command = [sys.executable, str(SCRIPT), str(chunks)]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        raise SystemExit(f"{SCRIPT.name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    figures = []
    for line in done.stdout.splitlines():
        what, _, value = line.strip().partition(": " if line.startswith(str(chunks)) else "  ")
        figures.append(Figure(what, " ".join(value.split())))
    return figures
