"""Folder, journal and index compared: what was lost is found, and mended without encoding what is right."""

from __future__ import annotations

import json
import shutil
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.archives import zipped
from tests.processes.daemons import contents, ingest, ingestd, running, write_config

PARAGRAPHS = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(6):
        write(docs / f"{number}.txt", f"number {number}")
    return docs


@pytest.fixture
def config(tmp_path: Path, folder: Path) -> Path:
    config = write_config(tmp_path / "state", folder, chunk={"max_tokens": 32, "overlap": 0})
    ingest(config, folder)
    return config


def write(path: Path, what: str) -> None:
    path.write_text("\n\n".join(f"Paragraph {n} of {what}, {'and so on ' * 8}" for n in range(PARAGRAPHS)) + "\n")


def verify(config: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    """Exit code and answer."""
    done = ingestd(config, "verify", "--json", *flags)
    assert done.returncode in (0, 1), done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, told


def problems(told: dict[str, Any]) -> dict[str, int]:
    return {key: told[key] for key in ("missing", "extra", "stale") if told[key]}


def encoded(state: Path) -> dict[str, str]:
    """By file: the last line of its history."""
    db = sqlite3.connect(state / "journal.sqlite")
    found = db.execute(
        "SELECT CAST(path AS TEXT), (SELECT event FROM history WHERE document = documents.id ORDER BY id DESC LIMIT 1)"
        " FROM documents"
    ).fetchall()
    db.close()
    return dict(found)


def copy_of(state: Path, names: str, to: Path) -> Path:
    to.mkdir()
    for path in state.glob(names):
        shutil.copytree(path, to / path.name) if path.is_dir() else shutil.copy(path, to)
    return to


def put_back(state: Path, names: str, backup: Path) -> None:
    for path in state.glob(names):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(backup, state, dirs_exist_ok=True)


def test_nothing_is_wrong_with_what_was_not_disturbed(tmp_path: Path, config: Path) -> None:
    code, told = verify(config, "--deep")
    assert (code, problems(told), told["documents"], told["findings"]) == (0, {}, 6, [])
    assert told["chunks"] == len(contents(tmp_path / "state")[1])


def test_a_lost_journal_is_made_anew_from_the_index(tmp_path: Path, config: Path, folder: Path) -> None:
    state = tmp_path / "state"
    before = contents(state)
    for path in state.glob("journal.sqlite*"):
        path.unlink()
    code, told = verify(config)
    assert (code, problems(told)) == (1, {"extra": 6})
    (folder / "3.txt").unlink()
    code, told = verify(config, "--repair")
    assert (code, told["repaired"]) == (0, 6)
    ingest(config, folder)
    assert {event for path, event in encoded(state).items() if path != "3.txt"} == {
        f"indexed: {before[0][str(folder / '0.txt')][2]} chunks, 0 of them encoded"
    }
    with running(config, state) as daemon:
        daemon.wait()
        while str(folder / "3.txt") in contents(state)[0]:
            assert daemon.process.poll() is None
    del before[0][str(folder / "3.txt")]
    assert contents(state)[0] == before[0]
    assert verify(config, "--deep")[0] == 0


def test_a_lost_journal_is_mended_though_the_folder_was_scanned_first(
    tmp_path: Path, config: Path, folder: Path
) -> None:
    """A daemon that starts without its journal queues every file at once."""
    state = tmp_path / "state"
    before = contents(state)
    for path in state.glob("journal.sqlite*"):
        path.unlink()
    assert verify(config)[0] == 1  # there is a journal again, without documents
    db = sqlite3.connect(state / "journal.sqlite")
    with db:
        db.executemany(
            "INSERT INTO documents(source, path, state) VALUES ('docs', CAST(? AS BLOB), 'queued')",
            [(path.name,) for path in folder.iterdir()],
        )
    db.close()
    code, told = verify(config)
    assert (code, problems(told), told["pending"]) == (0, {}, 12)  # in journal and index, and in the folder
    assert verify(config, "--repair")[1]["repaired"] == 6
    ingest(config, folder)
    assert all(event.endswith(", 0 of them encoded") for event in encoded(state).values())
    assert contents(state) == before


@pytest.mark.slow
def test_a_lost_journal_of_archives_is_made_anew_too(tmp_path: Path, config: Path, folder: Path) -> None:
    """Their members are known by the index alone until they are read again."""
    state = tmp_path / "state"
    inner = zipped({"deep/report.md": "# Badgers\n\nBadgers live below the viaduct."})
    for name in ("kept.zip", "gone.zip"):
        (folder / name).write_bytes(zipped({"a.txt": f"The heron of {name}.", "inner.zip": inner}))
    ingest(config, folder)
    before = contents(state)
    for path in state.glob("journal.sqlite*"):
        path.unlink()
    (folder / "gone.zip").unlink()
    assert verify(config, "--repair")[0] == 0
    wanted = {path: document for path, document in before[0].items() if "gone.zip" not in path}
    assert len(wanted) == 6 + 4
    with running(config, state) as daemon:
        daemon.wait()
        while contents(state)[0] != wanted:
            assert daemon.process.poll() is None
    events = {event for event in encoded(state).values() if event.startswith("indexed: ")}
    assert not [event for event in events if not event.endswith(", 0 of them encoded")], events
    assert verify(config, "--deep")[0] == 0


def test_a_lost_index_is_made_anew_from_the_files(tmp_path: Path, config: Path, folder: Path) -> None:
    state = tmp_path / "state"
    before = contents(state)
    shutil.rmtree(state / "index")
    code, told = verify(config)
    assert (code, problems(told)) == (1, {"missing": 6})
    assert {finding["path"] for finding in told["findings"]} == {str(folder / f"{n}.txt") for n in range(6)}
    assert verify(config, "--repair")[1]["repaired"] == 6
    ingest(config, folder)
    assert contents(state) == before
    assert verify(config, "--deep")[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["journal.sqlite*", "index"])
def test_an_old_backup_is_brought_up_to_date(tmp_path: Path, config: Path, folder: Path, lost: str) -> None:
    state = tmp_path / "state"
    backup = copy_of(state, lost, tmp_path / "backup")
    write(folder / "new.txt", "a new one")
    (folder / "0.txt").write_text((folder / "0.txt").read_text().replace("Paragraph 3", "Changed paragraph"))
    (folder / "5.txt").unlink()
    ingest(config, folder)
    with running(config, state) as daemon:
        daemon.wait()
        while str(folder / "5.txt") in contents(state)[0]:
            assert daemon.process.poll() is None
    now = contents(state)
    put_back(state, lost, backup)
    assert verify(config)[0] == 1
    assert verify(config, "--repair")[0] == 0
    with running(config, state) as daemon:
        daemon.wait()
        while contents(state) != now:
            assert daemon.process.poll() is None
    events = encoded(state)
    if lost == "index":  # only what the backup lacks is encoded: a document, and a chunk of another
        assert events["0.txt"].endswith(", 1 of them encoded")
        assert not events["new.txt"].endswith(" 0 of them encoded")
    else:
        assert {events["0.txt"][-20:], events["new.txt"][-20:]} == {"s, 0 of them encoded"}
    assert verify(config, "--deep")[0] == 0


def _text(db: sqlite3.Connection) -> None:
    db.execute("UPDATE chunks SET text = text || 'x' WHERE id = (SELECT max(id) FROM chunks)")


def _vector(db: sqlite3.Connection) -> None:
    ((id, vector),) = db.execute("SELECT id, vector FROM vectors ORDER BY id DESC LIMIT 1").fetchall()
    db.execute("UPDATE vectors SET vector = ? WHERE id = ?", (vector[:-4] + struct.pack("f", 8.0), id))


def _chunk(db: sqlite3.Connection) -> None:
    db.execute("UPDATE chunks SET hash = zeroblob(16) WHERE id = (SELECT max(id) FROM chunks)")


@pytest.mark.slow
@pytest.mark.parametrize("damage", [_text, _vector, _chunk])
def test_a_damaged_chunk_is_found_by_a_deep_look_and_encoded_alone(
    tmp_path: Path, config: Path, folder: Path, damage: Callable[[sqlite3.Connection], None]
) -> None:
    state = tmp_path / "state"
    before = contents(state)
    db = sqlite3.connect(state / "index" / "index.sqlite", isolation_level=None)
    damage(db)
    db.close()
    assert verify(config)[0] == 0
    code, told = verify(config, "--deep", "--repair")
    assert (code, problems(told), told["repaired"]) == (0, {"stale": 1}, 1)
    ingest(config, folder)
    events = [event for event in encoded(state).values() if not event.endswith(" 0 of them encoded")]
    assert sorted(event[-20:] for event in events)[0] == "s, 1 of them encoded"
    assert contents(state) == before
    assert verify(config, "--deep")[0] == 0


@pytest.mark.slow
def test_what_belongs_to_no_source_any_more_leaves_the_index(tmp_path: Path, config: Path, folder: Path) -> None:
    state = tmp_path / "state"
    config.write_text(config.read_text().replace('name = "docs"', 'name = "renamed"'))
    for path in state.glob("journal.sqlite*"):
        path.unlink()
    assert problems(verify(config)[1]) == {"extra": 6}
    code, told = verify(config, "--repair")
    assert (code, told["repaired"]) == (0, 12)  # the files are new to the renamed source
    assert contents(state)[0] == {}
    ingest(config, folder)
    assert len(contents(state)[0]) == 6


def test_beside_a_daemon_whose_folder_changes_nothing_is_mistaken(tmp_path: Path, config: Path, folder: Path) -> None:
    """What is on its way is pending, and at rest there is nothing."""
    with running(config, tmp_path / "state") as daemon:
        daemon.wait()
        for turn in range(6):
            for number in range(6):
                write(folder / f"{number}.txt", f"turn {turn} {number}")
            (folder / f"extra{turn}.txt").write_text("short lived")
            told = daemon.call("verify", deep=bool(turn % 2), repair=False)
            assert not [finding for finding in told["findings"] if not finding["reason"].startswith("in the folder")]
            (folder / f"extra{turn}.txt").unlink()
        daemon.wait()
        assert problems(daemon.call("verify", deep=True, repair=False)) == {}
