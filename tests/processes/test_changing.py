"""Files that change while they are read, and files that never come to rest."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.daemons import RunningDaemon, ingestd, running, write_config

CHANGED = "it changed while it was read"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    (tmp_path / "docs").mkdir()
    config = write_config(tmp_path / "state", tmp_path / "docs")
    config.write_text(config.read_text() + 'max_settle = "1s"\n')
    with running(config, tmp_path / "state", hostile=True) as daemon:
        yield daemon


@contextlib.contextmanager
def changing(path: Path, behaviour: str) -> Iterator[None]:
    """The file gets a line every 50 ms. Its words are of one kind, so any version of it is known when it is found."""
    end = threading.Event()

    def write() -> None:
        with path.open("w") as file:
            file.write(f"{behaviour}\nquokka\n")
            while not end.wait(0.05):
                file.write("quokka\n")
                file.flush()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def until(daemon: RunningDaemon, path: Path, state: str) -> dict[str, object]:
    """What `why` says once the file is in that state."""
    for _ in range(600):
        with contextlib.suppress(Exception):
            if (found := daemon.call("why", path=str(path).encode()))["state"] == state:
                return found
        threading.Event().wait(0.2)
    raise AssertionError(daemon.tail())


def found(daemon: RunningDaemon, word: str) -> bool:
    return word in ingestd(daemon.config, "search", "--json", word).stdout


def test_a_file_that_changes_during_every_attempt_is_taken_in_the_end(daemon: RunningDaemon, tmp_path: Path) -> None:
    path = tmp_path / "docs/log.hostile"
    with changing(path, "while_it_changes"):
        why = until(daemon, path, "indexed")
        assert why["warnings"] == [CHANGED]
        history = [line["event"] for line in why["history"]]  # type: ignore[attr-defined]
        assert any(event.startswith("taken although it kept changing for ") for event in history), history
        assert history.count(CHANGED) >= 2, history
        assert found(daemon, "quokka")
        path.unlink()
    path.write_text("good\nwombat\n")
    daemon.wait()
    why = until(daemon, path, "indexed")
    assert why["warnings"] == []
    assert found(daemon, "wombat")
    assert not found(daemon, "quokka")


def test_an_error_of_a_file_that_changed_meanwhile_is_no_strike(daemon: RunningDaemon, tmp_path: Path) -> None:
    path = tmp_path / "docs/log.hostile"
    with changing(path, "fail_while_it_changes"):
        why = until(daemon, path, "failed")
        history = [line["event"] for line in why["history"]]  # type: ignore[attr-defined]
        events = [event for event in history if event == CHANGED or event.startswith("strike")]
        assert events[:3] == [CHANGED, CHANGED, "strike 1 of 3: ValueError: it makes no sense"], history
        path.unlink()
    path.write_text("good\nwombat\n")
    daemon.wait()
    assert until(daemon, path, "indexed")["warnings"] == []
    assert found(daemon, "wombat")


@pytest.mark.parametrize("by", ["nothing", "another"])
def test_a_file_that_is_moved_while_it_is_read_is_not_damaged(daemon: RunningDaemon, tmp_path: Path, by: str) -> None:
    """Its directory gets another name, which does not touch the file: its content is blamed for nothing."""
    folder = tmp_path / "docs/before"
    folder.mkdir()
    path = folder / "a.hostile"
    path.write_text("damaged_once_moved\nquokka\n")
    until(daemon, path, "running")
    (tmp_path / "docs/after").mkdir()
    folder.rename(tmp_path / "docs/after/moved")
    (tmp_path / "docs/after/moved/here").write_text("")
    if by == "another":
        folder.mkdir()
        path.write_text("good\nwombat\n")
    assert until(daemon, tmp_path / "docs/after/moved/a.hostile", "indexed")["reason"] is None
    if by == "another":
        assert until(daemon, path, "indexed")["reason"] is None
        assert found(daemon, "wombat")
    assert "quarantined" not in daemon.tail()
