"""Parts of files in real daemons: each is a document of its own, and lives by its container."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from ingestd import parts
from ingestd.daemon import Daemon
from tests.archives import zipped
from tests.processes.daemons import (
    RunningDaemon,
    add_source,
    contents,
    ingest,
    ingestd,
    left_over,
    running,
    write_config,
)
from tests.processes.inside import events, inside, states, take_in, until
from tests.processes.test_hostile import LIMITS
from tests.processes.test_hostile import hostile as hostile


def text(number: int) -> str:
    return f"# Member {number}\n\nThe heron number {number} stands in the river."


def members(state: Path) -> dict[str, tuple[str, int, str | None]]:
    """By path and member: state, attempts, reason."""
    db = sqlite3.connect(state / "journal.sqlite")
    found = db.execute("SELECT path, member, state, attempts, reason FROM documents").fetchall()
    db.close()
    return {f"{Path(os.fsdecode(path)).name}!/{member}": tuple(rest) for path, member, *rest in found}  # type: ignore[misc]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    folder.mkdir()
    return folder


def test_a_member_is_a_document_of_its_own(tmp_path: Path, folder: Path) -> None:
    """With state, why, retry and a path in the index; also one in an archive inside the archive."""
    inner = zipped({"deep/report.md": "# Badgers\n\nBadgers live below the viaduct."})
    outer = {"a.txt": "The heron stands.", "inner.zip": inner, "bad.json": "{", "../up.txt": "no", "x.so": "\x7fELF\0"}
    (folder / "outer.zip").write_bytes(zipped(outer))
    os.utime(folder / "outer.zip", (1_600_000_000, 1_600_000_000))  # September 2020
    state = tmp_path / "state"
    config = write_config(state, None)
    summary = ingest(config, folder)
    assert [summary[key] for key in ("indexed", "quarantined", "skipped")] == [4, 2, 1]
    assert {(failure["path"], failure["reason"]) for failure in summary["failures"]} == {
        (f"{folder}/outer.zip!/up.txt", "its name leads out of the archive: ../up.txt"),
        (f"{folder}/outer.zip!/bad.json", members(state)["outer.zip!/bad.json"][2]),
    }
    place = f"{folder}/outer.zip!/inner.zip!/deep/report.md"
    (hit, *_) = json.loads(ingestd(config, "search", "--json", "badgers viaduct").stdout)
    assert (hit["path"], hit["member"]) == (place, "inner.zip!/deep/report.md")
    assert json.loads(ingestd(config, "search", "--json", "--path", "*.md", "viaduct").stdout)
    # As old as its container, not as its unpacking.
    assert not json.loads(ingestd(config, "search", "--json", "--since", "2020-10-01", "viaduct").stdout)
    assert json.loads(ingestd(config, "search", "--json", "--since", "2020-09-01", "viaduct").stdout)
    why = json.loads(ingestd(config, "why", "--json", place).stdout)
    assert (why["state"], why["path"], why["attempts"]) == ("indexed", place, 1)
    assert json.loads(ingestd(config, "why", "--json", str(folder / "outer.zip")).stdout)["parts"] == {
        "indexed": 2, "quarantined": 2, "skipped": 1
    }  # fmt: skip
    assert {failure["path"] for failure in json.loads(ingestd(config, "failures", "--json").stdout)} == {
        f"{folder}/outer.zip!/up.txt", f"{folder}/outer.zip!/bad.json"
    }  # fmt: skip
    assert "1" in ingestd(config, "retry", f"{folder}/outer.zip!/bad.json").stdout
    ingest(config, folder)
    assert members(state)["outer.zip!/bad.json"][0] == "quarantined"
    assert "retry asked for" in events(state)


def test_a_changed_archive_loads_what_changed(tmp_path: Path, folder: Path) -> None:
    """A renamed one, and a copy, load nothing; what it has no more leaves the index, and all of it with the file."""
    archive = folder / "a.zip"
    state = tmp_path / "state"
    content: dict[str, str | bytes] = {f"{number}.md": text(number) for number in range(20)}
    content["inner.zip"] = zipped({"deep.md": text(99)})
    archive.write_bytes(zipped(content))
    with running(write_config(state, folder), state) as daemon:
        assert daemon.wait()["files"]["indexed"] == 23
        assert daemon.status()["chunks"] == 21
        content["3.md"] = text(333)
        content["new.md"] = text(444)
        del content["4.md"]
        archive.write_bytes(zipped(content))
        daemon.wait()
        assert [event for event in events(state) if "indexed: 1 chunks" in event].count(
            "indexed: 1 chunks, 1 of them encoded"
        ) == 22  # fmt: skip
        before = len(events(state))
        archive.rename(folder / "b.zip")
        daemon.wait()
        shutil.copy(folder / "b.zip", folder / "c.zip")
        daemon.wait()
        until_gone(state, "a.zip")
        assert not any("encoded" in event and "0 chunks" not in event for event in events(state)[before:])
        documents, _ = contents(state)
        names = {path.removeprefix(f"{folder}/") for path in documents}
        assert names == {
            f"{each}.zip{name}" for each in "bc" for name in ["", "!/inner.zip!/deep.md", *(f"!/{m}" for m in content)]
        }
        (folder / "b.zip").unlink()
        (folder / "c.zip").write_text("a text by the name of an archive")
        daemon.wait()
        until_gone(state, "b.zip")
        daemon.wait()
        assert list(contents(state)[0]) == [f"{folder}/c.zip"]


def until_gone(state: Path, name: str) -> None:
    deadline = time.monotonic() + 60
    while any(key.startswith(f"{name}!/") for key in members(state)):
        assert time.monotonic() < deadline, members(state)
        time.sleep(0.1)


def test_one_member_hangs_among_many(tmp_path: Path, folder: Path, hostile: None) -> None:
    """It costs itself: the archive and its other members are indexed, and none of them takes a strike."""
    content: dict[str, str | bytes] = {f"{number}.md": text(number) for number in range(60)}
    content["30.hostile"] = "hang_in_sleep\n"
    content["31.hostile"] = "signal 11\n"
    (folder / "a.zip").write_bytes(zipped(content))
    state = tmp_path / "state"
    limits = {**LIMITS, "workers": 1, "max_strikes": 2}

    async def body(daemon: Daemon) -> None:
        work = asyncio.ensure_future(take_in(daemon, folder))
        await until(lambda: states(state).get("indexed") == 61)
        summary = await work
        assert (summary["indexed"], summary["quarantined"]) == (61, 2)

    inside(write_config(state, None, load=limits), body)
    found = members(state)
    assert "idle_deadline" in str(found["a.zip!/30.hostile"])
    assert "SIGSEGV" in str(found["a.zip!/31.hostile"])
    assert {attempts for state, attempts, _ in found.values() if state == "indexed"} == {1}
    assert not left_over(state)


def test_more_than_there_is_room_for(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not taken along is unpacked later, also where one member alone needs more; nothing stays held."""
    rng = random.Random(3)
    content: dict[str, str | bytes] = {f"{n}.txt": f"{n} " + "word " * rng.randrange(400) for n in range(100)}
    content["big.txt"] = "one large text " * 3000
    (folder / "a.zip").write_bytes(zipped(content))
    state = tmp_path / "state"
    monkeypatch.setattr(parts, "ROOM", 30_000)

    async def body(daemon: Daemon) -> None:
        summary = await take_in(daemon, folder)
        assert (summary["indexed"], summary["quarantined"]) == (102, 0)
        assert daemon.dispatcher.unpacked.room() == parts.ROOM

    inside(write_config(state, None), body)
    assert sum("101 parts" in event for event in events(state)) > 1
    assert len(contents(state)[0]) == 102


