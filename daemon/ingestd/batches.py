"""What one `ingest` was asked for, and what has become of it so far."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ingestd import reports
from ingestd.journal import Taken
from ingestd.messages.watch import Scanned

FAILURES = 1000
"""Told of, at the most."""


@dataclass
class Batch:
    """Outcomes of the files of one request."""

    number: int
    outcomes: Counter[str] = field(default_factory=Counter)
    chunks: int = 0
    total: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    @property
    def done(self) -> int:
        return sum(self.outcomes.values())

    def take(self, taken: Taken) -> None:
        """A scan found these files."""
        self.total += taken.joined
        for state, files in taken.done.items():
            self.outcomes["unchanged" if state in ("indexed", "partial") else state] += files

    def end(self, state: str, path: bytes, reason: str | None) -> None:
        """A document is done with."""
        self.outcomes[state] += 1
        if state in ("failed", "quarantined") and len(self.failures) < FAILURES:
            self.failures.append({"path": path, "state": state, "reason": reason})

    def progress(self, current: list[str], *, scanning: bool, seconds: float) -> dict[str, Any]:
        """For the bar: counts, and the files in hand."""
        seconds = max(seconds, 1e-6)
        rate = self.done / seconds
        outcomes = self.outcomes
        return {
            "total": self.total, "done": self.done, "indexed": outcomes["indexed"] + outcomes["partial"],
            "unchanged": outcomes["unchanged"], "failed": outcomes["failed"],
            "quarantined": outcomes["quarantined"], "skipped": outcomes["skipped"], "chunks": self.chunks,
            "scanning": scanning,
            "current": current,
            "chunks_per_second": self.chunks / seconds,
            "eta_seconds": (self.total - self.done) / rate if rate > 0 and not scanning else None,
        }  # fmt: skip

    def summary(self, scans: Sequence[Scanned], seconds: float) -> dict[str, Any]:
        """See DESIGN's list of `ingest --json`."""
        known: Counter[str] = Counter()
        errors = []
        for scan in scans:
            known.update(scan.done)
            if scan.error:
                errors.append({"path": "", "state": "failed", "reason": scan.error})
        outcomes = self.outcomes
        return {
            "indexed": outcomes["indexed"] + outcomes["partial"],
            "unchanged": outcomes["unchanged"] + known["indexed"] + known["partial"],
            "failed": outcomes["failed"] + len(errors),
            "quarantined": outcomes["quarantined"] + known["quarantined"],
            "skipped": outcomes["skipped"] + known["skipped"],
            "chunks": self.chunks,
            "seconds": seconds,
            "failures": [{**failure, **reports.path_fields(failure["path"])} for failure in self.failures] + errors,
        }
