"""What keeps a source from being followed: told once, and taken back when it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ingestd.messages.watch import WatchWarning

REASON_LENGTH: Final = 4000
WARNINGS: Final = 10
"""Warnings of one scan that are sent; the others are only counted."""


class Troubles:
    """The warnings of one source that hold now, and the errors of its last scan."""

    def __init__(self, job: int, send: Callable[[Any], None]) -> None:
        self._job = job
        self._send = send
        self._told: dict[str, bool] = {}
        """Warnings that hold; True: until they are taken back, False: until a scan does not meet them."""
        self._met: set[str] = set()
        self.failures = 0
        """Places that could not be looked at since the last scan began."""
        self.errors: list[str] = []
        """Of the root, or of a batch: they are the scan's result."""

    def begin(self) -> None:
        """A scan of everything begins."""
        self._met.clear()
        self.failures = 0
        self.errors.clear()

    def end(self) -> None:
        """It ended: what it did not meet is over."""
        if self.failures > WARNINGS:
            self.warn(f"{self.failures - WARNINGS} more places could not be looked at")
        for reason in [reason for reason, lasting in self._told.items() if not lasting and reason not in self._met]:
            self.over(reason)

    def warn(self, reason: str, *, lasting: bool = False) -> None:
        reason = reason[:REASON_LENGTH]
        self._met.add(reason)
        if reason not in self._told and (lasting or len(self._told) < 2 * WARNINGS):
            self._told[reason] = lasting
            self._send(WatchWarning(job=self._job, reason=reason))

    def over(self, reason: str) -> None:
        """Take a warning back, if it was given."""
        if self._told.pop(reason[:REASON_LENGTH], None) is not None:
            self._send(WatchWarning(job=self._job, reason=reason[:REASON_LENGTH], over=True))

    def error(self, reason: str) -> None:
        if reason not in self.errors and len(self.errors) < 2 * WARNINGS:
            self.errors.append(reason)

    @property
    def result(self) -> str | None:
        """The errors of the last scan in one line."""
        return "; ".join(self.errors)[: 4 * REASON_LENGTH] or None