def test_limits_are_kept_and_told(tmp_path: Path, folder: Path) -> None:
    """Each is the reason shown; one that is met exactly is none."""
    (folder / "exact.zip").write_bytes(zipped({f"{number}.md": text(number) for number in range(5)}))
    (folder / "many.zip").write_bytes(zipped({f"{number}.md": text(number) for number in range(6)}))
    (folder / "large.zip").write_bytes(zipped({"a.txt": "a" * 600_000, "b.txt": "b" * 600_000}))
    (folder / "bomb.zip").write_bytes(zipped({"bomb.txt": b"\0" * (80 << 20), "good.md": "# Good\n\ngood"}))
    nested = zipped({"leaf.md": text(1)})
    for _ in range(3):
        nested = zipped({"n.zip": nested})
    (folder / "deep.zip").write_bytes(nested)
    state = tmp_path / "state"
    limits = {"max_parts": 5, "max_parts_size": "1MB", "max_parts_depth": 3}
    ingest(write_config(state, None, load=limits), folder)
    found = members(state)
    assert found["exact.zip!/"][0] == "indexed"
    assert found["many.zip!/"][::2] == ("partial", "more than max_parts = 5 parts")
    assert found["many.zip!/4.md"][0] == "indexed"
    assert found["large.zip!/"][0] == "partial"
    assert "max_parts_size = 1000000" in str(found["large.zip!/"][2])
    assert found["large.zip!/a.txt"][0] == "indexed"
    assert "max_parts_size" in str(found["bomb.zip!/"])
    assert found["deep.zip!/n.zip!/n.zip"][0] == "indexed"
    assert "max_parts_depth = 3" in str(found["deep.zip!/n.zip!/n.zip!/n.zip"])
    config = write_config(tmp_path / "other", None, load={"max_parts_depth": 4, "max_parts": 6, "max_parts_ratio": 10})
    ingest(config, folder)
    found = members(tmp_path / "other")
    assert "deep.zip!/n.zip!/n.zip!/n.zip!/leaf.md" in found
    assert "max_parts_ratio = 10" in str(found["bomb.zip!/bomb.txt"])
    assert found["bomb.zip!/good.md"][0] == "indexed"


