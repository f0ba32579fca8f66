"""The quick start's own job: a daemon on a folder of sample documents, and a question that it answers."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import console
from environment import DIRECTORY, ROOT

QUESTION = "How long do I have to return a broken kettle?"
HOME = ROOT / ".quickstart"
CONFIG = HOME / "config.toml"
DOCUMENTS = HOME / "documents"
LOG = HOME / "daemon.log"
INGESTD = DIRECTORY / "bin" / "ingestd"
PATIENCE = 300
"""Seconds that the daemon is given to index the samples: a slow disk reads PyTorch for a minute the first time."""


def run(question: str) -> int:
    """Index the samples, ask, and say what to do next. Returns the exit code of the search."""
    prepare()
    with daemon() as process:
        wait(process)
        console.say(f"\nquestion: {question}\n")
        code = subprocess.run(ingestd("search", question, "--top", "3"), stdin=subprocess.DEVNULL).returncode
    if code:
        raise console.Failure(f"the search failed ({code}); the daemon's log is {LOG}")
    say_next()
    return 0


def ingestd(*arguments: str) -> list[str]:
    return [os.fspath(INGESTD), *arguments, "--config", os.fspath(CONFIG)]


def prepare() -> None:
    """Lay out `.quickstart`. A configuration and documents that are there already are left as they are."""
    DOCUMENTS.mkdir(parents=True, exist_ok=True)
    for sample in sorted((ROOT / "packaging" / "samples").iterdir()):
        if not (DOCUMENTS / sample.name).exists():
            shutil.copy2(sample, DOCUMENTS)
    if not CONFIG.exists():
        CONFIG.write_text(
            "# Written by packaging/quickstart.py and yours to edit; the project's config.toml explains every key.\n"
            '[state]\ndirectory = "state"\n\n[[watch]]\nname = "documents"\ndirectory = "documents"\nsettle = "500ms"\n'
        )


@contextlib.contextmanager
def daemon() -> Iterator[subprocess.Popen[bytes] | None]:
    """A daemon on `.quickstart`: one that runs there already is used and left running (None), else one of our own.

    Ours has a process group of its own: Ctrl-C then reaches it once and in order, through `stop`.
    """
    if status():
        console.say("a daemon is running on .quickstart already; using it")
        yield None
        return
    console.say("starting " + " ".join(map(short, ingestd("run"))))
    with open(LOG, "wb") as log:
        process = subprocess.Popen(
            ingestd("run"), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0
        )
    try:
        yield process
    finally:
        stop(process)


def wait(process: subprocess.Popen[bytes] | None) -> None:
    """Return once every sample is indexed; meanwhile show what the daemon logs."""
    expected = sum(path.is_file() for path in DOCUMENTS.iterdir())
    deadline = time.monotonic() + PATIENCE
    with (
        console.Pulse("waiting until the documents are indexed"),
        open(LOG if process else os.devnull, errors="replace") as log,
    ):
        while time.monotonic() < deadline:
            waiter = subprocess.Popen(
                ingestd("wait", "--timeout", "10"),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while waiter.poll() is None:
                follow(log)
                time.sleep(0.1)
            if process and process.poll() is not None:
                follow(log)
                raise console.Failure(f"the daemon stopped ({process.returncode}); its log is {LOG}")
            # right after the start the daemon may not answer yet, or may not have listed the folder
            if waiter.returncode == 0 and settled(status()) >= expected:
                follow(log)
                return
            time.sleep(0.2)
    raise console.Failure(f"the documents were not indexed within {PATIENCE} s; the daemon's log is {LOG}")


def follow(log: IO[str]) -> None:
    for line in log:
        console.say(f"\r  {line.rstrip()}")


def status() -> dict[str, Any]:
    """What the running daemon says; empty where none runs."""
    done = subprocess.run(ingestd("status", "--json"), capture_output=True, stdin=subprocess.DEVNULL)
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) and answer.get("running") else {}


def settled(answer: dict[str, Any]) -> int:
    """Files that the daemon is through with, well or badly."""
    files = answer.get("files", {})
    return sum(files.get(state, 0) for state in ("indexed", "partial", "failed", "quarantined", "skipped"))


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask, ask again (which means now), kill."""
    if process.poll() is not None:
        return
    with console.Pulse("stopping the daemon"):
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            try:
                process.wait(timeout=15)
                return
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                continue


def short(path: str) -> str:
    """`path` as one types it in the checkout."""
    return os.path.relpath(path, Path.cwd()) if path.startswith(str(ROOT)) else path


def say_next() -> None:
    config = short(os.fspath(CONFIG))
    command = short(os.fspath(INGESTD))
    console.say(f"""
That was a daemon, asked while it ran. To keep one running, and ask it from another terminal:
  {command} run --config {config}
  {command} search "Why did the shop stop taking orders?" --config {config}
Put files into {short(os.fspath(DOCUMENTS))}, or add a [[watch]] table with a folder of your own to {config}.""")
