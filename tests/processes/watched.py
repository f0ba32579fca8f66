"""Daemons whose several folders lie on mounts of their own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.processes.daemons import RunningDaemon, contents, environment, write_config

PATIENCE = 90.0


def write_sources(
    state: Path, sources: Mapping[str, Path], *, settings: Mapping[str, Mapping[str, Any]] | None = None, **tables: Any
) -> Path:
    """A configuration with several folders that settle and are scanned quickly, and few workers.

    `settings` add keys by source.
    """
    few = {"load": {"workers": 1}, "encode": {"devices": ["cpu"]}}
    config = write_config(state, None, **{name: few.get(name, {}) | tables.get(name, {}) for name in {*few, *tables}})
    lines = []
    for name, directory in sources.items():
        keys = {"name": name, "directory": str(directory), "settle": "200ms", "rescan": "1s"}
        keys |= (settings or {}).get(name, {})
        lines += ["[[watch]]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items())]
    with config.open("a") as file:
        file.write("\n".join(lines) + "\n")
    return config


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


def files(*folders: Path) -> dict[str, str]:
    """What lies in the folders now: path to digest."""
    return {
        os.path.join(place, name): digest(Path(place, name))
        for folder in folders
        for place, _, names in os.walk(folder)
        for name in names
        if name != ".ingestd-self-test"  # which is there for a moment
    }


def held(state: Path) -> dict[str, str]:
    """What the index holds: path to digest."""
    return {path: found for path, (_, found, _) in contents(state)[0].items()}


class Watched:
    """A running daemon, and waits for what it is to come to."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.daemon = daemon

    def until(self, condition: Callable[[], object], what: str, timeout: float = PATIENCE) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < deadline, f"{what}: {self.daemon.status()}\n{self.daemon.tail()}"
            time.sleep(0.1)

    def holds(self, expected: Mapping[str, str]) -> None:
        """Wait until the index holds just this, and nothing is on its way that could change it."""
        self.until(lambda: held(self.daemon.state) == expected, "the index is not as the folders")
        self.daemon.wait()
        assert held(self.daemon.state) == expected

    def equals(self, *folders: Path) -> None:
        """Wait until the index is equal to the folders."""
        self.holds(files(*folders))

    @property
    def modes(self) -> dict[str, str]:
        """How each source is watched."""
        return {source["name"]: source["mode"] for source in self.daemon.status()["sources"]}

    @property
    def warnings(self) -> str:
        return "\n".join(self.daemon.status()["warnings"])

    def warns(self, *parts: str) -> None:
        """Wait until one warning has all these parts."""
        self.until(
            lambda: any(all(part in text for part in parts) for text in self.daemon.status()["warnings"]),
            f"no warning of {parts}",
        )

    def calms(self) -> None:
        """Wait until there is nothing to warn of."""
        self.until(lambda: not self.daemon.status()["warnings"], "it still warns")

    def ingests(self, path: Path, text: str) -> None:
        """A file that is written now becomes searchable."""
        write(path, text)
        wanted = digest(path)
        self.until(lambda: held(self.daemon.state).get(str(path)) == wanted, f"{path} is not indexed")


class Apart(RunningDaemon):
    """A daemon that is root of a user namespace of its own: limits that are set there are nobody else's, and it may not
    read what belongs to others. `before`: a command that runs there first."""

    def __init__(self, config: Path, state: Path, before: str = "true") -> None:
        super().__init__(config, state)
        self.before = before

    def start(self) -> None:
        own = [sys.executable, "-m", "ingestd", "--config", str(self.config), "run"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_APART, f'{self.before}; exec "$@"', "sh", *own],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
            )

    def inside(self, command: str) -> None:
        """Run a command in the daemon's namespace."""
        enter = ["nsenter", "--user", "--preserve-credentials", "--target", str(self.process.pid)]
        subprocess.run([*enter, "sh", "-c", command], check=True)


_APART = ["unshare", "--user", "--map-root-user", "sh", "-c"]
_probe = [*_APART, "echo 9 > /proc/sys/user/max_inotify_watches"]
apart_only = pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run(_probe, capture_output=True, check=False).returncode != 0,
    reason="cannot be had: a user namespace",
)


@contextlib.contextmanager
def watching(config: Path, state: Path, daemon: RunningDaemon | None = None) -> Iterator[Watched]:
    """A daemon that runs, and is killed in the end if it still does: after a failure nobody has patience with it."""
    daemon = daemon or RunningDaemon(config, state)
    daemon.start()
    try:
        watched = Watched(daemon)
        watched.until(lambda: daemon.status()["sink"]["healthy"], "the index is not open")
        yield watched
    finally:
        if daemon.process.poll() is None:
            daemon.kill()
