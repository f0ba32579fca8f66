from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestd import log
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
    LOGGER.debug("fine")
    LOGGER.info("%s: took 12 s", "a\x1b[2J\nb.pdf", extra={"path": b"/a\xff", "seconds": 12.5})
    try:
        raise ValueError("x")
    except ValueError:
        LOGGER.exception("broken")
    return written


def test_text_has_time_level_and_stage_and_no_foreign_escapes() -> None:
    first, second = lines(LogTable())
    assert first[20:] == "info    load: a\\x1b[2J\\nb.pdf: took 12 s"
    assert second[20:].startswith("error   load: broken\nTraceback")


def test_systemd_gets_priorities_on_every_line() -> None:
    first, second = lines(LogTable(), {"JOURNAL_STREAM": "1:2"})
    assert first == "<6>load: a\\x1b[2J\\nb.pdf: took 12 s"
    assert all(line.startswith("<3>") for line in second.splitlines())


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
