"""One ingest in processes of its own, and what it cost."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.memory import Peaks
from tests.processes.daemons import environment

ROOT = Path(__file__).parents[2]
REAL = {"encode": {"engine": "torch", "model": "sentence-transformers/all-MiniLM-L6-v2"}}
TIMEOUT = 600


@dataclass(frozen=True, slots=True)
class Run:
    """What `host` said. `wall`: seconds from the start of its process to the end."""

    wall: float
    records: list[dict[str, Any]]
    """One for each path."""
    respawn: dict[str, list[dict[str, float]]]
    peaks: dict[str, float]
    """MB by role."""


def host(config: Path, *paths: Path, hostile: bool = False, options: tuple[str, ...] = ()) -> Run:
    """Ingest the paths one after the other in one new supervisor."""
    command = [sys.executable, "-m", "tests.benchmarks.host", *options, str(config), *map(str, paths)]
    log = config.with_suffix(".log")
    began = time.monotonic()
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, env=environment(hostile=hostile), text=True
        )
    peaks = Peaks(process.pid)
    try:
        output, _ = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
        found = peaks.close()
    wall = time.monotonic() - began
    if process.returncode:
        raise SystemExit(f"the supervisor ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
    said = [json.loads(line) for line in output.splitlines()]
    records = [record for record in said if "path" in record]
    respawned: dict[str, list[dict[str, float]]] = next((r["respawn"] for r in said if "respawn" in r), {})
    return Run(wall, records, respawned, found)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="ingestd-benchmark-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


def say(line: str) -> None:
    """Progress, apart from the table."""
    sys.stderr.write(f"  {line}\n")
    sys.stderr.flush()
