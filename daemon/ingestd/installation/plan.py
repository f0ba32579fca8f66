"""What an installation is going to do: files and commands, to be shown first and carried out then."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from ingestd.errors import IngestdError, UsageError

COMMAND_PATIENCE: Final = 300.0
"""Seconds that one command may take; starting and stopping the service have limits of their own."""
_STAMP: Final = "# Written by ingestd, "
_HINT: Final = "Changes belong into a drop-in: systemctl edit ingestd"


def stamped(text: str) -> str:
    """The text with a line ahead of it by which a later change is noticed."""
    return f"{_STAMP}{_digest(text)}. {_HINT}\n{text}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def condition(path: Path) -> Literal["absent", "written", "changed"]:
    """Of a file that an installation writes: whether it is as it was written, or somebody else had a hand in it."""
    text = _read(path)
    if text is None:
        return "absent"
    first, _, rest = text.partition("\n")
    return "written" if first.startswith(f"{_STAMP}{_digest(rest)}.") else "changed"


def _read(path: Path) -> str | None:
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", command=shlex.join(["ls", "-l", str(path)])
        ) from None


@dataclass(frozen=True)
class Write:
    """A file with this content; `own`: one that people change, and that is therefore never written twice."""

    path: Path
    text: str
    own: bool = False

    @property
    def needed(self) -> bool:
        old = _read(self.path)
        return old is None if self.own else old != self.text

    @property
    def overrides(self) -> bool:
        """It would undo what somebody changed."""
        return condition(self.path) == "changed"

    def told(self) -> Iterator[str]:
        old = _read(self.path)
        if old is None:
            yield f"write {self.path}"
            yield from (f"    {line}".rstrip() for line in self.text.splitlines())
        else:
            yield f"{'OVERWRITE, though it was changed,' if self.overrides else 'replace'} {self.path}"
            lines = difflib.unified_diff(old.splitlines(), self.text.splitlines(), "is", "will be", lineterm="")
            yield from (f"    {line}" for line in lines)

    def do(self) -> None:
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        fresh = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            fresh.write_text(self.text, encoding="utf-8")
            fresh.chmod(0o644)
            fresh.replace(self.path)
        finally:
            fresh.unlink(missing_ok=True)


@dataclass(frozen=True)
class Remove:
    """A file, or a directory: with all that is in it, or (`empty`) only if that is nothing."""

    path: Path
    empty: bool = False

    @property
    def needed(self) -> bool:
        return os.path.lexists(self.path) and (not self.empty or not any(self.path.iterdir()))

    @property
    def overrides(self) -> bool:
        return self.path.is_file() and condition(self.path) == "changed"

    def told(self) -> Iterator[str]:
        whole = self.path.is_dir() and not self.path.is_symlink() and not self.empty
        changed = ", though it was changed" if self.overrides else ""
        yield f"remove {self.path}{' with all that is in it' if whole else ''}{changed}"

    def do(self) -> None:
        if self.empty:
            with contextlib.suppress(OSError):  # somebody put something into it
                self.path.rmdir()
        elif self.path.is_dir() and not self.path.is_symlink():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Run:
    """A command; `may_fail`: where it only tidies up."""

    command: tuple[str, ...]
    may_fail: bool = False
    needed: bool = True
    overrides: bool = False

    def told(self) -> Iterator[str]:
        yield f"run {shlex.join(self.command)}"

    def do(self) -> None:
        line = shlex.join(self.command)
        try:
            done = subprocess.run(
                self.command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
                timeout=COMMAND_PATIENCE, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise IngestdError(f"{line}: {error}", command=line) from None
        if done.returncode and not self.may_fail:
            said = (done.stderr or done.stdout).strip() or f"exit code {done.returncode}"
            raise IngestdError(f"{line}: {said}", command=line)


Step = Write | Remove | Run


@dataclass
class Plan:
    """Steps in their order, what else is to be known, and the commands to type afterwards."""

    steps: list[Step] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)

    @property
    def overridden(self) -> list[Path]:
        """Files in which somebody's changes would be lost."""
        return [step.path for step in self.steps if isinstance(step, Write | Remove) and step.overrides]

    def told(self) -> Iterator[str]:
        """Line by line."""
        for step in self.steps:
            yield from step.told()
        yield from (f"note: {note}" for note in self.notes)


def carry_out(plan: Plan) -> None:
    """Do it. Raises `IngestdError` at the first step that fails; what was done stays, and a second time mends it."""
    for step in plan.steps:
        try:
            step.do()
        except OSError as error:
            where = error.filename or (step.path if isinstance(step, Write | Remove) else "")
            raise UsageError(f"{where}: {error.strerror}", command=f"ls -ld {shlex.quote(str(where))}") from None
