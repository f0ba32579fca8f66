"""What the command line does, as blocking calls: through a running daemon where there is one, without it otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestd import journal, reindexing, reports
from ingestd.config import Config
from ingestd.control import Control
from ingestd.errors import AlreadyRunningError, ConfigError, IngestdError, NotRunningError, UnreachableError, UsageError
from ingestd.lock import Lock, unusable
from ingestd.manifest import Plugins
from ingestd.paths import exists, split_member
from ingestd.sandbox import low_oom_score
from ingestd.service import Notifier, Service
from ingestd.types import display
from ingestd.unit import starting

if TYPE_CHECKING:
    from ingestd.daemon import Daemon

# What only a command without a daemon needs is imported by it: asking a running one is to cost next to nothing.

log = logging.getLogger("ingestd")

Progress = Callable[[dict[str, Any]], None]


def run(config: Config, *, progress: Progress | None = None) -> int:
    """Run the daemon until SIGINT or SIGTERM; a second one stops it at once. Returns the exit code."""
    if not config.watch:
        raise UsageError(
            "nothing to watch: add a [[watch]] table to the configuration, or take files in once",
            command="ingestd ingest PATH",
        )
    notifier = Notifier(os.environ)
    try:
        return asyncio.run(_run(config, progress, notifier))
    except IngestdError as error:
        notifier.failed(error)
        raise


async def _run(config: Config, progress: Progress | None, notifier: Notifier) -> int:
    from ingestd.daemon import Daemon

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    hurry = asyncio.Event()

    def asked() -> None:

        if stop.is_set():
            hurry.set()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, asked)
    low_oom_score()
    daemon = Daemon(config)
    service = Service(daemon, notifier)
    daemon.reloading = service.reloading
    await daemon.__aenter__()
    serving = asyncio.create_task(service.run())
    reloads: set[asyncio.Task[None]] = set()
    loop.add_signal_handler(signal.SIGHUP, lambda: reloads.add(asyncio.ensure_future(_reload(daemon))))
    drain = 20.0
    try:
        starting = asyncio.ensure_future(daemon.started_up(patient=True))
        stopping = asyncio.ensure_future(stop.wait())
        while not stopping.done():
            waits: set[asyncio.Future[Any]] = {stopping, daemon.broken, *([] if starting.done() else [starting])}
            await asyncio.wait(waits, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
            if daemon.broken.done():
                daemon.broken.result()
            if starting.done():
                starting.result()
            if progress is not None:
                progress(await daemon.status())
        starting.cancel()
    except BaseException:
        drain = 0.0
        raise
    finally:
        service.stopping()
        closing = asyncio.ensure_future(daemon.close(drain))
        hurrying = asyncio.ensure_future(hurry.wait())
        while not closing.done() and not hurrying.done():
            if progress is not None:
                with contextlib.suppress(IngestdError):  # the journal is closed before the last worker is gone
                    progress({**await daemon.status(), "stopping": True})
            await asyncio.wait({closing, hurrying}, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)
        hurrying.cancel()
        if not closing.done():
            daemon.hurry()
        await closing
        serving.cancel()
    return 0


async def _reload(daemon: Daemon) -> None:
    """SIGHUP: nobody waits for the answer but the log."""
    try:
        await daemon.reload()
    except IngestdError as error:
        log.error("the configuration stays as it was: %s", error.message)


def reload(config: Config) -> dict[str, Any]:
    """Have the daemon read its configuration again. Raises `ConfigError` where that is refused."""
    with reach(config) as control:
        return control.call("reload")


def ingest(config: Config, paths: Sequence[bytes], *, progress: Progress) -> dict[str, Any]:
    """Take in files and directories; returns the summary. Raises `IngestdError`, `KeyboardInterrupt`."""
    paths = [os.path.abspath(path) for path in paths]
    for path in paths:
        if not exists(path):
            raise UsageError(f"there is no {display(path)}")
    control = connect(config)
    if control is not None:
        summary: dict[str, Any] = {}
        with control:
            for summary in control.stream("ingest", paths=list(paths)):
                if "seconds" not in summary:
                    progress(summary)
        return summary
    return asyncio.run(_ingest(config, paths, progress))


async def _ingest(config: Config, paths: Sequence[bytes], progress: Progress) -> dict[str, Any]:
    from ingestd.daemon import Daemon

    summary: dict[str, Any] = {}
    low_oom_score()
    daemon = Daemon(config, watching=False)
    await daemon.__aenter__()
    try:
        async for summary in daemon.ingest(paths):
            if "seconds" not in summary:
                progress(summary)
    except BaseException:
        await asyncio.shield(daemon.close(0.0))
        raise
    await daemon.close()
    return summary


def plan(config: Config, paths: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    """What `ingest` would do, as `planning.plan` yields it."""
    control = connect(config)
    if control is not None:
        with control:
            yield from control.stream("plan", paths=list(paths))
        return

    async def alone() -> list[dict[str, Any]]:
        from ingestd.daemon import Daemon

        async with Daemon(config, watching=False) as daemon:
            daemon.dispatcher.draining = True
            return [planned async for planned in daemon.handle("plan", {"paths": list(paths)})]

    yield from asyncio.run(alone())


def search(
    config: Config, text: str, top: int, source: str | None, path: str | None, **filters: Any
) -> list[dict[str, Any]]:
    """Passages, best first. `filters`: further fields of `types.Query`."""
    control = connect(config)
    if control is not None:
        with control:
            hits: list[dict[str, Any]] = control.call(
                "search", text=text, top=top, source=source, path=path, **filters
            )["hits"]
            return hits
    if not config.state_directory.joinpath("journal.sqlite").exists():
        raise UnreachableError("nothing has been indexed yet", command="ingestd ingest PATH")

    async def alone() -> list[dict[str, Any]]:
        from ingestd.daemon import Daemon

        async with Daemon(config, watching=False) as daemon:
            daemon.dispatcher.draining = True  # it is there to search, not to work off what is queued
            return await daemon.search(text, top, source, path, **filters)

    return asyncio.run(alone())


def status(config: Config) -> dict[str, Any]:
    """See DESIGN's list of `status --json`."""
    control = connect(config)
    if control is not None:
        with control:
            return control.call("status")
    with reading(config) as db:
        return reports.offline_status(config, db)


