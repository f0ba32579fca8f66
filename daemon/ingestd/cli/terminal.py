"""Progress on the terminal while something works: a live view where there is a terminal, lines of text elsewhere."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, Protocol

from rich.console import Console, RenderableType
from rich.constrain import Constrain
from rich.live import Live
from rich.text import Text

from ingestd.cli import layout, views
from ingestd.cli.printable import clean

LINE_EVERY: Final = 10.0
"""Seconds between two lines of progress where there is no terminal."""

_Render = Callable[[Mapping[str, Any], int], RenderableType]


def _draw(live: Live, render: _Render, progress: Mapping[str, Any]) -> None:
    """Draw the view as wide as the terminal, but for the `^C` that is echoed behind it and must not begin a line."""
    width = max(1, live.console.width - 2)
    view = Constrain(render(progress, width), width)
    # A KeyboardInterrupt in the middle of it would leave half of the view behind.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        live.update(view, refresh=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
        _draw(self.live, self._render, progress)

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


class Obstacles:
    """What stands in the way of a daemon that is waited for, each once until nothing does."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._told: set[str] = set()

    def show(self, status: Mapping[str, Any]) -> None:
        waiting_for = status.get("waiting_for")
        if not waiting_for:
            self._told.clear()
        elif (line := layout.plain(waiting_for)) not in self._told:
            self._told.add(line)
            self._write(clean(f"waiting for {line}"))


@contextlib.contextmanager
def watching() -> Iterator[LiveView]:
    """The live view of `run`; standard error is a terminal."""
    view = LiveView(layout.console(stderr=True), views.live)
    with view.live:
        yield view


@contextlib.contextmanager
def ingesting() -> Iterator[View]:
    """The progress of `ingest`."""
    if not layout.animated(sys.stderr):
        yield LineView(lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201
        return
    view = LiveView(layout.console(stderr=True), views.ingesting)
    with view.live:
        yield view


@contextlib.contextmanager
def waiting() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """What `wait` waits for: seen on a terminal, while it lasts; elsewhere a line for what stands in its way."""
    if not layout.animated(sys.stderr):
        yield Obstacles(lambda line: print(line, file=sys.stderr, flush=True)).show  # noqa: T201
        return
    with Live(console=layout.console(stderr=True), auto_refresh=False, transient=True, redirect_stdout=False) as live:
        yield lambda status: _draw(live, views.live, status)


def follow(status: Callable[[], Mapping[str, Any]], *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Show the status once a second, until the user has seen enough; in lines where there is no terminal."""
    with contextlib.suppress(KeyboardInterrupt), _following() as draw:
        before: Mapping[str, Any] = {}
        while True:
            now = dict(status())
            if before and "rates" not in now:
                now["rates"] = {"chunks_per_second": max(0, now.get("chunks", 0) - before.get("chunks", 0))}
            draw(now)
            before = now
            sleep(1)


@contextlib.contextmanager
def _following() -> Iterator[Callable[[Mapping[str, Any]], None]]:
    if not layout.animated(sys.stdout):
        yield lambda status: print(views.status_line(status), flush=True)  # noqa: T201
        return
    with Live(console=layout.console(), auto_refresh=False) as live:
        yield lambda status: _draw(live, views.live, status)
