"""The pieces that views are laid out with: they fit a terminal of any width, and are left whole for a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ingestd.cli.printable import clean, clean_line

NARROW: Final = 60
"""Columns below which what would be a table becomes a list."""
TINY: Final = 28
"""Columns below which a fact stands under its name, not beside it."""


def animated(stream: TextIO) -> bool:
    """Whether what was written there can be drawn over."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def console(*, stderr: bool = False) -> Console:
    """A console for this process's streams. Output that is not for a terminal is neither wrapped nor coloured."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 100_000
    return _Console(file=stream, width=width, highlight=False, markup=False, emoji=False, soft_wrap=width is not None)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError  # where all errors end, not in here


def show(renderable: RenderableType) -> None:
    """Print a result on standard output; lines end where their text ends."""
    out = console()
    with out.capture() as captured:
        out.print(renderable, crop=False)
    lines = captured.get().splitlines()
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines))
    sys.stdout.flush()


class Whole:
    """One line that is never broken by us: where it is too long the terminal does so, and what is copied is whole."""

    def __init__(self, text: Text) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        self._text.end = ""
        yield from self._text.render(console)
        yield Segment.line()


class Either:
    """The first from `NARROW` columns up, else the second."""

    def __init__(self, wide: RenderableType, narrow: RenderableType) -> None:
        self._wide = wide
        self._narrow = narrow

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._wide if options.max_width >= NARROW else self._narrow


class SideBySide:
    """Wrapped between its parts, and inside one only where the terminal is narrower than that."""

    def __init__(self, parts: Sequence[Text]) -> None:
        self._parts = parts

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text(overflow="fold")
        for part in self._parts:
            if line and line.cell_len + 2 + part.cell_len > options.max_width:
                yield line
                line = Text(overflow="fold")
            line.append("  " if line else "").append_text(part)
        yield line

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        widths = [part.cell_len for part in self._parts] or [0]
        return Measurement(max(widths), sum(widths) + 2 * (len(widths) - 1)).with_maximum(options.max_width)


class Named:
    """Facts, each beside its name; below it where the terminal is tiny."""

    def __init__(self) -> None:
        self._rows: list[tuple[str, RenderableType]] = []

    def add(self, name: str, fact: RenderableType) -> None:
        self._rows.append((name, fact if not isinstance(fact, str) else Text(fact, overflow="fold")))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if options.max_width < TINY:
            for name, fact in self._rows:
                yield Text(name, style="dim", overflow="fold")
                yield fact
            return
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, fact in self._rows:
            table.add_row(name, fact)
        yield table


# --- text -----------------------------------------------------------------------------------------------------


def line(head: str, text: object, *, style: str) -> Text:
    """One line of a live view, cut where the terminal ends."""
    found = Text(no_wrap=True, overflow="ellipsis")
    found.append(clean_line(head), style=style)
    found.append(clean_line(text))
    return found


def fit(text: object, width: int) -> str:
    """Text of exactly so many columns."""
    fitted = Text(clean_line(text))
    fitted.truncate(width, overflow="ellipsis", pad=True)
    return fitted.plain


def name(path: str | bytes) -> str:
    """The last part of a path."""
    return clean_line(path).rstrip("/").rpartition("/")[2]


def count(number: float) -> str:
    return f"{number:,.0f}"


def number_of(number: int, noun: str) -> str:
    """`1 file`, `2 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def plain(value: Any) -> str:
    """Anything as people write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value) or "none"
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def first_lines(text: object, number: int) -> str:
    return "\n".join(clean(text).strip().splitlines()[:number])
