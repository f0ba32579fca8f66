"""Where log lines go and what they look like: `[log]` of the configuration. Each goes to one place, once."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from ingestd import journald
from ingestd.cli.printable import clean_line, printable
from ingestd.config import LogTable
from ingestd.errors import ConfigError

ROOT: Final = "ingestd"
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def configure(
    table: LogTable,
    environ: Mapping[str, str],
    *,
    verbose: int = 0,
    write: Callable[[str], None] | None = None,
) -> None:
    """Send the log lines of ingestd, and only these, to `[log] file`, else to `write`, else to standard error.

    Where standard error leads to systemd's journal, and `[log] format` does not say otherwise, they go there with
    fields, see `journald`. `write` is for a terminal with a live view, above which the lines go. `verbose`: everything,
    whatever the level. Done again it replaces what it did before. Raises `ConfigError` where the file cannot be opened.
    """
    handler: logging.Handler
    formatter: logging.Formatter = _Json() if table.format == "json" else _Text(systemd=False)
    missing = None
    if table.file:
        try:
            handler = logging.handlers.RotatingFileHandler(
                table.file, maxBytes=table.max_size, backupCount=table.keep if table.max_size else 0,
                encoding="utf-8", errors="backslashreplace",
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(f"[log] file: cannot open {table.file}: {error.strerror}") from None
    elif write is not None:
        handler = _Writer(write)
    elif table.format == "auto" and journald.listens(environ):
        try:
            handler = journald.JournalHandler()
        except (ImportError, OSError) as error:
            handler, formatter, missing = logging.StreamHandler(sys.stderr), _Text(systemd=True), error
    else:
        handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logger = logging.getLogger(ROOT)
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else table.level.upper())
    logger.propagate = False
    if missing is not None:
        logger.warning("log lines have no fields in the journal: %s; see `ingestd[systemd]`", missing)


def quiet(verbose: int, *, write: Callable[[str], None] | None = None) -> None:
    """For commands that work for a moment without a daemon: warnings alone, and never into the daemon's file."""
    configure(LogTable(level="warning", format="text"), {}, verbose=verbose, write=write)


class _Writer(logging.Handler):
    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record))
        except Exception:
            self.handleError(record)


class _Text(logging.Formatter):
    """`2026-01-31 12:00:00 warning load: a.pdf: deadline`; for systemd a priority in place of time and level."""

    def __init__(self, systemd: bool) -> None:
        super().__init__()
        self._systemd = systemd

    def format(self, record: logging.LogRecord) -> str:
        name = record.name.removeprefix(f"{ROOT}.")
        text = f"{name}: {clean_line(record.getMessage())}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if self._systemd:
            priority = f"<{journald.PRIORITIES.get(record.levelno, 6)}>"
            return "\n".join(priority + line for line in text.splitlines())
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        return f"{when} {record.levelname.lower():<7} {text}"


class _Json(logging.Formatter):
    """One object a line: time, level, logger, message, and the fields that the caller added."""

    def format(self, record: logging.LogRecord) -> str:
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, Any] = {
            "time": f"{when}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {key: value for key, value in vars(record).items() if key not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(printable(line), ensure_ascii=False, default=str)