def test_a_limit_that_is_met_is_not_exceeded_and_a_source_may_raise_it(tmp_path: Path) -> None:
    """The same archives in two folders, of which one has each limit a little higher."""
    bomb = bytes(80 << 20)
    made = {
        "count": zipped({f"{number}.md": text(number) for number in range(3)}),
        "count-more": zipped({f"{number}.md": text(number) for number in range(4)}),
        "size": zipped({"a.txt": "a" * 6000, "b.txt": "b" * 4000}),
        "size-more": zipped({"a.txt": "a" * 6000, "b.txt": "b" * 4001}),
        "depth": zipped({"n.zip": zipped({"leaf.md": text(1)})}),
        "depth-more": zipped({"n.zip": zipped({"n.zip": zipped({"leaf.md": text(2)})})}),
    }
    large = {"ratio": zipped({"bomb.txt": bomb})}
    limits = {"max_parts": 3, "max_parts_size": 10_000, "max_parts_depth": 2, "max_parts_ratio": 100}
    raised = {"max_parts": 4, "max_parts_size": 10_001, "max_parts_depth": 3, "max_parts_ratio": 1100}
    state = tmp_path / "state"
    config = write_config(state, None, load=limits)
    for name, more in (("tight", {}), ("wide", raised)):
        (tmp_path / name).mkdir()
        add_source(config, name, tmp_path / name, **more)
        for kind, data in made.items():
            (tmp_path / name / f"{name}-{kind}.zip").write_bytes(data)
    for name, ratio in (("bomb", 100), ("inflated", 1100)):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}-ratio.zip").write_bytes(large["ratio"])
        add_source(config, name, tmp_path / name, max_parts_size="1GB", max_parts_ratio=ratio)
    with running(config, state) as daemon:
        daemon.wait()
    found = members(state)
    for kind in ("count", "size", "depth"):
        assert found[f"tight-{kind}.zip!/"][0] == "indexed", kind
        assert found[f"wide-{kind}.zip!/"][0] == found[f"wide-{kind}-more.zip!/"][0] == "indexed", kind
    assert found["tight-count-more.zip!/"][::2] == ("partial", "more than max_parts = 3 parts")
    assert found["tight-size-more.zip!/"][::2] == ("partial", "more than max_parts_size = 10000 bytes in its parts")
    assert "max_parts_depth = 2" in str(found["tight-depth-more.zip!/n.zip!/n.zip"])
    assert found["tight-depth.zip!/n.zip!/leaf.md"][0] == "indexed"
    assert found["wide-depth-more.zip!/n.zip!/n.zip!/leaf.md"][0] == "indexed"
    assert "max_parts_ratio = 100" in str(found["bomb-ratio.zip!/bomb.txt"])
    assert "ratio" not in str(found["inflated-ratio.zip!/bomb.txt"])


