"""Encoding alone: the torch engine against `SentenceTransformer.encode`, one thread each. `encoding` does the work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.benchmarks import runs
from tests.benchmarks.figures import Figure
from tests.processes.daemons import environment

SCRIPT = Path(__file__).with_name("encoding.py")
SET = re.compile(r"^(\w+): (\d+) texts, .*, (\d+) on average$")
RATE = re.compile(r"batch +([\d,]+) tokens: +([\d,]+) tokens/s = ([\d.]+)x, (\d+)% of peak")


def measure(*, quick: bool) -> list[Figure]:
    texts, rounds = (24, 2) if quick else (48, 3)
    runs.say(f"{texts} mixed texts, {4 * texts} short ones, {rounds} rounds")
    command = [sys.executable, str(SCRIPT), "--texts", str(texts), "--rounds", str(rounds), "--budgets", "1024", "2048"]
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        raise SystemExit(f"{SCRIPT.name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    figures = []
    name = ""
    for line in done.stdout.splitlines():
        if found := SET.match(line):
            name = f"{found[1]} texts of {found[3]} tokens"
        elif found := RATE.search(line):
            value = f"{found[3]}x SentenceTransformer.encode; {found[4]} % of the matrix-product peak"
            figures.append(Figure(f"{name}, batches of {found[1]} tokens", value))
        elif "1 - cosine" in line:
            figures.append(Figure(f"{name}, 1 - cosine", line.split(": ", 1)[1]))
    return figures
