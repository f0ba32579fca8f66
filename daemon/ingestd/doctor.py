"""What people need to know when nothing happens: each check with its finding, and the next command to type."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import join
from typing import Any, Literal, NamedTuple

from ingestd import __version__, commands, devices, journal
from ingestd.config import Config
from ingestd.config.units import spell_size
from ingestd.errors import IngestdError, UsageError
from ingestd.sandbox import landlock
from ingestd.types import display

ROOM = 1 << 30
"""Bytes that should be free where the state lies."""
DIRECTORIES = 200_000
"""Directories of a source that are counted at the most, and seconds that it may take."""
PATIENCE = 5.0
LIBRARIES = ("torch", "sentence-transformers", "pymupdf", "watchdog", "apsw", "sqlite-vec")


class Finding(NamedTuple):
    """One thing that was looked at."""

    check: str
    state: Literal["ok", "warning", "wrong"]
    text: str
    command: str | None = None
    """What to type next."""


def examine(config: Config) -> Iterator[Finding]:
    """Look at everything, one thing after the other. A check that fails is a finding, never an error."""
    checks: list[Callable[[Config], Iterator[Finding]]] = [
        versions, plugins, configuration, state, sources, inotify, sandbox, model, accelerators, index, daemon,
    ]  # fmt: skip
    for check in checks:
        try:
            yield from check(config)
        except (OSError, IngestdError, sqlite3.Error) as error:
            yield Finding(check.__name__, "wrong", str(error), getattr(error, "command", None))


def versions(config: Config) -> Iterator[Finding]:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            yield Finding("versions", "wrong", f"{name} is not installed", f"pip install {name}")
    text = f"ingestd {__version__}, Python {platform.python_version()}, Linux {platform.release()}; {', '.join(found)}"
    yield Finding("versions", "ok", text)


def plugins(config: Config) -> Iterator[Finding]:
    """Those of a running daemon are among its warnings."""
    if commands.status(config)["running"]:
        return
    found = asyncio.run(commands.probed())
    errors = [*found.manifest.errors, *found.lost]
    for error in errors:
        text = f"plugin {error.plugin} ({error.distribution}): {error.reason}"
        yield Finding(
            "plugins", "warning", text, join(["pip", "install", "--upgrade", *error.distribution.split()[:1]])
        )
    try:
        found.check(config)
    except UsageError as error:
        yield Finding("plugins", "wrong", error.message, error.command)
    else:
        if not errors:
            yield Finding("plugins", "ok", f"{len(found.manifest.items)} loaders, engines and sinks")


def configuration(config: Config) -> Iterator[Finding]:
    where = config.file or "no configuration file: the defaults"
    if not config.watch:
        yield Finding("configuration", "warning", f"{where}; nothing to watch: add a [[watch]] table",
                      "ingestd ingest PATH")  # fmt: skip
    else:
        yield Finding("configuration", "ok", where)


def state(config: Config) -> Iterator[Finding]:
    directory = config.state_directory
    there = directory
    while not there.exists():
        there = there.parent
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("state", "wrong", f"{directory} cannot be written by this user", join(["ls", "-ld", str(there)]))
        return
    free = shutil.disk_usage(there).free
    if free < ROOM:
        yield Finding(
            "state", "warning", f"only {spell_size(free)} are free at {directory}", join(["df", "-h", str(there)])
        )
    else:
        yield Finding("state", "ok", f"{directory}, {spell_size(free)} free")
    if there == directory:
        newest = max((entry.stat().st_mtime for entry in os.scandir(directory)), default=0.0)
        if newest > time.time() + 60:
            yield Finding("clock", "wrong", "the state was written in the future: the clock was set back", "date")


def sources(config: Config) -> Iterator[Finding]:
    for table in config.watch:
        name, directory, shown = f"source {table.name}", table.directory, display(table.directory)
        try:
            with os.scandir(directory) as entries:
                empty = next(entries, None) is None
        except OSError as error:
            yield Finding(name, "wrong", f"{shown}: {error.strerror}", join(["ls", "-ld", directory]))
            continue
        if empty:
            yield Finding(
                name,
                "warning",
                f"{display(table.directory)} is empty (not mounted?)",
                join(["findmnt", "-T", directory]),
            )
        else:
            yield Finding(name, "ok", shown)


def inotify(config: Config) -> Iterator[Finding]:
    """As many watches are needed as there are directories; each source takes an instance."""
    needed = 0
    until = time.monotonic() + PATIENCE
    for table in config.watch:
        for _ in os.walk(table.directory):
            needed += 1
            if needed >= DIRECTORIES or time.monotonic() > until:
                break
    for key, least in (("max_user_watches", needed), ("max_user_instances", len(config.watch))):
        limit = int(Path(f"/proc/sys/fs/inotify/{key}").read_text())
        command = f"sysctl -w fs.inotify.{key}={max(2 * limit, 2 * least)}"
        if limit < least:
            yield Finding("inotify", "wrong", f"fs.inotify.{key} is {limit:,}, {least:,} are needed", command)
        elif limit < 1.2 * least:
            yield Finding("inotify", "warning", f"fs.inotify.{key} is {limit:,}, {least:,} are used", command)
        else:
            yield Finding("inotify", "ok", f"fs.inotify.{key} is {limit:,}, {least:,} needed here")


def sandbox(config: Config) -> Iterator[Finding]:
    wanted = config.load.sandbox
    version = landlock.abi()
    status = Path("/proc/self/status").read_text()
    missing = [] if version else ["Landlock (Linux 5.13, and `landlock` among the security modules)"]
    missing += [] if "Seccomp:" in status else ["seccomp"]
    if wanted == "off":
        yield Finding("sandbox", "warning", 'switched off by [load] sandbox = "off"', "ingestd check-config")
    elif missing:
        state: Literal["warning", "wrong"] = "wrong" if wanted == "required" else "warning"
        yield Finding("sandbox", state, f"the kernel lacks {', '.join(missing)}", "cat /sys/kernel/security/lsm")
    else:
        yield Finding("sandbox", "ok", f"Landlock {version} and seccomp")


def model(config: Config) -> Iterator[Finding]:
    if config.encode.engine != "torch":
        yield Finding("model", "ok", f"{config.encode.model}, engine {config.encode.engine}")
        return
    from ingestd import models

    yield Finding("model", "ok", f"{config.encode.model} in {models.resolve(config.encode.model)}")


def accelerators(config: Config) -> Iterator[Finding]:
    seen, visible = devices.seen(), devices.visible()
    if not seen:
        yield Finding("gpu", "ok", f"none here: {len(os.sched_getaffinity(0))} processor cores encode")
    elif not visible:
        yield Finding("gpu", "warning", f"{seen} seen, all hidden by CUDA_VISIBLE_DEVICES", "env | grep CUDA")
    elif config.encode.devices != "auto" and not any("cuda" in device for device in config.encode.devices):
        yield Finding("gpu", "warning", f"{seen} seen, but [encode] devices is {config.encode.devices}")
    else:
        yield Finding("gpu", "ok", f"{visible} of {seen} used")


def index(config: Config) -> Iterator[Finding]:
    path = config.state_directory / "journal.sqlite"
    if not path.exists():
        yield Finding("index", "ok", "nothing is indexed yet")
        return
    db = journal.connect(path, readonly=True)
    try:
        files, chunks = journal.counts(db)
        (damage,) = db.execute("PRAGMA quick_check(1)").fetchone()
    finally:
        db.close()
    if damage != "ok":
        yield Finding("index", "wrong", f"{path} is damaged: {damage}", "ingestd reindex")
        return
    total = sum(sum(states.values()) for states in files.values())
    bad = sum(states["failed"] + states["quarantined"] for states in files.values())
    yield Finding("index", "ok", f"files: {total:,}, chunks: {chunks:,}")
    if bad:
        yield Finding(
            "failures", "warning", f"{bad:,} file{'' if bad == 1 else 's'} failed or quarantined", "ingestd failures"
        )


def daemon(config: Config) -> Iterator[Finding]:
    status: dict[str, Any] = commands.status(config)
    if not status["running"]:
        yield Finding("daemon", "warning", "not running", "ingestd run")
    elif not status["ready"]:
        waiting = "; ".join(status["waiting_for"]) or "its sources"
        yield Finding("daemon", "warning", f"running with pid {status['pid']}, waits for {waiting}", "ingestd status")
    else:
        devices = ", ".join(encoder["device"] for encoder in status["encoders"])
        yield Finding("daemon", "ok", f"running with pid {status['pid']}; encodes on {devices}")
    for warning in status["warnings"]:
        yield Finding("daemon", "warning", warning)