def test_a_pause_while_an_archive_is_unpacked_loses_nothing(tmp_path: Path, folder: Path) -> None:
    """Nor does a daemon that is killed meanwhile; who resumes gets the rest."""
    inner = zipped({f"{number}.hostile": f"slow 0.1\ninner {number}" for number in range(10)})
    content: dict[str, str | bytes] = {f"{number}.hostile": f"slow 0.1\n{number}" for number in range(40)}
    (folder / "a.zip").write_bytes(zipped({**content, "inner.zip": inner}))
    state = tmp_path / "state"
    config = write_config(state, folder, load={**LIMITS, "workers": 1})

    def indexed(daemon: RunningDaemon) -> int:
        found: int = daemon.status()["files"]["indexed"]
        return found

    with running(config, state, hostile=True) as daemon:
        deadline = time.monotonic() + 60
        while indexed(daemon) < 5:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert ingestd(config, "pause", "docs").returncode == 0
        while (files := daemon.status()["files"])["running"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert files["queued"] > 0
        time.sleep(1)
        assert indexed(daemon) == files["indexed"]
        daemon.kill()
        daemon.start()
        assert indexed(daemon) == files["indexed"]
        assert ingestd(config, "resume", "docs").returncode == 0
        daemon.wait()
        assert not daemon.call("failures")["failures"]
        assert indexed(daemon) == 1 + 40 + 1 + 10
    assert {attempts for _, attempts, _ in members(state).values()} == {1}


def test_kills_while_archives_are_read(tmp_path: Path, folder: Path) -> None:
    """Of supervisor and load workers: the index is that of an undisturbed run, and nobody is blamed."""
    rng = random.Random(11)
    for number in range(6):
        content: dict[str, str | bytes] = {f"{n}.md": text(rng.randrange(500)) for n in range(60)}
        content["inner.zip"] = zipped({f"{n}.md": text(rng.randrange(500)) for n in range(20)})
        (folder / f"{number}.zip").write_bytes(zipped(content))
    state = tmp_path / "fire"
    with running(write_config(state, folder), state) as daemon:
        for number in range(10):
            time.sleep(rng.random() * 0.8)
            if number % 2:
                for worker in daemon.status()["workers"]:
                    if worker["stage"] == "load" and worker["state"] == "running":
                        os.kill(worker["pid"], signal.SIGKILL)
            else:
                daemon.kill()
                daemon.start()
        daemon.wait(180)
        assert not daemon.call("failures")["failures"]
        assert daemon.stop() == 0
    assert not left_over(state)
    calm = tmp_path / "calm"
    with running(write_config(calm, folder), calm) as daemon:
        daemon.wait(180)
    assert contents(state) == contents(calm)
    assert len(contents(calm)[0]) == 6 * (1 + 60 + 1 + 20)
