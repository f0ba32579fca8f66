"""Log lines as entries of systemd's journal, with fields: `journalctl INGESTD_PATH=/srv/a.pdf` finds its own."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from ingestd.cli.printable import clean_line

SOCKET: Final = "/run/systemd/journal/socket"
PRIORITIES: Final = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
FIELDS: Final = {"path": "INGESTD_PATH", "stage": "INGESTD_STAGE", "worker_pid": "INGESTD_WORKER_PID",
                 "reason": "INGESTD_REASON", "source": "INGESTD_SOURCE", "state": "INGESTD_STATE"}  # fmt: skip
"""What callers add to a line, and what it is called in the journal, which takes upper case alone."""


def listens(environ: Mapping[str, str], descriptor: int = 2) -> bool:
    """Whether standard error goes to the journal: the variable alone is inherited by everything a service starts."""
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


class JournalHandler(logging.Handler):
    """Native entries. Raises `ImportError` without systemd-python, `OSError` without a journal."""

    def __init__(self, socket: str = SOCKET) -> None:
        from systemd import journal

        super().__init__()
        os.stat(socket)
        self._socket = socket
        self._send = journal.sendv

    def emit(self, record: logging.LogRecord) -> None:
        try:
            entry = fields(record)
            try:
                os.stat(self._socket)  # without a listener the library says nothing and sends nothing
                self._send(*entry)
            except OSError:
                priority = entry[1].partition(b"=")[2].decode()
                text = clean_line(entry[0].partition(b"=")[2].decode("utf-8", "replace"))
                print(f"<{priority}>{text}", file=sys.stderr, flush=True)  # noqa: T201
        except Exception:
            self.handleError(record)


def fields(record: logging.LogRecord) -> list[bytes]:
    """`MESSAGE=`, `PRIORITY=` and the rest. A path is exact, whatever its bytes."""
    name = record.name.removeprefix("ingestd.")
    message = f"{name}: {clean_line(record.getMessage())}"
    if record.exc_info:
        message += "\n" + logging.Formatter().formatException(record.exc_info)
    values: dict[str, Any] = {
        "MESSAGE": message,
        "PRIORITY": PRIORITIES.get(record.levelno, 6),
        "SYSLOG_IDENTIFIER": "ingestd",
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": record.lineno,
        "CODE_FUNC": record.funcName,
    }
    for key, field in FIELDS.items():
        if (value := getattr(record, key, None)) not in (None, "", b""):
            values[field] = value
    return [name.encode() + b"=" + _bytes(value) for name, value in values.items()]


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    return str(value).encode("utf-8", "surrogateescape")
