"""End to end: a mixed folder with the real model, against the script that everybody has.

The naive script starts one process for each file, as many at a time as there are cores; each loads the model. It would
kill those that take longer than 20 seconds; here they are counted, and their time is what they need. The other script
loads all files in one process and encodes with one `SentenceTransformer.encode`. Both use the same loaders and the same
chunks, and store nothing; ingestd keeps journal and index. The naive script gets a sample of the files, since all of
them would take an hour.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.benchmarks import folders, runs
from tests.benchmarks.figures import Figure, spread
from tests.processes.daemons import environment, write_config

PATIENCE = 20.0
"""Seconds after which the naive script would kill a process and lose its file."""


def baseline(paths: Sequence[Path]) -> dict[str, Any]:
    """What the script says, and beside it its `wall` seconds."""
    command = [sys.executable, "-m", "tests.benchmarks.baseline", *map(str, paths)]
    began = time.monotonic()
    done = subprocess.run(command, cwd=runs.ROOT, capture_output=True, text=True, env=environment(), check=False)
    if done.returncode:
        raise SystemExit(f"the script ended with {done.returncode}:\n{done.stderr[-3000:]}")
    record: dict[str, Any] = json.loads(done.stdout)
    return {**record, "wall": time.monotonic() - began}


def naive(paths: Sequence[Path]) -> tuple[float, int]:
    """Seconds, and how many processes ended within its patience."""
    began = time.monotonic()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        done = list(pool.map(lambda path: baseline([path]), paths))
    return time.monotonic() - began, sum(record["wall"] <= PATIENCE for record in done)


def measure(*, quick: bool) -> list[Figure]:
    count, sample, rounds = (48, 2, 1) if quick else (240, 4, 2)
    ours: list[runs.Run] = []
    theirs: list[dict[str, Any]] = []
    with runs.scratch() as scratch:
        folder = folders.mixed(scratch / "docs", count)
        primer = folders.one_line(scratch / "primer", 4)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        runs.say(f"naive script, {sample} files")
        naive_seconds, through = naive(paths[:: count // sample][:sample])
        for number in range(rounds):
            runs.say(f"round {number + 1} of {rounds}, {count} files: ingestd")
            state = scratch / f"state{number}"
            ours.append(runs.host(write_config(state, None, **runs.REAL), primer, folder))
            runs.say(f"round {number + 1} of {rounds}: one process")
            theirs.append(baseline(paths))

    ingest = [run.records[1] for run in ours]
    chunks = ingest[0]["chunks"]
    if ingest[0]["indexed"] != count or chunks != theirs[0]["chunks"]:
        raise SystemExit(f"unequal work: {ingest[0]} and {theirs[0]}")
    warm = [record["wall"] for record in ingest]
    cold = [run.wall for run in ours]
    per_file = naive_seconds / sample
    figures = [
        Figure(f"{count} files, {chunks} chunks; ingestd, model loaded", spread(warm, " s", 1)),
        Figure("ingestd, from the start of its process to the end", spread(cold, " s", 1)),
        Figure(
            "naive script, seconds a file", f"{per_file:.1f} s; {through} of {sample} files within {PATIENCE:.0f} s"
        ),
        Figure(
            "naive script / ingestd, from start to end", f"{statistics.median(per_file * count / s for s in cold):.0f}x"
        ),
        Figure("naive script / ingestd, model loaded", f"{statistics.median(per_file * count / s for s in warm):.0f}x"),
        Figure(
            "one process / ingestd, from start to end",
            spread([r["wall"] / s for r, s in zip(theirs, cold, strict=True)], "x"),
        ),
        Figure(
            "one process / ingestd, models loaded",
            spread([(r["load"] + r["encode"]) / s for r, s in zip(theirs, warm, strict=True)], "x"),
        ),
    ]
    return figures + shares(ingest) + peaks(ours)


def shares(records: Sequence[dict[str, Any]]) -> list[Figure]:
    """What the encoders did while files were taken in; what they tell nothing of is waiting for input."""
    total = sum(record["wall"] * record["encoders"] for record in records)
    spent = {cause: sum(record["spent"][cause] for record in records) for cause in records[0]["spent"]}
    spent["input"] += max(0.0, total - sum(spent.values()))
    whole = sum(spent.values())
    causes = {"input": "for input", "output": "for output", "rest": "unpacking, packing, other"}
    return [
        Figure("encoders busy, share of the ingest", f"{spent['busy'] / whole:.0%}"),
        *(Figure(f"encoders not computing: {name}", f"{spent[cause] / whole:.1%}") for cause, name in causes.items()),
    ]


def peaks(found: Sequence[runs.Run]) -> list[Figure]:
    roles = sorted({role for run in found for role in run.peaks})
    return [Figure(f"peak RSS, {role}", f"{max(run.peaks.get(role, 0.0) for run in found):.0f} MB") for role in roles]
