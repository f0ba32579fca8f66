from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestd import journald, log
from ingestd.config import LogTable
from ingestd.errors import ConfigError

LOGGER = logging.getLogger("ingestd.load")


@pytest.fixture(autouse=True)
def restore() -> Iterator[None]:
    root = logging.getLogger("ingestd")
    before = (root.level, root.propagate, root.handlers[:])
    yield
    for handler in root.handlers:
        handler.close()
    root.level, root.propagate, root.handlers[:] = before
    logging.getLogger("ingestd")._cache.clear()  # type: ignore[attr-defined]
    LOGGER._cache.clear()  # type: ignore[attr-defined]


def lines(table: LogTable, environ: dict[str, str] | None = None, verbose: int = 0) -> list[str]:
    written: list[str] = []
    log.configure(table, environ or {}, verbose=verbose, write=written.append)
    say()
    return written


def say() -> None:
    LOGGER.debug("fine")
    LOGGER.info("%s: took 12 s", "a\x1b[2J\nb.pdf", extra={"path": b"/a\xff", "seconds": 12.5})
    try:
        raise ValueError("x")
    except ValueError:
        LOGGER.exception("broken")


def test_text_has_time_level_and_stage_and_no_foreign_escapes() -> None:
    first, second = lines(LogTable())
    assert first[20:] == "info    load: a\\x1b[2J\\nb.pdf: took 12 s"
    assert second[20:].startswith("error   load: broken\nTraceback")


def test_standard_error_that_leads_to_a_journal_gets_priorities_where_native_entries_cannot_be_had(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journald, "SOCKET", "/nowhere/socket")
    monkeypatch.setattr(journald.JournalHandler.__init__, "__defaults__", ("/nowhere/socket",))
    found = os.fstat(2)
    ours = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
    log.configure(LogTable(), ours)
    say()
    told = capfd.readouterr().err.splitlines()
    assert told[0].startswith("<4>ingestd: log lines have no fields in the journal")
    assert told[1] == "<6>load: a\\x1b[2J\\nb.pdf: took 12 s"
    assert all(line.startswith("<3>") for line in told[2:])
    # Inherited by a shell whose standard error is something else: nothing but text.
    log.configure(LogTable(), {"JOURNAL_STREAM": "1:2"})
    say()
    assert "info    load: a" in capfd.readouterr().err


def test_an_entry_of_the_journal_has_fields_in_upper_case_and_exact_paths() -> None:
    record = LOGGER.makeRecord(
        LOGGER.name, logging.WARNING, "/x.py", 7, "%s: quarantined", ("a\nb",), None, "f",
        {"path": b"/a\xff", "stage": "load", "worker_pid": 12, "reason": None},
    )  # fmt: skip
    entry = dict(field.split(b"=", 1) for field in journald.fields(record))
    assert entry[b"MESSAGE"] == b"load: a\\nb: quarantined"
    assert entry[b"INGESTD_PATH"] == b"/a\xff"
    assert (entry[b"PRIORITY"], entry[b"INGESTD_STAGE"], entry[b"INGESTD_WORKER_PID"]) == (b"4", b"load", b"12")
    assert b"INGESTD_REASON" not in entry
    assert all(name == name.upper() for name in entry)


def test_json_is_one_object_a_line_with_the_fields() -> None:
    first, second = lines(LogTable(format="json"), {"JOURNAL_STREAM": "1:2"})
    record = json.loads(first)
    assert record["message"] == "a\x1b[2J\nb.pdf: took 12 s"
    assert (record["level"], record["logger"], record["seconds"]) == ("info", "ingestd.load", 12.5)
    assert (record["path"], record["path_b64"]) == ("/a\ufffd", "L2H/")
    assert "ValueError: x" in json.loads(second)["exception"]
    assert "\n" not in first + second


def test_levels() -> None:
    assert len(lines(LogTable(level="error"))) == 1
    assert len(lines(LogTable(level="error"), verbose=1)) == 3


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "x.log"
    assert lines(LogTable(file=str(file))) == []
    assert "load: broken" in file.read_text()
    log.configure(LogTable(file=str(file), max_size=2000, keep=2), {})
    for _ in range(30):
        say()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.log", "x.log.1", "x.log.2"]
    assert all(path.stat().st_size <= 2000 for path in tmp_path.iterdir())
    with pytest.raises(ConfigError, match="cannot open"):
        log.configure(LogTable(file=str(tmp_path / "no" / "x.log")), {})


def test_standard_error_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    log.quiet(0)
    LOGGER.info("no")
    LOGGER.warning("yes")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("warning load: yes\n")
    assert err.count("\n") == 1