def why(config: Config, path: bytes) -> dict[str, Any]:
    """All that is known of one file. Raises `UsageError` for a path that is not in the journal."""
    path = os.path.abspath(path)
    control = connect(config)
    if control is not None:
        with control:
            return control.call("why", path=path)
    with reading(config) as db:
        if db is None:
            raise UsageError("nothing has been ingested yet", command="ingestd ingest PATH")
        return reports.why(db, path)


def failures(config: Config) -> list[dict[str, Any]]:
    """Files that are failed, quarantined or indexed in part."""
    control = connect(config)
    if control is not None:
        with control:
            found: list[dict[str, Any]] = control.call("failures")["failures"]
            return found
    with reading(config) as db:
        return reports.failures(db) if db is not None else []


def retry(config: Config, paths: Sequence[bytes] | None) -> dict[str, Any]:
    """Queue failed files again; all of them with None."""
    paths = [os.path.abspath(path) for path in paths] if paths is not None else None
    control = connect(config)
    if control is not None:
        with control:
            return control.call("retry", paths=paths)
    with locked(config) as db:
        return {"retried": journal.retry(db, reports.retryable(db, paths))}


def pause(config: Config, source: str | None, *, paused: bool) -> list[str]:
    """Take nothing more in from a source (None: from any), or go on. Returns the sources' names."""
    control = connect(config)
    if control is not None:
        with control:
            names: list[str] = control.call("pause" if paused else "resume", source=source)["sources"]
            return names
    with locked(config) as db:
        return journal.pause(db, source, paused)


def confirm_deletes(config: Config, source: str) -> int:
    """Let the held files of a source leave the index. Returns how many there are."""
    control = connect(config)
    if control is not None:
        with control:
            return int(control.call("confirm_deletes", source=source)["files"])
    with locked(config) as db:
        return journal.removal.confirm(db, source)


def wait(config: Config, timeout: float | None, *, progress: Progress = lambda status: None) -> bool:
    """Whether nothing is settling, queued or running any more, within `timeout` seconds."""
    deadline = time.monotonic() + timeout if timeout is not None else None
    while True:
        found = status(config)
        progress(found)
        files = found["files"]
        busy = files["settling"] + files["queued"] + files["running"]
        if not busy and (not found["running"] or found["ready"]):
            return True
        if not found["running"] and busy:
            raise UnreachableError(
                f"{busy} files are queued, but no daemon is running at {config.control_socket}",
                command=starting(config.state_directory),
            )
        if deadline is not None and time.monotonic() >= deadline:
            return False
        time.sleep(0.2)


def plugins(config: Config) -> list[dict[str, Any]]:
    """Loaders, engines and sinks, with the plugins that failed."""
    control = connect(config)
    if control is not None:
        with control:
            found: list[dict[str, Any]] = control.call("plugins")["plugins"]
            return found

    known = asyncio.run(probed())
    return reports.plugins(known.manifest, known.lost, config.load)


async def probed() -> Plugins:
    """The plugins as a daemon would find them now, whatever it is told to use."""
    plugins = Plugins()
    with tempfile.TemporaryDirectory(prefix="ingestd-") as scratch:
        await plugins.probe(Path(scratch), f"plugins-{secrets.token_hex(6)}.0")
    return plugins


