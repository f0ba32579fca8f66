"""A file system that does not answer, really mounted: it is named, and it stops nobody but its own watch worker."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from ingestd import process, supervisor
from ingestd.config import WatchTable
from ingestd.watching import SILENT, Silence, group_of
from tests.test_watching import Desk, until, with_desk

LIBC: Final = ctypes.CDLL(None, use_errno=True)
FORCE, DETACH = 1, 2


class Unanswered:
    """A FUSE mount that nobody serves: whoever asks it waits, until it is let go. With `swallow` each question is
    taken and not answered: then SIGKILL does not reach who waits (state D)."""

    def __init__(self, place: Path, *, swallow: bool = False) -> None:
        self.place = place
        try:
            self._descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            pytest.skip(f"cannot be had: FUSE: {error.strerror}")
        place.mkdir(exist_ok=True)
        options = b"fd=%d,rootmode=40000,user_id=0,group_id=0" % self._descriptor
        if LIBC.mount(b"nobody", os.fsencode(place), b"fuse", 0, options):
            os.close(self._descriptor)
            pytest.skip(f"cannot be had: a mount: {os.strerror(ctypes.get_errno())}")
        self._swallowing: threading.Thread | None = None
        if swallow:
            head = os.read(self._descriptor, 1 << 17)  # length, operation (26: the greeting), number
            assert struct.unpack_from("II", head) == (len(head), 26)
            number = struct.unpack_from("Q", head, 8)[0]
            answer = struct.pack("IIIIHHII", 7, 31, 1 << 16, 0, 16, 12, 1 << 16, 1) + bytes(36)
            os.write(self._descriptor, struct.pack("IiQ", 16 + len(answer), 0, number) + answer)
            self._swallowing = threading.Thread(target=self._swallow)
            self._swallowing.start()

    def _swallow(self) -> None:
        with contextlib.suppress(OSError):  # the mount is gone
            while os.read(self._descriptor, 1 << 17):
                pass

    def let_go(self) -> None:
        """Whoever waits gets an error, and the mount is gone."""
        if self._descriptor < 0:
            return
        LIBC.umount2(os.fsencode(self.place), FORCE)  # ends all waiting, though the mount may stay
        LIBC.umount2(os.fsencode(self.place), DETACH)
        if self._swallowing is not None:
            self._swallowing.join(60)
        os.close(self._descriptor)
        self._descriptor = -1


Hang = Callable[..., Unanswered]


@pytest.fixture
def hang() -> Iterator[Hang]:
    made: list[Unanswered] = []

    def make(place: Path, *, swallow: bool = False) -> Unanswered:
        made.append(Unanswered(place, swallow=swallow))
        return made[-1]

    yield make
    for mount in made:
        mount.let_go()


def test_a_source_on_a_hung_mount_is_named_and_the_others_go_on(
    tmp_path: Path, hang: Hang, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_WAIT", 600.0)  # asking it to stop would take longer than this test may
    local = tmp_path / "local"
    local.mkdir()
    (local / "one.txt").write_text("text")
    mount = hang(tmp_path / "nas")
    tables = [
        WatchTable(name="local", directory=str(local), settle=0.1),
        WatchTable(name="nas", directory=str(mount.place), settle=0.1),
    ]

    async def body(desk: Desk) -> None:
        await desk.watching.follow(tables)

        async def named() -> bool:
            return any("does not answer" in text for text in desk.watching.warnings)

        await until(named)
        (warning,) = desk.watching.warnings
        assert warning.startswith(f"source nas: the file system does not answer: waiting for {mount.place} since 20")

        async def followed() -> bool:
            return await desk.files() == {"local": 1} and desk.watching.ready

        await until(followed)
        (local / "two.txt").write_text("text")

        async def still_followed() -> bool:
            return await desk.files() == {"local": 2}

        await until(still_followed)
        assert len(desk.watching.workers) == 2
        await asyncio.wait_for(desk.watching.close(), 60)
        assert desk.watching.workers == []

    with_desk(tmp_path, tables, body)


def test_a_hung_mount_behind_a_link_stops_no_other_source_of_the_same_worker(tmp_path: Path, hang: Hang) -> None:
    local = tmp_path / "local"
    local.mkdir()
    (local / "one.txt").write_text("text")
    mount = hang(tmp_path / "nas")
    (tmp_path / "link").symlink_to(mount.place)
    tables = [
        WatchTable(name=name, directory=str(tmp_path / name), settle=0.1, rescan=1.0) for name in ("link", "local")
    ]

    async def body(desk: Desk) -> None:
        await desk.watching.follow(tables)
        assert len(desk.watching.pools) == 1

        async def followed() -> bool:
            return await desk.files() == {"local": 1} and desk.watching.ready

        await until(followed)
        (warning,) = desk.watching.warnings
        assert warning.startswith(f"source link: the file system does not answer: waiting for {tmp_path}/link since ")
        workers = set(desk.watching.workers)
        await desk.watching.follow(tables)
        assert set(desk.watching.workers) == workers, "what did not change is left alone"
        mount.let_go()
        (mount.place / "two.txt").write_text("text")

        async def both() -> bool:
            return await desk.files() == {"local": 1, "link": 1} and not desk.watching.warnings

        await until(both)
        (local / "three.txt").write_text("text")

        async def still_followed() -> bool:
            return await desk.files() == {"local": 2, "link": 1}

        await until(still_followed)

    with_desk(tmp_path, tables, body)


def test_an_ingest_of_what_hangs_does_not_hold_up_the_next(tmp_path: Path, hang: Hang) -> None:
    local = tmp_path / "local"
    local.mkdir()
    (local / "one.txt").write_text("text")
    mount = hang(tmp_path / "nas")
    table = WatchTable(name="ingest", directory="/", settle=0.0)

    async def body(desk: Desk) -> None:
        hung = asyncio.ensure_future(desk.watching.scan(table, [os.fsencode(mount.place).lstrip(b"/")], 1))

        async def named() -> bool:
            return any("does not answer" in text for text in desk.watching.warnings)

        await until(named)
        scanned = await asyncio.wait_for(desk.watching.scan(table, [os.fsencode(local).lstrip(b"/")], 2), 60)
        assert (scanned.files, scanned.error) == (1, None)
        assert not hung.done()
        (worker,) = [worker for worker in desk.watching.workers if str(mount.place) in worker.progress(1000)[1]]
        again = asyncio.ensure_future(desk.watching.scan(table, [os.fsencode(mount.place).lstrip(b"/")], 3))
        hung.cancel()
        await asyncio.wait({worker.died}, timeout=60)
        assert worker.died.result().reason == "nobody waits for it any more"
        mount.let_go()
        assert (await asyncio.wait_for(again, 60)).files == 0

    with_desk(tmp_path, [], body)


def test_a_worker_that_survives_sigkill_holds_up_no_stop_and_no_other_stage(tmp_path: Path, hang: Hang) -> None:
    mount = hang(tmp_path / "nas", swallow=True)
    tables = [WatchTable(name="nas", directory=str(mount.place), settle=0.1)]

    async def body(desk: Desk) -> None:
        await desk.watching.follow(tables)

        async def named() -> bool:
            return any("does not answer" in text for text in desk.watching.warnings)

        await until(named)
        (worker,) = desk.watching.workers
        await asyncio.wait_for(desk.watching.close(), 60)
        assert process.is_alive(worker.pid), "this is not what was to be tested"
        assert worker.survivors == [worker.pid]
        assert worker.pid not in supervisor.abandoned
        mount.let_go()

        async def gone() -> bool:
            return not process.is_alive(worker.pid)

        await until(gone)
        worker._process.wait(60)

    with_desk(tmp_path, tables, body)


def test_a_worker_that_survives_sigkill_has_no_successor_until_it_is_gone(tmp_path: Path, hang: Hang) -> None:
    mount = hang(tmp_path / "nas", swallow=True)
    tables = [WatchTable(name="nas", directory=str(mount.place), settle=0.1, rescan=1.0)]

    async def body(desk: Desk) -> None:
        await desk.watching.follow(tables)

        async def named() -> bool:
            return any("does not answer" in text for text in desk.watching.warnings)

        await until(named)
        (worker,) = desk.watching.workers
        worker.kill("protocol", "it is to die")

        async def abandoned() -> bool:
            return any("survives SIGKILL" in text for text in desk.watching.warnings)

        await until(abandoned)
        assert desk.watching.warnings == [
            f"source nas: its worker {worker.pid} survives SIGKILL; another one starts when it is gone"
        ]
        assert process.is_alive(worker.pid)
        assert worker.pid not in supervisor.abandoned
        (pool,) = desk.watching.pools
        assert pool.workers == set()
        mount.let_go()
        (mount.place / "a.txt").write_text("text")

        async def back() -> bool:
            return await desk.files() == {"nas": 1} and not desk.watching.warnings

        await until(back)
        assert desk.watching.workers[0] is not worker

    with_desk(tmp_path, tables, body)


def test_a_hung_mount_below_a_source_stops_that_source_alone_until_it_is_gone(tmp_path: Path, hang: Hang) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "z.txt").write_text("text")
    mount = hang(one / "nas")
    tables = [WatchTable(name=folder.name, directory=str(folder), settle=0.1, rescan=1.0) for folder in (one, other)]

    async def body(desk: Desk) -> None:
        await desk.watching.follow(tables)

        async def named() -> bool:
            return any("does not answer" in text for text in desk.watching.warnings)

        await until(named)
        (warning,) = desk.watching.warnings
        assert warning.startswith(f"source one: the file system does not answer: waiting for {mount.place}/ ")

        async def followed() -> bool:
            return await desk.files() == {"other": 1}

        await until(followed)
        mount.let_go()

        async def back() -> bool:
            return await desk.files() == {"one": 1, "other": 1} and not desk.watching.warnings

        await until(back)

    with_desk(tmp_path, tables, body)


def test_sources_with_mounts_below_them_share_no_worker() -> None:
    points = [b"/data/one/nas", b"/data", b"/"]
    assert group_of(b"/data/one", points) != group_of(b"/data/two", points) == group_of(b"/data/three", points)
    assert group_of(b"/data/one/nas/deep", points) == b"/data/one/nas"
    assert group_of(b"/data/one/nas", points) == b"/data/one/nas"
    assert group_of(b"/data/on", points) == b"/data"


def test_only_one_answer_that_takes_long_is_silence() -> None:
    silence = Silence()
    now = 100.0
    for _ in range(60):  # it goes on
        now += 1
        assert not silence.look(now, int(now), "/a", 0.0)
    for _ in range(60):  # it waits for work
        now += 1
        assert not silence.look(now, 160, "", 0.0)
    for turn in range(60):  # it is at work without a file system, or waits for a processor
        now += 1
        assert not silence.look(now, 170, "/a", turn * 1.0)
    assert not silence.look(now + 3600, 171, "/a", 59.0)
    assert not silence.look(now + 7200, 171, "/a", 59.0)  # nobody looked meanwhile
    now += 7200
    looks = 0
    while not silence.look(now, 171, "/a", 59.0):
        now += 1
        looks += 1
        assert looks <= SILENT
    assert looks >= SILENT - 3
    assert not silence.look(now + 1, 172, "/a", 59.0)
