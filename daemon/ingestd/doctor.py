"""What people need to know when nothing happens: each check with its finding, and the next command to type.

A check asks file systems, other machines and the daemon, any of which may never answer. So each runs in a process of
its own that is given up after `DEADLINE`.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib.metadata
import json
import os
import platform
import select
import shutil
import signal
import socket
import sqlite3
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from shlex import join
from typing import Any, Literal, NamedTuple

from ingestd import __version__, commands, devices, journal
from ingestd.config import Config
from ingestd.config.units import spell_size
from ingestd.errors import IngestdError, UnreachableError, UsageError
from ingestd.sandbox import landlock
from ingestd.types import display
from ingestd.unit import starting

ROOM = 1 << 30
"""Bytes that should be free where the state lies."""
INODES = 1000
"""Files for which there should be room."""
DIRECTORIES = 200_000
"""Directories of a source that are counted at the most, and seconds that it may take."""
PATIENCE = 5.0
DEADLINE = 15.0
"""Seconds that one check may take."""
PROBE = 120.0
"""The same for the import of all plugins."""
CONNECT = 5.0
"""Seconds that a server may take to accept a connection."""
LIBRARIES = ("torch", "sentence-transformers", "pymupdf", "watchdog", "apsw", "sqlite-vec")


class Finding(NamedTuple):
    """One thing that was looked at."""

    check: str
    state: Literal["ok", "warning", "wrong"]
    text: str
    command: str | None = None
    """What to type next."""


Check = Callable[[Config], Iterable[Finding]]


def examine(config: Config) -> Iterator[Finding]:
    """Look at everything, one thing after the other. A check that fails, or hangs, is a finding, never an error."""
    checks: list[tuple[str, Check]] = [
        ("versions", versions), ("plugins", plugins), ("configuration", configuration), ("state", state),
    ]  # fmt: skip
    for check_name, check in checks:
        yield from carry_out(check_name, check, config, config.state_directory)
    directories = 0
    for table in config.watch:
        check = functools.partial(source, name=table.name, directory=table.directory)
        for finding in carry_out(f"source {table.name}", check, config, table.directory):
            if finding.check == _COUNTED:
                directories += int(finding.text)
            else:
                yield finding
    checks = [
        ("inotify", functools.partial(inotify, needed=directories)), ("sandbox", sandbox), ("model", model),
        ("gpu", accelerators), ("index", index), ("sink", sink), ("daemon", daemon),
    ]  # fmt: skip
    for check_name, check in checks:
        yield from carry_out(check_name, check, config, config.state_directory)


def carry_out(name: str, check: Check, config: Config, place: Path | str) -> list[Finding]:
    """The findings of one check, or that it does not answer; `place` is what it waits for."""
    reading, writing = os.pipe()
    # Not spawned as workers are: this is a command of one thread that has loaded no library, and starts nothing else.
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            with open(writing, "wb") as pipe:
                pipe.write(json.dumps(_findings(name, check, config)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    answer = b""
    patience = PROBE if name == "plugins" else DEADLINE
    deadline = time.monotonic() + patience
    with open(reading, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            piece = pipe.read(65536)
            if not piece:
                os.waitpid(pid, 0)
                return [Finding(*found) for found in json.loads(answer)] if answer else [_died(name)]
            answer += piece
    os.kill(pid, signal.SIGKILL)
    gone = time.monotonic() + 1.0  # one that waits for a dead server in the kernel stays, and is left alone
    while not os.waitpid(pid, os.WNOHANG)[0] and time.monotonic() < gone:
        time.sleep(0.01)
    where = join(["timeout", "5", "ls", "-ld", str(place)])
    text = f"no answer within {patience:.0f} s: {display(os.fsencode(place))} hangs, or what it asks does"
    return [Finding(name, "wrong", text, where)]


def _findings(name: str, check: Check, config: Config) -> list[Finding]:
    try:
        return list(check(config))
    except (OSError, IngestdError, sqlite3.Error) as error:
        command = getattr(error, "command", None)
        if command is None:
            path = getattr(error, "filename", None)
            command = join(["ls", "-ld", os.fsdecode(path)]) if path else "ingestd status"
        return [Finding(name, "wrong", str(error), command)]


def _died(name: str) -> Finding:
    return Finding(name, "wrong", "the check itself failed; above is why", "ingestd --version")


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
        with contextlib.suppress(UnreachableError):
            commands.reach(config).close()
            yield Finding("state", "ok", f"{directory}, which the daemon alone may open")
            return
        yield Finding("state", "wrong", f"{directory} cannot be written by this user", join(["ls", "-ld", str(there)]))
        return
    free = shutil.disk_usage(there).free
    system = os.statvfs(there)
    if system.f_files and system.f_favail < INODES:
        text = f"only {system.f_favail:,} more files can be made at {directory}"
        yield Finding("state", "wrong", text, join(["df", "-i", str(there)]))
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


_COUNTED = "directories"
"""The check of a finding that is not shown: how many directories a source has."""


def source(config: Config, *, name: str, directory: str) -> Iterator[Finding]:
    check, shown = f"source {name}", display(directory)
    try:
        with os.scandir(directory) as entries:
            empty = next(entries, None) is None
    except OSError as error:
        yield Finding(check, "wrong", f"{shown}: {error.strerror}", join(["ls", "-ld", directory]))
        return
    if empty:
        yield Finding(check, "warning", f"{shown} is empty (not mounted?)", join(["findmnt", "-T", directory]))
    else:
        yield Finding(check, "ok", shown)
    refused: list[OSError] = []
    directories = 0
    until = time.monotonic() + PATIENCE
    for _ in os.walk(directory, onerror=refused.append):
        directories += 1
        if directories >= DIRECTORIES or time.monotonic() > until:
            break
    yield Finding(_COUNTED, "ok", str(directories))
    if refused:
        first = refused[0]
        more = f", and {len(refused) - 1:,} more directories" if len(refused) > 1 else ""
        text = f"{display(first.filename)}: {first.strerror}{more}: what is in there is not indexed"
        yield Finding(check, "warning", text, join(["ls", "-ld", str(first.filename)]))


def inotify(config: Config, needed: int) -> Iterator[Finding]:
    """As many watches are needed as there are directories; each source takes an instance."""
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
        yield Finding("gpu", "warning", f"{seen} seen, but [encode] devices is {config.encode.devices}",
                      "ingestd check-config")  # fmt: skip
    else:
        yield Finding("gpu", "ok", f"{visible} of {seen} used")


def index(config: Config) -> Iterator[Finding]:
    path = config.state_directory / "journal.sqlite"
    if not os.access(config.state_directory, os.X_OK) and config.state_directory.is_dir():
        return  # `state` has told it
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


def sink(config: Config) -> Iterator[Finding]:
    """Whether the servers that the sink's table names accept a connection."""
    for key, value in config.index.sinks.get(config.index.sink, {}).items():
        for url in value if isinstance(value, list | tuple) else [value]:
            if not isinstance(url, str) or not url.startswith(("http://", "https://")):
                continue
            parts = urllib.parse.urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            where = f"{parts.scheme}://{parts.hostname}:{port}"
            try:
                socket.create_connection((parts.hostname or "", port), timeout=CONNECT).close()
            except OSError as error:
                text = f"[index.{config.index.sink}] {key}: {where} cannot be reached: {error.strerror or error}"
                yield Finding("sink", "wrong", text, join(["curl", "-sS", where]))
            else:
                yield Finding("sink", "ok", f"{config.index.sink} at {where} accepts connections")


def daemon(config: Config) -> Iterator[Finding]:
    status: dict[str, Any] = commands.status(config)
    if not status["running"]:
        yield Finding("daemon", "warning", "not running", starting(config.state_directory))
    elif not status["ready"]:
        waiting = "; ".join(status["waiting_for"]) or "its sources"
        yield Finding("daemon", "warning", f"running with pid {status['pid']}, waits for {waiting}", "ingestd status")
    else:
        devices = ", ".join(encoder["device"] for encoder in status["encoders"])
        yield Finding("daemon", "ok", f"running with pid {status['pid']}; encodes on {devices}")
    for warning in status["warnings"]:
        command = "ingestd plugins" if warning.startswith("plugin ") else "ingestd status"
        yield Finding("daemon", "warning", warning, command)
