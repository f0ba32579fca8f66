"""A worker that survives SIGKILL is named, abandoned and replaced, and its source waits until it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestd import process, supervisor
from ingestd.daemon import Daemon
from tests import mounting
from tests.mounting import unmounted_after
from tests.processes.daemons import HOSTILE, left_over, write_config
from tests.processes.inside import events, inside, until

LIMITS = {"workers": 1, "deadline": "3s", "idle_deadline": "1s", "sandbox": "off"}


class Disk:
    """A file system in a file, mounted, that can be frozen: who writes to it then waits in state D."""

    def __init__(self, point: Path) -> None:
        self.point = point

    def freeze(self) -> None:
        subprocess.run(["fsfreeze", "--freeze", str(self.point)], check=True)

    def thaw(self) -> None:
        subprocess.run(["fsfreeze", "--unfreeze", str(self.point)], check=False, capture_output=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    point = tmp_path / "disk"
    disk = Disk(point)
    with unmounted_after(point):
        mounting.Disk(tmp_path / "image", 32 << 20).mount(point)
        try:
            yield disk
        finally:
            disk.thaw()


def test_it_is_abandoned_and_its_source_waits(tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "ABANDON_AFTER", 1.0)
    monkeypatch.syspath_prepend(str(HOSTILE))
    monkeypatch.setenv("PYTHONPATH", str(HOSTILE), prepend=os.pathsep)
    local, state = tmp_path / "docs", tmp_path / "state"
    local.mkdir()
    (disk.point / "a.hostile").write_text("write_beside\nit could be written after all")
    (disk.point / "b.txt").write_text("on the same disk")
    config = write_config(state, local, load=LIMITS)
    with config.open("a") as file:
        file.write(f'[[watch]]\nname = "disk"\ndirectory = {json.dumps(str(disk.point))}\nsettle = "200ms"\n')

    async def body(daemon: Daemon) -> None:
        async def indexed() -> set[str]:
            found = await daemon.journal.read(
                lambda db: db.execute("SELECT path FROM documents WHERE state = 'indexed'").fetchall()
            )
            return {os.fsdecode(path) for (path,) in found}

        with contextlib.ExitStack() as undo:
            undo.callback(disk.thaw)
            disk.freeze()
            await until(lambda: "disk" in daemon.dispatcher.paused)
            await until(lambda: any(process.is_stuck(pid) for pid in supervisor.abandoned))
            (stuck,) = [pid for pid in supervisor.abandoned if process.is_alive(pid)]
            (warning,) = [warning for warning in daemon.troubles if "source disk is paused" in warning]
            assert f"{disk.point}/a.hostile does not answer" in warning
            assert f"worker {stuck}, which waits for it, survives SIGKILL" in warning
            # Others go on, in a worker that took its place.
            (local / "c.txt").write_text("on another disk")
            while "c.txt" not in await indexed():
                await asyncio.sleep(0.1)
            assert "disk" in daemon.dispatcher.paused
        await until(lambda: not process.is_alive(stuck))
        while await indexed() < {"a.hostile", "b.txt", "c.txt"}:
            await asyncio.sleep(0.1)
        assert daemon.troubles == []

    inside(config, body, watching=True)
    assert not any("strike" in event for event in events(state))
    assert not left_over(state)
