"""What a service manager is told, through systemd-python's `sd_notify`: ready, status, watchdog, reloading, stopping.

Without `NOTIFY_SOCKET`, which systemd sets for a service of `Type=notify`, nothing is told and nothing is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from ingestd.errors import IngestdError

if TYPE_CHECKING:
    from ingestd.daemon import Daemon

log = logging.getLogger("ingestd")

VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM")
"""They are the supervisor's alone; a worker never gets them."""
SINK_PATIENCE: Final = 30.0
"""Seconds that an index which cannot be reached holds up `READY=1`, once all else is ready."""
REPORT: Final = 2.0
"""Seconds between two looks at the counts."""
EXTENSION: Final = 30.0
"""Seconds asked for at a time while the start takes longer than the unit allows."""
STATUS_LIMIT: Final = 400


class Notifier:
    """The socket of the service manager; mute where there is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.listened = bool(environ.get("NOTIFY_SOCKET"))
        own = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "")
        self.watchdog = int(usec) / 1e6 if self.listened and own and usec.isdecimal() else 0.0
        """Seconds without a sign of life after which the service is killed; 0: it is not."""
        if self.listened:
            try:
                from systemd import daemon
            except ImportError:
                self.listened = False
                log.error("systemd waits for a word, but systemd-python is missing: pip install 'ingestd[systemd]'")
            else:
                self._notify = daemon.notify

    def tell(self, *lines: str) -> None:
        """Send assignments such as `READY=1`."""
        if not self.listened:
            return
        try:
            self._notify("\n".join(lines))
        except OSError as error:  # the watchdog, where there is one, is the consequence
            log.debug("the service manager cannot be told %s: %s", lines[0], error)

    def failed(self, error: IngestdError) -> None:
        """Why there is no service, for `systemctl status`."""
        self.tell("STATUS=" + one_status(error.message))


class Service:
    """One daemon, as its service manager sees it."""

    def __init__(self, daemon: Daemon, notifier: Notifier) -> None:
        self.daemon = daemon
        self.ready = False
        self._ending = self._told = ""
        self._tell = notifier.tell
        self._watchdog = notifier.watchdog
        self._listened = notifier.listened

    async def run(self) -> None:
        """Tell what there is to tell, for the daemon's whole life; start it once the daemon is open."""
        if not self._listened:
            return
        # An error of one is not the service's end, but for the watchdog's.
        roles = [self._start(), self._report()] + ([self._beat()] if self._watchdog else [])
        for result in await asyncio.gather(*roles, return_exceptions=True):
            if isinstance(result, Exception):
                log.error("the service manager is not told any more: %r", result, exc_info=result)

    async def _start(self) -> None:
        """All that is waited for has a limit of its own (a model's start, say), but for a journal that cannot be
        written: then the unit's limit stands."""
        extended = lacking = -1e9
        while not self.ready:
            now = time.monotonic()
            if now - extended > EXTENSION / 3 and self.daemon.journal.trouble is None:
                extended = now
                self._tell(f"EXTEND_TIMEOUT_USEC={EXTENSION * 1e6:.0f}")
            if not self._all_but_sink():
                lacking = now
            self.ready = now > lacking and (self.daemon.index_pool.ready.is_set() or now - lacking > SINK_PATIENCE)
            await asyncio.sleep(0.1)
        await self._tell_status()  # for whoever types `systemctl status` as soon as the start has returned
        self._tell("READY=1")

    def _all_but_sink(self) -> bool:
        """Watches are set; load workers and encoders are warm."""
        daemon = self.daemon
        return daemon.watching.ready and daemon.load_pool.ready.is_set() and daemon.encode_pool.ready.is_set()

    async def _report(self) -> None:
        while True:
            await self._tell_status()
            await asyncio.sleep(REPORT)

    async def _tell_status(self) -> None:
        """If it has changed."""
        with contextlib.suppress(IngestdError):  # the journal is closed for a moment when a new index takes over
            text = self._ending + describe(await self.daemon.status())
            if text != self._told:
                self._told = text
                self._tell("STATUS=" + text)

    async def _beat(self) -> None:
        """A sign of life while this loop turns and the journal takes what is written.

        A full disk is no reason to be killed: a new start would not make room, and searches are answered meanwhile.
        """
        pause = self._watchdog / 5
        while True:
            writing = asyncio.ensure_future(self.daemon.journal.meta("alive", f"{time.time():.0f}"))
            while not writing.done():
                await asyncio.wait({writing}, timeout=pause)
                if not writing.done() and self.daemon.journal.full:
                    self._tell("WATCHDOG=1")
            if not isinstance(error := writing.exception(), IngestdError | None):
                raise error
            # Closed, it is being exchanged together with the index, or the daemon stops; else it was written.
            if self.daemon.journal.trouble is None:
                self._tell("WATCHDOG=1")
            await asyncio.sleep(pause)

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """Around a reload, whoever asked for it."""
        if not self.ready:
            yield
            return
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self._tell("READY=1")

    def stopping(self) -> None:
        self._ending = "finishing the files in hand; "
        self._tell("STOPPING=1")


def describe(status: Mapping[str, Any]) -> str:
    """`ingestd status` in one line."""
    files = status["files"]
    done = files["indexed"] + files["partial"]
    failed = files["failed"] + files["quarantined"]
    parts = [f"{files['queued'] + files['settling']:,} queued, {files['running']:,} running, {done:,} indexed, "
             f"{failed:,} failed, {status['rates']['files_per_second']:.1f} files/s"]  # fmt: skip
    waiting = list(status["waiting_for"])
    waiting += [f"source {source['name']}" for source in status["sources"] if source["mode"] == "starting"]
    if waiting:
        parts.append("waits for " + ", ".join(waiting))
    parts += status["warnings"][:1]
    return one_status("; ".join(parts))


def one_status(text: str) -> str:
    """One line: a newline would begin another assignment."""
    from ingestd.worker import one_line

    return one_line(text, STATUS_LIMIT)
