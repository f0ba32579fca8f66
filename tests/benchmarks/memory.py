"""Resident memory of a supervisor and its workers, by role, read from `/proc` while they run."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from ingestd.process import TOKEN, descendants


def status_kib(pid: int) -> dict[str, int]:
    """The sizes of `/proc/PID/status` in KiB (`VmHWM`, `VmRSS`, `RssAnon`, ...); empty where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith("kB")}


def role(pid: int) -> str | None:
    """The stage of a worker; None for any other process."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    wanted = f"{TOKEN}=".encode()
    token = next((os.fsdecode(entry[len(wanted) :]) for entry in environment if entry.startswith(wanted)), "")
    parts = token.split(".")  # directory, daemon, stage, number
    return parts[2] if len(parts) == 4 else None


class Peaks:
    """The largest resident set of any process of each role, in MB, watched by a thread.

    The kernel keeps each process's peak, so that only what dies between two looks is missed.
    """

    def __init__(self, supervisor: int) -> None:
        self._supervisor = supervisor
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peaks: dict[str, float] = {}
        self._thread.start()

    def close(self) -> dict[str, float]:
        self._ended.set()
        self._thread.join()
        return self.peaks

    def _watch(self) -> None:
        roles: dict[int, str | None] = {}
        while not self._ended.wait(0.5):
            self._note("supervisor", self._supervisor)
            for pid in descendants(self._supervisor):
                if roles.get(pid) is None:
                    roles[pid] = role(pid)
                if (found := roles[pid]) is not None:
                    self._note(found, pid)

    def _note(self, name: str, pid: int) -> None:
        peak = status_kib(pid).get("VmHWM", 0) * 1024 / 1e6
        self.peaks[name] = max(self.peaks.get(name, 0.0), peak)
