"""Another model with the same tokeniser: what the index in use has is encoded anew, and no file is loaded for it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingestd.types import Fingerprint, Remove, document_id
from ingestd_plugins.sqlite import SqliteSink
from tests.processes.daemons import (
    RunningDaemon,
    contents,
    environment,
    ingestd,
    left_over,
    running,
    write_config,
)

FILES = 40
TAKEN = "from the text that the index had"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(FILES):
        write(docs / f"{number}.txt", number)
    (docs / "copy.txt").write_bytes((docs / "3.txt").read_bytes())
    (docs / "empty.txt").write_text("")
    (docs / "broken.docx").write_bytes(b"PK\x03\x04nothing")
    with zipfile.ZipFile(docs / "archive.zip", "w") as archive:
        for number in range(3):
            archive.writestr(f"in/{number}.txt", f"packed marker{number} " * 30)
    return docs


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def config(state: Path, folder: Path) -> Path:
    return write_config(state, folder)


def write(path: Path, number: int, what: str = "first") -> None:
    path.write_text("\n\n".join(f"{what} marker{number} paragraph {n} {'and so on ' * 40}" for n in range(6)) + "\n")


def with_another_model(config: Path) -> None:
    config.write_text(config.read_text().replace('model = "hashing"', 'model = "hashing-96"'))


def vectors(state: Path, dims: int) -> dict[str, tuple[Any, bytes]]:
    """All that the index has, by document."""
    sink = SqliteSink()
    fingerprint = _fingerprint(state)
    assert fingerprint.dims == dims
    sink.open(state / "index", fingerprint, {}, readonly=True)
    found = sink.read(sorted(document.doc_id for document in sink.documents()))
    sink.close()
    return {each.document.doc_id: ((each.document, each.chunks), each.vectors) for each in found}


def _fingerprint(state: Path) -> Fingerprint:
    import sqlite3

    journal = sqlite3.connect(state / "journal.sqlite")
    (cached,) = journal.execute("SELECT value FROM meta WHERE key = 'fingerprint'").fetchone()
    journal.close()
    return msgspec.convert(json.loads(cached)[1], Fingerprint)


def undisturbed(tmp_path: Path, folder: Path) -> Path:
    """The state directory of an index of the folder that was made with the other model."""
    config = write_config(tmp_path / "fresh", folder)
    with_another_model(config)
    with running(config, tmp_path / "fresh") as daemon:
        daemon.wait()
    return tmp_path / "fresh"


def history(daemon: RunningDaemon, path: Path) -> list[str]:
    return [each["event"] for each in daemon.call("why", path=bytes(path))["history"]]


def reindex(config: Path) -> None:
    done = ingestd(config, "reindex", "--json", timeout=240)
    assert done.returncode in (0, 1), done.stderr  # 1: a file is damaged
    assert json.loads(done.stdout)["model"] == "hashing-96"


def test_the_texts_are_taken_from_the_index_and_what_changed_from_the_files(
    tmp_path: Path, config: Path, state: Path, folder: Path
) -> None:
    with running(config, state) as daemon:
        daemon.wait()
    lost = document_id("docs", b"5.txt")
    sink = SqliteSink()
    sink.open(state / "index", _fingerprint(state), {}, readonly=False)
    sink.write([Remove(lost)])
    sink.close()
    with running(config, state) as daemon:
        daemon.wait()
        with_another_model(config)
        command = subprocess.Popen(
            [sys.executable, "-m", "ingestd", "--config", str(config), "reindex"],
            stdout=subprocess.DEVNULL, env=environment(),
        )  # fmt: skip
        turn = 0
        while command.poll() is None:
            turn += 1
            write(folder / f"{turn % 3}.txt", turn % 3, f"turn {turn}")
            write(folder / "new.txt", 1000 + turn)
            time.sleep(0.1)
        assert command.returncode in (0, 1), daemon.tail()
        status = daemon.wait()
        assert status["files"]["indexed"] == FILES + 7
        assert status["files"]["quarantined"] + status["files"]["failed"] == 1
        for name in ("7.txt", "copy.txt", "empty.txt", "archive.zip", f"{FILES - 1}.txt"):
            assert [TAKEN in event for event in history(daemon, folder / name)] == [True], name
        assert not any(TAKEN in event for event in history(daemon, folder / "5.txt"))
        (hit, *_) = daemon.call("search", text="marker7", top=1, source=None, path=None)["hits"]
        assert hit["path"] == str(folder / "7.txt")
        assert daemon.call("verify", deep=True, repair=False)["findings"] == []
        write(folder / "9.txt", 9, "later")
        daemon.wait()
        assert daemon.call("verify", deep=True, repair=False)["findings"] == []
    fresh = undisturbed(tmp_path, folder)
    assert contents(state) == contents(fresh)
    assert vectors(state, 96) == vectors(fresh, 96)
    assert left_over(state) == []


def test_whatever_is_killed_it_is_the_same_in_the_end(tmp_path: Path, config: Path, state: Path, folder: Path) -> None:
    dice = random.Random(5)
    with running(config, state) as daemon:
        daemon.wait()
        with_another_model(config)
        for _ in range(4):
            command = subprocess.Popen(
                [sys.executable, "-m", "ingestd", "--config", str(config), "reindex"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment(),
            )  # fmt: skip
            time.sleep(0.5 + 2 * dice.random())
            daemon.kill()
            command.wait(60)
            write(folder / "8.txt", 8, f"while it was dead {dice.random()}")
            daemon.start()
            daemon.status()  # it answers
        reindex(config)
        daemon.wait()
        assert daemon.call("verify", deep=True, repair=False)["findings"] == []
    fresh = undisturbed(tmp_path, folder)
    assert contents(state) == contents(fresh)
    assert vectors(state, 96) == vectors(fresh, 96)


def test_without_a_daemon_the_texts_are_taken_from_the_index_too(
    tmp_path: Path, config: Path, state: Path, folder: Path
) -> None:
    with running(config, state) as daemon:
        daemon.wait()
    write(folder / "5.txt", 5, "later")
    with_another_model(config)
    reindex(config)
    with running(config, state) as daemon:
        daemon.wait()
        for name in ("7.txt", "copy.txt", "archive.zip"):
            assert [TAKEN in event for event in history(daemon, folder / name)] == [True], name
        assert not any(event.startswith("encoded") for event in history(daemon, folder / "5.txt")[1:])
        (hit, *_) = daemon.call("search", text="later marker5", top=1, source=None, path=None)["hits"]
        assert hit["path"] == str(folder / "5.txt")
    fresh = undisturbed(tmp_path, folder)
    assert contents(state) == contents(fresh)
    assert vectors(state, 96) == vectors(fresh, 96)


def test_with_another_category_or_the_same_model_files_are_loaded(config: Path, state: Path, folder: Path) -> None:
    with running(config, state) as daemon:
        daemon.wait()
        assert ingestd(config, "reindex", "--json", timeout=240).returncode in (0, 1)
        assert not any(TAKEN in event for event in history(daemon, folder / "7.txt"))
        with_another_model(config)
        config.write_text(config.read_text().replace('name = "docs"', 'name = "docs"\ncategory_id = "new"'))
        reindex(config)
        daemon.wait()
        assert not any(TAKEN in event for event in history(daemon, folder / "7.txt"))
        (hit, *_) = daemon.call("search", text="marker7", top=1, source=None, path=None)["hits"]
        assert hit["metadata"]["category_id"] == "new"
