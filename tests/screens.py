"""A real terminal for tests: a program on a pty, and the screen that a person would see."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pyte

PATIENCE = 120.0
"""Seconds until something must be seen."""


class Terminal:
    """`python -m ingestd ARGUMENTS` on a terminal of its own.

    `raw` is all that the program wrote, `screen` what is seen now, `overflowed` whether a line was ever longer than
    the terminal was wide.
    """

    def __init__(self, *arguments: str, cwd: Path, columns: int = 80, rows: int = 24, **environ: str) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("INGESTD_") and name not in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
        }
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "ingestd", *arguments],
            cwd=str(cwd),
            dimensions=(rows, columns),
            timeout=PATIENCE,
            env={**inherited, "TERM": "xterm-256color", **environ},  # type: ignore[arg-type]
        )

    def read(self, seconds: float = 0.1) -> bool:
        """Take in what the program writes within `seconds`; whether it may still write."""
        try:
            piece = self.child.read_nonblocking(65536, timeout=seconds)
        except pexpect.TIMEOUT:
            return True
        except pexpect.EOF:
            return False
        self.raw += piece
        self._stream.feed(piece)
        return True

    def until(self, seen: Callable[[str], object]) -> str:
        """The screen as soon as it is `seen`."""
        deadline = time.monotonic() + PATIENCE
        while not seen(self.text):
            alive = self.read()
            assert alive or seen(self.text), f"the program ended:\n{self.text}"
            assert time.monotonic() < deadline, f"never seen:\n{self.text}\n{self.raw!r}"
        return self.text

    def finish(self) -> int:
        """Its exit code, or the negative number of the signal that ended it."""
        deadline = time.monotonic() + PATIENCE
        while self.read():
            assert time.monotonic() < deadline, f"it does not end:\n{self.text}"
        self.child.close()
        status: int | None = self.child.exitstatus
        return status if status is not None else -int(self.child.signalstatus or 0)

    def resize(self, columns: int, rows: int = 24) -> None:
        """As a person drags the window's corner: SIGWINCH follows."""
        self.screen.resize(rows, columns)
        self.child.setwinsize(rows, columns)

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.child.sendintr()

    @property
    def text(self) -> str:
        """What is seen, with what was scrolled away, without the blanks at the end."""
        above = ["".join(line[at].data for at in range(self.screen.columns)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display]).rstrip()

    @property
    def restored(self) -> bool:
        """The terminal is as it was found: a cursor, no colour that stays, echo, not the alternate screen."""
        plain = self.screen.cursor.attrs
        left = self.raw.count(b"\x1b[?1049h") - self.raw.count(b"\x1b[?1049l")
        return not self.screen.cursor.hidden and plain.fg == plain.bg == "default" and not plain.bold and not left


@contextlib.contextmanager
def terminal(*arguments: str, cwd: Path, columns: int = 80, rows: int = 24, **environ: str) -> Iterator[Terminal]:
    """A terminal whose program is gone afterwards."""
    found = Terminal(*arguments, cwd=cwd, columns=columns, rows=rows, **environ)
    try:
        yield found
    finally:
        with contextlib.suppress(OSError, pexpect.ExceptionPexpect):
            found.child.kill(signal.SIGKILL)
        found.child.close(force=True)
