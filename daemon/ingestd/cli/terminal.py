"""Progress on the terminal while something works: a live view where there is a terminal, lines of text elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from ingestd.cli import views
from ingestd.cli.printable import clean

LINE_EVERY: Final = 10.0
"""Seconds between two lines of progress where there is no terminal."""

_Render = Callable[[Mapping[str, Any], int], RenderableType]


class View(Protocol):
    def show(self, progress: dict[str, Any]) -> None:
        """What there is to see now."""

    def write(self, line: str) -> None:
        """A line that stays."""


class LiveView:
    """Drawn over and over at the bottom of the terminal; lines that stay go above it."""

    def __init__(self, console: Console, render: _Render) -> None:
        self._console = console
        self._render = render
        # Refreshed by `show` alone: no thread of ours runs beside the daemon's.
        self.live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)

    def show(self, progress: dict[str, Any]) -> None:
        self.live.update(self._render(progress, self._console.width), refresh=True)

    def write(self, line: str) -> None:
        self._console.print(Text(clean(line)), soft_wrap=True)


class LineView:
    """A line now and then, for logs and pipes."""

    def __init__(self, write: Callable[[str], None], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._write = write
        self._clock = clock
        self._next = clock() + LINE_EVERY

    def show(self, progress: dict[str, Any]) -> None:
        if self._clock() >= self._next:
            self._next = self._clock() + LINE_EVERY
            self._write(views.ingest_line(progress))

    def write(self, line: str) -> None:
        self._write(clean(line))


@contextlib.contextmanager
def watching() -> Iterator[LiveView]:
    """The live view of `run`; standard error is a terminal."""
    view = LiveView(views.console(stderr=True), views.live)
    with view.live:
        yield view


@contextlib.contextmanager
def ingesting() -> Iterator[View]:
    """The progress of `ingest`."""
    if not sys.stderr.isatty():
        yield LineView(lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
        return
    view = LiveView(views.console(stderr=True), views.ingesting)
    with view.live:
        yield view


def follow(status: Callable[[], Mapping[str, Any]], *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show the status once a second, until the user has seen enough."""
    console = views.console()
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        before: Mapping[str, Any] = {}
        while True:
            now = dict(status())
            if before and "rates" not in now:
                now["rates"] = {"chunks_per_second": max(0, now.get("chunks", 0) - before.get("chunks", 0))}
            live.update(views.live(now, console.width), refresh=True)
            before = now
            sleep(1)
