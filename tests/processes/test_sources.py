"""Sources of a running daemon: paused, emptied, taken out of the configuration, given another category."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes.daemons import RunningDaemon, contents, ingestd, running


class Folders:
    """Two watched folders and a configuration that is written anew for each start."""

    def __init__(self, path: Path) -> None:
        self.state = path / "state"
        self.config = path / "config.toml"
        self.a = path / "a"
        self.b = path / "b"
        for folder in (self.a, self.b):
            folder.mkdir()

    def write(self, *names: str, more: str = "") -> None:
        tables = [
            f'[[watch]]\nname = "{name}"\ndirectory = "{getattr(self, name)}"\nsettle = "200ms"\nrescan = "2s"\n{more}'
            for name in names
        ]
        state = f'[state]\ndirectory = "{self.state}"\n[encode]\nengine = "hashing"\nmodel = "hashing"\n'
        self.config.write_text(state + "\n".join(tables))

    def daemon(self) -> Any:
        return running(self.config, self.state)

    def paths(self) -> set[str]:
        documents, _ = contents(self.state)
        return {os.path.relpath(path, self.a.parent) for path in documents}

    def events(self, path: Path) -> list[str]:
        return [line["event"] for line in self.say("why", str(path))["history"]]

    def say(self, *arguments: str) -> Any:
        done = ingestd(self.config, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def folders(tmp_path: Path) -> Folders:
    return Folders(tmp_path)


def fill(folder: Path, count: int) -> set[str]:
    for number in range(count):
        (folder / f"f{number}.txt").write_text(f"{folder.name} {number}")
    return {f"{folder.name}/f{number}.txt" for number in range(count)}


def until(daemon: RunningDaemon, condition: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while not condition(status := daemon.wait()):
        assert time.monotonic() < deadline, f"{status}\n{daemon.tail()}"
        time.sleep(0.1)
    return status


def waits(daemon: RunningDaemon, name: str, queued: int, indexed: int = 0) -> dict[str, Any]:
    """Until so many files of a paused source wait, and so many others are done."""
    deadline = time.monotonic() + 60
    while True:
        status = daemon.status()
        if source(status, name)["queued"] == queued and status["files"]["indexed"] >= indexed:
            return status
        assert time.monotonic() < deadline, f"{status}\n{daemon.tail()}"
        time.sleep(0.1)


def loaders(status: dict[str, Any]) -> int:
    return sum(worker["stage"] == "load" and worker["state"] != "starting" for worker in status["workers"])


def source(status: dict[str, Any], name: str) -> dict[str, Any]:
    return next(found for found in status["sources"] if found["name"] == name)


def test_an_emptied_folder_stays_searchable_until_that_is_confirmed(folders: Folders) -> None:
    folders.write("a", "b")
    kept = fill(folders.b, 10)
    lost = fill(folders.a, 60)
    with folders.daemon() as daemon:
        daemon.wait()
        shutil.rmtree(folders.a)
        folders.a.mkdir()
        (folders.b / "f9.txt").unlink()  # a few are never held
        status = until(daemon, lambda status: status["files"]["held"] == 60)
        assert source(status, "a")["held"] == 60
        assert any("ingestd confirm-deletes a" in warning for warning in status["warnings"])
        assert "confirm-deletes a" in folders.say("why", str(folders.a / "f7.txt"))["reason"]
        until(daemon, lambda _: folders.paths() == lost | kept - {"b/f9.txt"})
        (folders.a / "f7.txt").write_text("a 7")  # it comes back as it was
        until(daemon, lambda status: status["files"]["held"] == 59)
        assert folders.events(folders.a / "f7.txt")[-1] == "unchanged content"
    # It is held across a restart, and without a daemon too.
    assert folders.say("confirm-deletes", "a") == {"source": "a", "files": 59}
    with folders.daemon() as daemon:
        until(daemon, lambda status: not status["files"]["held"] and not status["files"]["queued"])
        assert folders.paths() == {"a/f7.txt"} | kept - {"b/f9.txt"}


def test_a_paused_source_waits_and_the_others_go_on(folders: Folders) -> None:
    folders.write("a", "b")
    with folders.daemon() as daemon:
        daemon.wait()
        assert folders.say("pause", "a") == {"sources": ["a"], "paused": True}
        fill(folders.a, 3)
        fill(folders.b, 3)

        status = waits(daemon, "a", 3, indexed=3)
        assert source(status, "a")["paused"]
        assert not source(status, "b")["paused"]
        assert "source a is paused: ingestd resume a" in status["warnings"]
        assert "ingestd resume a" in folders.say("why", str(folders.a / "f1.txt"))["reason"]
        refused = ingestd(folders.config, "ingest", str(folders.a))
        assert refused.returncode == 2
        assert "source a is paused" in refused.stderr
    with folders.daemon() as daemon:  # it is remembered
        assert source(daemon.status(), "a")["paused"]
        assert folders.say("resume") == {"sources": ["a", "b", "ingest"], "paused": False}
        assert daemon.wait()["files"]["indexed"] == 6


def test_a_source_taken_out_of_the_configuration_is_held(folders: Folders) -> None:
    folders.write("a", "b")
    everything = fill(folders.a, 3) | fill(folders.b, 3)
    with folders.daemon() as daemon:
        daemon.wait()
    folders.write("b")
    with folders.daemon() as daemon:
        status = daemon.wait()
        assert status["files"]["held"] == 3
        assert any("source a is no longer configured" in warning for warning in status["warnings"])
        assert folders.say("why", str(folders.a / "f1.txt"))["state"] == "held"
        assert folders.paths() == everything
    folders.write("a", "b")
    with folders.daemon() as daemon:
        status = daemon.wait()
        assert status["files"]["held"] == 0
        assert not any("no longer" in warning for warning in status["warnings"])
        assert folders.events(folders.a / "f1.txt") == ["indexed: 1 chunks, 1 of them encoded"]
    folders.write("b")
    with folders.daemon() as daemon:
        daemon.wait()
        assert folders.say("confirm-deletes", "a") == {"source": "a", "files": 3}
        until(daemon, lambda status: status["files"]["indexed"] == 3 and not status["files"]["held"])
        until(daemon, lambda _: folders.paths() == {f"b/f{number}.txt" for number in range(3)})


def test_another_category_is_applied_without_encoding(folders: Folders) -> None:
    folders.write("a", more='category_id = "1"\n')
    fill(folders.a, 3)
    with folders.daemon() as daemon:
        daemon.wait()
        (hit, *_) = folders.say("search", "a 1")
        assert hit["metadata"]["category_id"] == "1"
    folders.write("a", more='category_id = "2"\nmetadata = {team = "blue"}\n')
    with folders.daemon() as daemon:
        daemon.wait()
        for hit in folders.say("search", "a 1"):
            assert hit["metadata"].items() >= {"category_id": "2", "team": "blue"}.items()
    for number in range(3):
        found = folders.events(folders.a / f"f{number}.txt")
        assert found == ["indexed: 1 chunks, 1 of them encoded", "unchanged content"]


def test_changed_excludes_apply_to_what_is_indexed(folders: Folders) -> None:
    folders.write("a")
    fill(folders.a, 4)
    with folders.daemon() as daemon:
        daemon.wait()
    folders.write("a", more='exclude = ["f1.txt", "f2.txt"]\n')
    with folders.daemon() as daemon:
        until(daemon, lambda _: folders.paths() == {"a/f0.txt", "a/f3.txt"})
    folders.write("a")
    with folders.daemon() as daemon:
        until(daemon, lambda _: len(folders.paths()) == 4)


def test_reload_brings_sources_and_limits_into_force(folders: Folders) -> None:
    folders.write("a")
    lost = ingestd(folders.config, "reload")
    assert lost.returncode == 3
    assert "no daemon is running" in lost.stderr
    kept = fill(folders.a, 30)
    with folders.daemon() as daemon:
        daemon.status()
        fill(folders.b, 30)  # in the middle of the work
        folders.write("a", "b", more='category_id = "7"\n')
        assert folders.say("reload") == {"sources": ["a", "b"], "restart": []}
        status = daemon.status()
        assert [(source["name"], source["mode"]) for source in status["sources"]] == [
            ("a", "inotify"),
            ("b", "inotify"),
        ]
        daemon.wait()
        assert len(folders.paths()) == 60
        (hit, *_) = folders.say("search", "b 1")
        assert hit["metadata"]["category_id"] == "7"

        before = folders.config.read_text()
        folders.config.write_text(before.replace("settle =", "setle ="))
        refused = ingestd(folders.config, "reload")
        assert refused.returncode == 2
        assert 'did you mean "settle"?' in refused.stderr
        (folders.b / "new.txt").write_text("under the old configuration")
        daemon.process.send_signal(signal.SIGHUP)
        until(daemon, lambda _: "the configuration stays as it was" in daemon.log.read_text())
        until(daemon, lambda _: len(folders.paths()) == 61)

        folders.write("a", more='exclude = ["f1.txt"]\ncategory_id = "7"\n')
        folders.config.write_text(
            folders.config.read_text().replace("[encode]", "[load]\nmax_text = 10\nworkers = 4\n[encode]")
        )
        daemon.process.send_signal(signal.SIGHUP)
        until(daemon, lambda status: [source["name"] for source in status["sources"]] == ["a"])
        until(daemon, lambda status: loaders(status) == 5)  # and one to spare
        status = daemon.wait()
        assert status["files"]["held"] == 31
        folders.config.write_text(folders.config.read_text().replace("workers = 4", "workers = 1"))
        folders.config.write_text(folders.config.read_text().replace('"hashing"', '"hashing-128"', 2))
        assert folders.say("reload")["restart"] == ["[encode] engine", "[encode] model"]
        until(daemon, lambda status: loaders(status) == 2)
        (folders.a / "long.txt").write_text("one line of text\n" * 20)
        daemon.wait()
        assert folders.say("why", str(folders.a / "long.txt"))["state"] == "partial"
        until(
            daemon,
            lambda _: (
                {path for path in folders.paths() if path.startswith("a/")} == kept - {"a/f1.txt"} | {"a/long.txt"}
            ),
        )


def test_a_dry_run_says_what_would_be_done_and_does_nothing(folders: Folders) -> None:
    folders.write("a")
    fill(folders.a, 4)
    (folders.a / "broken.json").write_text("{broken")
    first = folders.say("ingest", "--dry-run", str(folders.a))
    assert (first["load"], first["remove"], first["unchanged"]) == (5, 0, 0)
    assert {(item["reason"], item["loader"]) for item in first["planned"]} == {("new", "text"), ("new", "json")}
    assert folders.say("status")["files"]["queued"] == 0
    assert ingestd(folders.config, "ingest", str(folders.a)).returncode == 1
    (folders.a / "f1.txt").unlink()
    (folders.a / "f2.txt").write_text("longer than it was before")
    os.utime(folders.a / "f3.txt")
    odd = folders.a / os.fsdecode(b"odd\xff.txt")
    odd.write_text("x")

    def look() -> dict[str, tuple[str, str]]:
        told = folders.say("ingest", "-n", str(folders.a))
        assert (told["load"], told["remove"], told["unchanged"], told["quarantined"]) == (3, 1, 2, 1)
        return {os.path.basename(item["path"]): (item["action"], item["reason"]) for item in told["planned"]}

    expected = {
        "f1.txt": ("remove", "the file is gone"),
        "f2.txt": ("load", "changed: 3 B, now 25 B"),
        "f3.txt": ("load", "its time or place changed; if the content is what it was, nothing is encoded"),
        "odd\ufffd.txt": ("load", "new"),
    }
    assert look() == expected
    assert len(folders.paths()) == 4
    folders.say("pause")
    with folders.daemon() as daemon:  # it does the same
        waits(daemon, "a", 3)
        refused = ingestd(folders.config, "ingest", "-n", str(folders.a))
        assert "source a is paused" in refused.stderr
    folders.say("resume")
    shown = ingestd(folders.config, "ingest", "-n", str(folders.a))
    assert "load   " in shown.stdout
    assert "queued, not done yet [text]" in shown.stdout  # the daemon had noted it, and nothing more
    assert "3 to load, 0 to remove, 2 unchanged; nothing was done" in shown.stderr


def test_a_file_belongs_to_the_innermost_source(folders: Folders) -> None:
    """One source may lie in another that is not recursive, whichever of them comes first."""
    inner = folders.a / "inner"
    inner.mkdir()
    (inner / "one.txt").write_text("inside")
    (folders.a / "two.txt").write_text("outside")
    tables = {"outer": f'directory = "{folders.a}"\nrecursive = false\n', "inner": f'directory = "{inner}"\n'}
    for order in (("outer", "inner"), ("inner", "outer")):
        folders.write()
        text = "".join(f'[[watch]]\nname = "{name}"\n{tables[name]}' for name in order)
        folders.config.write_text(folders.config.read_text() + text)
        for path, source in ((inner / "one.txt", "inner"), (folders.a / "two.txt", "outer")):
            assert folders.say("ingest", str(path))["failures"] == []
            assert folders.say("why", str(path))["source"] == source


def test_the_kernel_takes_a_worker_before_the_daemon(folders: Folders) -> None:
    folders.write("a")
    with folders.daemon() as daemon:
        status = daemon.wait()
        workers = [worker["pid"] for worker in status["workers"] if worker["stage"] == "load"]
        scores = [int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in (daemon.process.pid, *workers)]
        assert scores[0] <= 0 < min(scores[1:])


def test_what_was_ingested_is_read_by_workers_that_may(folders: Folders) -> None:
    """Whoever queues a file outside of the watched folders, no worker with a narrower sandbox takes it."""
    outside = folders.a.parent / "outside"
    outside.mkdir()
    folders.write("a")
    fill(folders.a, 3)
    with folders.daemon() as daemon:
        daemon.wait()
        paths = [outside / f"{number}" / "file.txt" for number in range(5)]
        for number, path in enumerate(paths):
            path.parent.mkdir()
            path.write_text(f"outside {number}")
            with sqlite3.connect(folders.state / "journal.sqlite", timeout=30) as db:
                row = ("ingest", os.fsencode(path)[1:])
                db.execute("INSERT INTO documents(source, path, state) VALUES (?, ?, 'queued')", row)
            db.close()
        daemon.wait()
        for path in paths:
            assert [event.split(":")[0] for event in folders.events(path)] == ["indexed"]
