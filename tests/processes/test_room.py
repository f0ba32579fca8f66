"""A full disk below the scratch directory is nobody's fault; a file that fills it alone is its own."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
from pathlib import Path

import pytest

from ingestd.daemon import Daemon
from ingestd.room import ENOUGH
from tests import archives, corpus
from tests.mounting import small_disk
from tests.processes.daemons import HOSTILE, contents, write_config
from tests.processes.inside import events, inside, take_in, until
from tests.test_office import converted

SIZE = 96 << 20


@pytest.fixture(autouse=True)
def hostile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HOSTILE))
    monkeypatch.setenv("PYTHONPATH", str(HOSTILE), prepend=os.pathsep)


def write(folder: Path, mebibytes: int) -> Path:
    folder.mkdir()
    (folder / "a.hostile").write_text(f"use_scratch {mebibytes}\nwhat it took much room for")
    for number in range(10):
        (folder / f"b{number}.txt").write_text(f"needs no room, number {number}")
    return folder


def test_loading_waits_while_the_disk_is_full(tmp_path: Path) -> None:
    folder = write(tmp_path / "docs", 12)
    with small_disk(tmp_path / "disk", str(SIZE)) as disk:
        state = disk / "state"

        async def body(daemon: Daemon) -> None:
            filler = disk / "filler"  # it leaves room for the journal and the index, but not for that file
            room = os.statvfs(disk)
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - ENOUGH // 2)
            work = asyncio.ensure_future(take_in(daemon, folder))
            await until(lambda: any("scratch is full: OSError" in warning for warning in daemon.troubles))
            await asyncio.sleep(2.5)
            assert not work.done()
            assert daemon.dispatcher.room.trouble
            filler.unlink()
            summary = await asyncio.wait_for(work, 60)
            assert (summary["indexed"], summary["failures"]) == (11, [])
            assert daemon.troubles == []

        inside(write_config(state, None, load={"max_strikes": 1}), body)
        assert not any("strike" in event or "interrupted" in event for event in events(state))
        assert len(contents(state)[0]) == 11


@pytest.mark.office
@pytest.mark.skipif(shutil.which("soffice") is None, reason="soffice, of LibreOffice, is not installed")
def test_libreoffice_on_a_full_disk_says_nothing_of_the_document(tmp_path: Path) -> None:
    document = tmp_path / "a.docx"
    document.write_bytes(corpus.samples()[".docx"])
    folder = tmp_path / "docs"
    folder.mkdir()
    (made,) = converted(tmp_path, ".doc", document)
    made.rename(folder / "a.doc")
    waits_and_goes_on(tmp_path, folder, {"indexed": 1}, room=100 << 10)


def test_bundled_loaders_wait_while_the_disk_is_full(tmp_path: Path) -> None:
    """What unpacks, in each way; texts beside it wait as well, and nobody is blamed."""
    folder = tmp_path / "docs"
    folder.mkdir()
    large = random.Random(1).randbytes(12 << 20)
    (folder / "a.zip").write_bytes(archives.zipped({"large.bin": large, "small.txt": "A small one."}))
    (folder / "a.tar.gz").write_bytes(archives.tarred({"large.bin": large}, ".gz"))
    (folder / "a.bin.gz").write_bytes(archives.packed(large, ".gz"))
    (folder / "a.eml").write_bytes(archives.mail("Large", "See below.", attachments={"large.bin": large}))
    for number in range(10):
        (folder / f"b{number}.txt").write_text(f"needs no room, number {number}")
    waits_and_goes_on(tmp_path, folder, {"indexed": 15, "skipped": 4})


def waits_and_goes_on(tmp_path: Path, folder: Path, expected: dict[str, int], room: int = ENOUGH // 2) -> None:
    """Loading waits while there is only so much `room`, and ends as expected once there is more."""
    with small_disk(tmp_path / "disk", str(SIZE)) as disk:
        state = disk / "state"

        async def body(daemon: Daemon) -> None:
            filler = disk / "filler"
            free = os.statvfs(disk)
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_frsize - room)
            work = asyncio.ensure_future(take_in(daemon, folder))
            await until(lambda: daemon.dispatcher.room.trouble)
            assert not work.done()
            filler.unlink()
            summary = await asyncio.wait_for(work, 120)
            assert {key: summary[key] for key in expected} == expected
            assert summary["failures"] == []
            assert daemon.troubles == []

        inside(write_config(state, None, load={"max_strikes": 1}), body)
        assert not any("strike" in event or "interrupted" in event for event in events(state))


def test_a_file_that_fills_the_disk_alone_is_struck(tmp_path: Path) -> None:
    folder = write(tmp_path / "docs", 2 * SIZE >> 20)
    with small_disk(tmp_path / "disk", str(SIZE)) as disk:
        state = disk / "state"

        async def body(daemon: Daemon) -> None:
            summary = await asyncio.wait_for(take_in(daemon, folder), 60)
            assert (summary["indexed"], summary["quarantined"]) == (10, 1)
            assert "it needs more room for scratch files than there is: OSError" in summary["failures"][0]["reason"]
            assert daemon.troubles == []

        inside(write_config(state, None, load={"max_strikes": 1}), body)
        told = [event for event in events(state) if "No space left" in event]
        assert [event.split(":")[0] for event in told] == ["interrupted", "strike 1 of 1"]