def try_file(config: Config, path: bytes, loader: str | None) -> dict[str, Any]:
    """Load one file in a worker of its own and say all about it; nothing is journaled or indexed."""
    path, member = split_member(os.path.abspath(path))
    if os.path.isdir(path):
        raise UsageError(f"{display(path)} is a directory: name a file")
    control = connect(config)
    if control is not None:
        with control:
            return control.call("try", path=path, loader=loader, member=member)

    async def alone() -> dict[str, Any]:
        from ingestd.daemon import Daemon

        async with Daemon(config, watching=False) as daemon:
            daemon.dispatcher.draining = True
            (told,) = [told async for told in daemon.trials.answer(path, loader, member=member)]
            return told

    return asyncio.run(alone())


def verify(config: Config, *, deep: bool, repair: bool, progress: Progress) -> dict[str, Any]:
    """Compare folders, journal and index, as `verifying.verify` does."""
    arguments = {"deep": deep, "repair": repair}
    told: dict[str, Any] = {}
    control = connect(config)
    if control is not None:
        with control:
            for told in control.stream("verify", **arguments):
                if "missing" not in told:
                    progress(told)
        return told

    async def alone() -> dict[str, Any]:
        from ingestd.daemon import Daemon

        told: dict[str, Any] = {}
        async with Daemon(config, watching=False) as daemon:
            daemon.dispatcher.draining = True
            async for told in daemon.handle("verify", arguments):
                if "missing" not in told:
                    progress(told)
        return told

    return asyncio.run(alone())


def reindex(config: Config, *, progress: Progress) -> dict[str, Any]:
    """Build a new index beside the one in use, and have it take its place; returns what it holds."""
    control = connect(config)
    told: dict[str, Any] = {}
    if control is not None:
        with control:
            for told in control.stream("reindex"):
                if "documents" not in told:
                    progress(told)
        return told
    if not config.state_directory.joinpath("journal.sqlite").exists():
        raise UsageError("nothing has been indexed yet", command="ingestd ingest PATH")
    return asyncio.run(_reindex(config, progress))


async def _reindex(config: Config, progress: Progress) -> dict[str, Any]:
    from ingestd.daemon import Daemon

    told: dict[str, Any] = {}
    low_oom_score()
    try:
        daemon = await Daemon(reindexing.in_use(config), watching=False).__aenter__()
    except ConfigError:  # what the index was made with is no longer installed: then every file is loaded
        daemon = await Daemon(config, watching=False).__aenter__()
    try:
        async for told in reindexing.reindex(daemon, config):
            if "documents" not in told:
                progress(told)
    except BaseException:
        await asyncio.shield(daemon.close(0.0))
        raise
    await daemon.close()
    return told


def drop_index(config: Config) -> int:
    """Drop the index and queue every file; the next run makes it anew. Returns how many files."""
    with locked(config) as db:
        queued = journal.forget_all(db)
        reindexing.drop(config.state_directory)
        shutil.rmtree(config.state_directory / "index", ignore_errors=True)
        return queued


# --- with and without a daemon --------------------------------------------------------------------------------


def connect(config: Config) -> Control | None:
    """The daemon that holds the state directory; None where none runs, and this user can do without."""
    try:
        return reach(config)
    except NotRunningError as error:
        state = config.state_directory
        try:
            if os.access(state, os.R_OK | os.X_OK) or not state.is_dir():
                return None
        except PermissionError:  # of a directory above it
            pass
        raise UnreachableError(f"{error.message}, and {state} is closed to this user", command=error.command) from None


def reach(config: Config) -> Control:
    """The daemon that holds the state directory. Raises `NotRunningError` where none runs."""
    try:
        return Control(config.control_socket, group=config.state.control_group)
    except NotRunningError as error:
        raise NotRunningError(error.message, command=starting(config.state_directory)) from None


@contextlib.contextmanager
def reading(config: Config) -> Iterator[sqlite3.Connection | None]:
    """The journal, read only; None where there is none yet."""
    path = config.state_directory / "journal.sqlite"
    try:
        path.stat()
    except FileNotFoundError:
        yield None
        return
    except OSError as error:
        raise unusable(config.state_directory, error) from None
    db = journal.connect(path, readonly=True)
    try:
        yield db
    finally:
        db.close()


@contextlib.contextmanager
def locked(config: Config) -> Iterator[sqlite3.Connection]:
    """The journal, to write to, in one transaction, while no daemon holds it."""
    try:
        lock = Lock(config.state_directory)
    except AlreadyRunningError as error:
        raise IngestdError(f"{error.message}, but it does not answer", command="ingestd status") from None
    db = journal.connect(config.state_directory / "journal.sqlite")
    try:
        db.execute("BEGIN IMMEDIATE")
        yield db
        db.execute("COMMIT")
    finally:
        db.close()
        lock.release()
