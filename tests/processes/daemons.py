"""Real daemons for the tests of processes: started as a person would, killed as nobody would like."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ingestd.control import Control
from ingestd.errors import IngestdError
from ingestd.process import stat
from ingestd.types import Fingerprint

HOSTILE = Path(__file__).parent / "hostile"


def write_config(state: Path, source: Path | None, **tables: dict[str, Any]) -> Path:
    """A configuration with the tiny engine and short waits; `tables` add keys."""
    chosen: dict[str, dict[str, Any]] = {
        "state": {"directory": str(state)},
        "encode": {"engine": "hashing", "model": "hashing"},
    }
    for name, keys in tables.items():
        chosen.setdefault(name, {}).update(keys)
    lines = []
    for name, keys in chosen.items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {_toml(value)}" for key, value in keys.items()]
    if source is not None:
        lines += ["[[watch]]", 'name = "docs"', f"directory = {json.dumps(str(source))}", 'settle = "200ms"',
                  'rescan = "2s"']  # fmt: skip
    path = state.parent / f"{state.name}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def add_source(config: Path, name: str, directory: Path, **keys: Any) -> None:
    """One more watched directory, with short waits unless `keys` say otherwise."""
    chosen = {"name": name, "directory": str(directory), "settle": "200ms", "rescan": "2s", **keys}
    with config.open("a") as file:
        file.write("[[watch]]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in chosen.items()))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + "}"
    return json.dumps(value)


def environment(*, hostile: bool = False) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith("INGESTD_")}
    if hostile:
        found["PYTHONPATH"] = os.pathsep.join([str(HOSTILE), *filter(None, [found.get("PYTHONPATH")])])
    return found


def ingestd(
    config: Path, *arguments: str, hostile: bool = False, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    command = [sys.executable, "-m", "ingestd", "--config", str(config), *arguments]
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment(hostile=hostile), check=False
        )
    except subprocess.TimeoutExpired as expired:
        said = (expired.stderr or b"").decode(errors="replace")
        raise AssertionError(f"{expired}: {said[-4000:]}\n{unfinished(config)}") from None


def unfinished(config: Path) -> list[tuple[Any, ...]]:
    """Rows of all journals beside a configuration that are still to be worked on, for who has waited in vain."""
    found: list[tuple[Any, ...]] = []
    for path in config.parent.rglob("journal.sqlite"):
        with contextlib.closing(sqlite3.connect(path)) as db:
            found += [(str(path), *row) for row in db.execute(
                "SELECT source, path, state, attempts, interruptions, retry_at, fresh, pool, sealed, loading, reason"
                " FROM documents WHERE state IN ('queued', 'running') LIMIT 5"
            )]  # fmt: skip
    return found


def ingest(config: Path, path: Path, *, hostile: bool = False, timeout: float = 240) -> dict[str, Any]:
    """The summary of `ingest --json`."""
    done = ingestd(config, "ingest", "--json", str(path), hostile=hostile, timeout=timeout)
    assert done.returncode in (0, 1), done.stderr
    summary: dict[str, Any] = json.loads(done.stdout)
    return summary


class RunningDaemon:
    """`ingestd run` in a process of its own, that can be killed and started again."""

    def __init__(self, config: Path, state: Path, *, hostile: bool = False) -> None:
        self.config = config
        self.state = state
        self.hostile = hostile
        self.starts = 0
        self.log = state.parent / f"{state.name}.log"
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ingestd", "--config", str(self.config), "run"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(hostile=self.hostile),
            )
        self.starts += 1

    def call(self, command: str, timeout: float = 30, **arguments: Any) -> dict[str, Any]:
        """Ask the daemon, as soon as it answers."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                with Control(self.state / "control.sock", timeout=10) as control:
                    return control.call(command, **arguments)
            except IngestdError as error:
                if self.process.poll() is not None:
                    raise AssertionError(f"the daemon ended: {self.tail()}") from error
                if time.monotonic() > deadline:
                    raise AssertionError(f"{error}: {self.tail()}") from error
                time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        return self.call("status")

    def wait(self, timeout: float = 120) -> dict[str, Any]:
        """Until nothing is settling, queued or running."""
        deadline = time.monotonic() + timeout
        quiet = 0
        while True:
            status = self.status()
            files = status["files"]
            busy = files["settling"] + files["queued"] + files["running"]
            quiet = quiet + 1 if not busy and status["ready"] else 0
            if quiet >= 3:  # what an event has just brought may not be counted yet
                return status
            if time.monotonic() > deadline:
                raise AssertionError(f"still busy: {status}\n{self.tail()}")
            time.sleep(0.2)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self, timeout: float = 60) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(timeout)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-4000:] if self.log.exists() else ""


@contextlib.contextmanager
def running(config: Path, state: Path, *, hostile: bool = False) -> Iterator[RunningDaemon]:
    daemon = RunningDaemon(config, state, hostile=hostile)
    daemon.start()
    try:
        yield daemon
    finally:
        if daemon.process.poll() is None:
            daemon.stop()


def contents(state: Path) -> tuple[dict[str, tuple[str, str, int]], list[str]]:
    """What the embedded index holds: path to (id, digest, chunks), and the ids of all chunks, sorted."""
    from ingestd_plugins.sqlite import SqliteSink

    journal = sqlite3.connect(state / "journal.sqlite")
    (cached,) = journal.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
    journal.close()
    sink = SqliteSink()
    sink.open(state / "index", msgspec.convert(json.loads(cached)[1], Fingerprint), {}, readonly=True)
    documents = {os.fsdecode(d.path): (d.doc_id, d.digest.hex(), d.chunks) for d in sink.documents()}
    chunks = sorted(sink.chunk_ids())
    sink.close()
    return documents, chunks


def left_over(state: Path) -> list[int]:
    """Processes that carry a token of a daemon on this state directory and still live."""
    import hashlib

    prefix = hashlib.blake2b(os.fsencode(state.resolve()), digest_size=6).hexdigest().encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            known = stat(int(entry.name))
            if b"INGESTD_WORKER=" + prefix in environ and known is not None and not known.dead:
                found.append(int(entry.name))
    return found
