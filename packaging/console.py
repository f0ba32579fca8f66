"""What the quick start shows: steps, the time they take, and failures that say what to do. Standard library only."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path


class Failure(Exception):
    """Something that a person has to put right; the message says how."""


def say(line: str = "") -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def run(command: list[str], what: str, *, cwd: Path | None = None, show: bool = False) -> None:
    """Run `command` while saying that it is at work; its output is shown, or kept for the failure's message.

    Raises `Failure` with the end of that output where it exits with anything but 0.
    """
    with Pulse(what, own_progress=show):
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=None if show else subprocess.PIPE,
                stderr=None if show else subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise Failure(f"{what}: cannot run {command[0]}: {error.strerror}") from error
    if done.returncode:
        tail = "\n".join((done.stdout or "").strip().splitlines()[-8:])
        raise Failure(f"{what}: {Path(command[0]).name} failed ({done.returncode})" + (f"\n{tail}" if tail else ""))


class Pulse:
    """While the block runs: a counter of seconds on a terminal, a line now and then elsewhere.

    `own_progress`: the command draws its own progress on a terminal, which must not be drawn over.
    """

    def __init__(self, what: str, *, own_progress: bool = False) -> None:
        self.what = what
        self.terminal = sys.stdout.isatty()
        self.silent = own_progress and sys.stderr.isatty()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> None:
        self._started = time.monotonic()
        if not self.terminal or self.silent:
            say(f"{self.what} ...")
        if not self.silent:
            self._thread.start()

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        if not self.silent:
            self._thread.join()
            if self.terminal:
                say(f"\r{self.what} ({self.seconds:.1f} s)")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def _beat(self) -> None:
        while not self._done.wait(0.2 if self.terminal else 5):
            if self.terminal:
                sys.stdout.write(f"\r{self.what} ({self.seconds:.0f} s)")
                sys.stdout.flush()
            else:
                say(f"  ... {self.seconds:.0f} s")
