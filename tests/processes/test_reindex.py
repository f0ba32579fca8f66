"""A new index is built beside the one in use, which goes on answering, and takes its place in one step."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ingestd import reindexing
from ingestd.config import load
from ingestd.owner import owner
from tests.processes.daemons import (
    RunningDaemon,
    contents,
    environment,
    ingest,
    ingestd,
    left_over,
    running,
    write_config,
)

FILES = 30
SMALL = "\n[chunk]\nmax_tokens = 16\noverlap = 0\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    docs = tmp_path / "docs"
    docs.mkdir()
    for number in range(FILES):
        write(docs / f"{number}.txt", number)
    return docs


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def config(state: Path, folder: Path) -> Path:
    config = write_config(state, folder)
    ingest(config, folder)
    return config


def write(path: Path, number: int, what: str = "first") -> None:
    path.write_text("\n\n".join(f"{what} marker{number} paragraph {n} {'and so on ' * 6}" for n in range(6)) + "\n")


def with_small_chunks(config: Path) -> None:
    """Other settings, which no index made before can be used with."""
    config.write_text(config.read_text().replace("\n[[watch]]", f"{SMALL}[[watch]]"))


def undisturbed(tmp_path: Path, folder: Path) -> Any:
    """What an index of the folder with the other settings holds."""
    config = write_config(tmp_path / "fresh", folder)
    with_small_chunks(config)
    ingest(config, folder)
    return contents(tmp_path / "fresh")


def reindex(config: Path) -> dict[str, Any]:
    done = ingestd(config, "reindex", "--json", timeout=240)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@contextlib.contextmanager
def reading(daemon: RunningDaemon) -> Iterator[None]:
    """Ask for one document after the other all the while: each is found."""
    wrong: list[str] = []
    asked = 0
    over = threading.Event()

    def ask() -> None:
        nonlocal asked
        while not over.is_set():
            marker = f"marker{random.randrange(FILES)}"
            try:
                hits = daemon.call("search", text=marker, top=1, source=None, path=None)["hits"]
            except AssertionError as error:
                wrong.append(str(error))
                return
            asked += 1
            if not hits or f"{marker} " not in hits[0]["text"]:
                wrong.append(f"{marker}: {hits}")

    thread = threading.Thread(target=ask)
    thread.start()
    yield
    over.set()
    thread.join()
    assert wrong == []
    assert asked > 10


@pytest.mark.parametrize("pause", [0.3, 0.02], ids=["some files change", "files never stop changing"])
def test_readers_see_a_complete_index_throughout(
    tmp_path: Path, config: Path, state: Path, folder: Path, pause: float
) -> None:
    with running(config, state) as daemon:
        daemon.wait()
        with_small_chunks(config)
        with reading(daemon):
            command = subprocess.Popen(
                [sys.executable, "-m", "ingestd", "--config", str(config), "reindex", "--json"],
                stdout=subprocess.PIPE, env=environment(),
            )  # fmt: skip
            turn = 0
            while command.poll() is None:
                turn += 1
                write(folder / f"{turn % FILES}.txt", turn % FILES, f"turn {turn}")
                write(folder / f"new{turn % 50}.txt", 1000 + turn)
                time.sleep(pause)
            assert json.loads(command.communicate()[0])["documents"] >= FILES
        (folder / "new1.txt").unlink()
        wanted = undisturbed(tmp_path, folder)
        while contents(state) != wanted:
            assert daemon.process.poll() is None
            daemon.wait()
        assert daemon.call("verify", deep=True, repair=False)["findings"] == []
    assert not (state / "next").exists()
    assert not (state / "previous").exists()


def test_without_a_daemon_what_ingest_was_given_is_in_the_new_index(
    tmp_path: Path, config: Path, state: Path, folder: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(elsewhere / "single.txt", 77)
    ingest(config, elsewhere / "single.txt")
    before = contents(state)
    with_small_chunks(config)
    refused = ingestd(config, "search", "marker77")
    assert refused.returncode == 3
    assert "ingestd reindex" in refused.stderr
    assert reindex(config)["documents"] == FILES + 1
    after = contents(state)
    assert after[0].keys() == before[0].keys()
    assert len(after[1]) > len(before[1])
    assert "single.txt" in ingestd(config, "search", "marker77").stdout
    assert json.loads(ingestd(config, "verify", "--deep", "--json").stdout)["findings"] == []


def test_what_changed_since_it_was_ingested_is_taken_as_it_is_now(tmp_path: Path, config: Path, state: Path) -> None:
    """Nobody watches it, so the index in use has the earlier content; no reason to read it again and again."""
    single = tmp_path / "elsewhere" / "single.txt"
    single.parent.mkdir()
    write(single, 77)
    ingest(config, single)
    write(single, 78)
    with_small_chunks(config)
    assert reindex(config)["documents"] == FILES + 1
    assert "single.txt" in ingestd(config, "search", "marker78").stdout
    told = json.loads(ingestd(config, "why", str(single), "--json").stdout)["history"]
    assert sum("chunks" in line["event"] for line in told) <= 2, told


def test_one_that_is_refused_at_once_is_not_taken_up_by_a_later_start(config: Path, state: Path) -> None:
    before = contents(state)
    text = config.read_text()
    config.write_text(text.replace('model = "hashing"', 'model = "/nowhere"').replace('"hashing"', '"torch"', 1))
    done = ingestd(config, "reindex")
    assert done.returncode in (2, 3), done.stderr
    assert "/nowhere" in done.stderr
    assert not reindexing.drafted(state)
    config.write_text(text)
    with running(config, state) as daemon:
        daemon.wait()
        assert daemon.status()["reindex"] is None
    assert contents(state) == before


def test_interrupted_it_goes_on_and_the_old_index_answers(
    tmp_path: Path, config: Path, state: Path, folder: Path
) -> None:
    with_small_chunks(config)
    command = subprocess.Popen(
        [sys.executable, "-m", "ingestd", "--config", str(config), "reindex", "--json"], env=environment()
    )
    while not (state / "next" / "journal.sqlite").exists():
        assert command.poll() is None
        time.sleep(0.02)
    command.send_signal(signal.SIGINT)
    assert command.wait(60) == 130
    assert "marker7 " in ingestd(config, "search", "marker7").stdout
    assert reindex(config)["documents"] == FILES
    assert contents(state) == undisturbed(tmp_path, folder)
    assert left_over(state) == []


@pytest.mark.slow
def test_killed_anywhere_it_ends_in_the_same_index(tmp_path: Path, config: Path, state: Path, folder: Path) -> None:
    with running(config, state) as daemon:
        daemon.wait()
        with_small_chunks(config)
        ended = threading.Event()

        def ask() -> None:
            while ingestd(config, "reindex", "--json", timeout=300).returncode != 0:
                time.sleep(0.2)
            ended.set()

        asking = threading.Thread(target=ask)
        asking.start()
        rng = random.Random(5)
        kills = 0
        while not ended.wait(rng.uniform(0.5, 4.0)) and kills < 12:
            daemon.kill()
            kills += 1
            write(folder / f"{kills}.txt", kills, f"kill {kills}")
            daemon.start()
        asking.join()
        assert kills >= 3
        if daemon.process.poll() is not None:  # refused: the command had the state directory, and did it alone
            assert "another daemon" in daemon.tail()
            daemon.start()
        wanted = undisturbed(tmp_path, folder)
        while contents(state) != wanted:
            assert daemon.process.poll() is None
            daemon.wait()
        assert json.loads(ingestd(config, "verify", "--deep", "--json").stdout)["findings"] == []
    assert left_over(state) == []
    assert left_over(state / "next") == []


def test_a_model_that_is_not_there_leaves_the_index_as_it_was(config: Path, state: Path) -> None:
    before = contents(state)
    good = config.read_text()
    with running(config, state) as daemon:
        daemon.wait()
        config.write_text(good.replace('engine = "hashing"', 'engine = "no such engine"'))
        refused = ingestd(config, "reindex", "--json")
        assert refused.returncode in (2, 3), refused.stderr
        assert "no such engine" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert daemon.call("search", text="marker3", top=1, source=None, path=None)["hits"]
        config.write_text(good)
        assert ingestd(config, "reindex", "--json").returncode == 0
    assert contents(state) == before


@pytest.mark.parametrize("moved", range(5))
def test_a_draft_takes_its_place_wherever_that_was_cut_short(tmp_path: Path, moved: int) -> None:
    state = tmp_path / "state"
    draft = state / reindexing.DRAFT
    for place, what in ((state, "old"), (draft, "new")):
        (place / "index").mkdir(parents=True)
        for name in ("journal.sqlite", "index/index.sqlite"):
            (place / name).write_text(what)
    (state / "journal.sqlite-wal").write_text("old")
    reindexing.complete(state)
    steps = [
        lambda: (state / "journal.sqlite-wal").unlink(),
        lambda: (draft / "journal.sqlite").replace(state / "journal.sqlite"),
        lambda: ((state / "index" / "index.sqlite").unlink(), (state / "index").rmdir()),
        lambda: (draft / "index").rename(state / "index"),
    ]
    for step in steps[:moved]:
        step()
    reindexing.settle(state)
    assert sorted(path.name for path in state.iterdir()) == ["index", "journal.sqlite"]
    assert {path.read_text() for path in state.rglob("*.sqlite")} == {"new"}


def test_a_draft_and_what_it_replaces_have_one_owner(tmp_path: Path) -> None:
    """What several machines write to tells by it that the one may replace what the other wrote."""
    state = tmp_path / "state"
    config = load(write_config(state, None), {})
    known = owner(state / "index")
    assert owner(tmp_path / "other") != known
    reindexing.prepare(state, config)
    reindexing.complete(state)
    reindexing.settle(state)
    assert not (state / reindexing.DRAFT).exists()
    assert owner(state / "index") == known


def test_a_draft_that_is_not_complete_takes_nobodys_place(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / reindexing.DRAFT / "index").mkdir(parents=True)
    (state / "index").mkdir()
    (state / "index" / "index.sqlite").write_text("old")
    reindexing.settle(state)
    assert (state / "index" / "index.sqlite").read_text() == "old"
    assert reindexing.drafted(state)
    reindexing.drop(state)
    assert not reindexing.drafted(state)
