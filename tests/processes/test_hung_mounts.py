"""File systems that stand still, dawdle or fail below a running daemon."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes.daemons import ingestd, left_over, running, write_config
from tests.processes.fuse_folder import FuseFolder, missing, mounted
from tests.processes.watched import Watched, files, held, watching, write, write_sources
from tests.test_hanging import Hang
from tests.test_hanging import hang as hang

reason = missing()
pytestmark = pytest.mark.skipif(reason is not None, reason=reason or "")

LOAD = {"deadline": "3s", "idle_deadline": "3s"}


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[FuseFolder]:
    """A mounted file system with a few files."""
    with mounted(tmp_path / "remote") as folder:
        write(folder.real / "a.txt", "a remote file")
        for number in range(4):
            write(folder.real / f"sub/{number}.txt", f"remote file {number}")
        yield folder


def change(folder: FuseFolder) -> None:
    """What others do there meanwhile, without this machine's knowledge."""
    write(folder.real / "new/b.txt", "made by others")
    write(folder.real / "sub/1.txt", "changed by others")
    (folder.real / "sub/0.txt").unlink()


def replace_loaders(watched: Watched) -> None:
    """Kill every load worker, so that the next file needs one that starts now."""
    for worker in watched.daemon.status()["workers"]:
        if worker["stage"] == "load" and worker["pid"]:
            os.kill(worker["pid"], signal.SIGKILL)


def test_a_hung_root_holds_up_nobody_else(remote: FuseFolder, tmp_path: Path) -> None:
    local, state = tmp_path / "local", tmp_path / "state"
    write(local / "a.txt", "a local file")
    config = write_sources(state, {"remote": remote.point, "local": local}, load=LOAD)
    with watching(config, state) as watched:
        watched.holds(remote.files() | files(local))
        before = held(state)
        remote.hang()
        change(remote)
        watched.warns("remote", "does not answer")
        watched.ingests(local / "b.txt", "written while the mount hung")
        replace_loaders(watched)
        watched.ingests(local / "c.txt", "loaded by a worker that started while the mount hung")
        (local / "a.txt").unlink()
        del before[str(local / "a.txt")]
        watched.until(lambda: held(state) == before | files(local), "the local folder is not followed")
        found = ingestd(config, "search", "--json", "remote file 1")
        assert found.returncode == 0, found.stderr
        assert str(remote.point) in found.stdout
        remote.heal()
        watched.holds(remote.files() | files(local))
        watched.calms()


def test_start_and_stop_while_a_root_hangs(remote: FuseFolder, tmp_path: Path) -> None:
    local, state = tmp_path / "local", tmp_path / "state"
    write(local / "a.txt", "a local file")
    config = write_sources(state, {"remote": remote.point, "local": local}, load=LOAD)
    with watching(config, state) as watched:
        watched.holds(remote.files() | files(local))
        before = held(state)
        remote.hang()
        change(remote)
        watched.warns("remote", "does not answer")
        assert watched.daemon.stop() == 0
        assert held(state) == before
    with watching(config, state) as watched:
        watched.warns("remote", "does not answer")
        watched.ingests(local / "b.txt", "written before the mount answered for the first time")
        assert held(state) == before | files(local)
        remote.heal()
        watched.holds(remote.files() | files(local))
        watched.calms()
        assert watched.daemon.stop() == 0
    deadline = time.monotonic() + 60
    while left_over(state):  # those that waited for the mount are gone too
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_start_while_a_folder_on_a_mount_hangs(remote: FuseFolder, tmp_path: Path) -> None:
    """Then even to open the folder takes for ever, in every worker that tries."""
    local, state = tmp_path / "local", tmp_path / "state"
    write(local / "a.txt", "a local file")
    config = write_sources(state, {"sub": remote.point / "sub", "local": local}, load=LOAD)
    seen = {path: digest for path, digest in remote.files().items() if "/sub/" in path}
    remote.freeze()
    try:
        with watching(config, state) as watched:
            watched.warns("sub", "does not answer")
            watched.ingests(local / "b.txt", "written before the mount answered for the first time")
            watched.holds(files(local))
            remote.thaw()
            watched.holds(seen | files(local))
            watched.calms()
    finally:
        remote.thaw()


def test_a_hung_directory_below_a_root(tmp_path: Path) -> None:
    """Its folder waits for it, and no other one does."""
    root, local, state = tmp_path / "docs", tmp_path / "local", tmp_path / "state"
    write(root / "a.txt", "beside the mount point")
    write(local / "a.txt", "in another folder")
    remote = FuseFolder(tmp_path / "real", root / "net/share", tmp_path / "control")
    write(remote.real / "deep/b.txt", "below the mount point")
    write(remote.real / "deep/c.txt", "also below the mount point")
    config = write_sources(state, {"docs": root, "local": local}, load=LOAD)
    try:
        remote.mount()
        with watching(config, state) as watched:
            watched.holds(files(root, local))
            before = held(state)
            remote.hang("/deep")
            watched.warns("docs", "does not answer")
            watched.ingests(local / "b.txt", "written while the mount hung")
            replace_loaders(watched)
            watched.ingests(local / "c.txt", "loaded by a worker that started while the mount hung")
            assert held(state) == before | files(local)
            write(root / "d.txt", "written beside the mount point")
            write(remote.real / "deep/e.txt", "made by others")
            (remote.real / "deep/b.txt").unlink()
            remote.heal()
            watched.equals(root, local)
            watched.calms()
    finally:
        remote.unmount()


def test_files_that_cannot_be_read_hold_up_nobody_else(remote: FuseFolder, tmp_path: Path) -> None:
    """More of them than there are load workers to lose: each that reads one can only be abandoned."""
    local, state = tmp_path / "local", tmp_path / "state"
    write(local / "a.txt", "a local file")
    config = write_sources(state, {"remote": remote.point, "local": local}, load=LOAD)
    with watching(config, state) as watched:
        watched.holds(remote.files() | files(local))
        remote.stall()
        for number in range(12):
            write(remote.real / f"late/{number}.txt", f"late file {number}")
        for number in range(8):
            watched.ingests(local / f"{number}.txt", f"local file {number}")
        remote.heal()
        watched.until(lambda: not watched.daemon.status()["files"]["running"], "it still waits")
        # What failed meanwhile would be tried again by itself, in minutes.
        assert ingestd(config, "retry", "--all").returncode == 0
        watched.holds(remote.files() | files(local))
        failures = ingestd(config, "failures", "--json")
        assert failures.stdout.strip() == "[]"


def test_a_listing_that_fails_halfway(remote: FuseFolder, tmp_path: Path) -> None:
    local, state = tmp_path / "local", tmp_path / "state"
    write(local / "a.txt", "a local file")
    config = write_sources(state, {"remote": remote.point, "local": local}, load=LOAD)
    with watching(config, state) as watched:
        watched.holds(remote.files() | files(local))
        before = held(state)
        remote.fail_halfway("/sub")
        change(remote)
        watched.warns("source remote", str(remote.point / "sub"), "Input/output error", "kept")
        watched.ingests(local / "b.txt", "written meanwhile")
        # What lies beside the directory is followed, what lies in it is kept.
        made = str(remote.point / "new/b.txt")
        new = {made: remote.files()[made]}
        watched.holds(before | files(local) | new)
        remote.fail_halfway("/")
        (remote.real / "a.txt").unlink()
        watched.warns("source remote", str(remote.point), "Input/output error", "kept")
        watched.ingests(local / "c.txt", "written meanwhile")
        watched.holds(before | files(local) | new)
        remote.heal()
        watched.holds(remote.files() | files(local))
        watched.calms()


@pytest.mark.parametrize("where", ["/", "/sub"])
def test_permission_that_is_lost_and_comes_back(remote: FuseFolder, tmp_path: Path, where: str) -> None:
    local, state = tmp_path / "local", tmp_path / "state"
    write(local / "a.txt", "a local file")
    config = write_sources(state, {"remote": remote.point, "local": local}, load=LOAD)
    with watching(config, state) as watched:
        watched.holds(remote.files() | files(local))
        before = held(state)
        remote.fail(errno.EACCES, where)
        (remote.real / "sub/0.txt").unlink()
        write(remote.real / "sub/1.txt", "changed behind a closed door")
        watched.warns("source remote", str(remote.point / where.strip("/")), "Permission denied", "kept")
        watched.ingests(local / "b.txt", "written meanwhile")
        watched.holds(before | files(local))
        remote.heal()
        watched.holds(remote.files() | files(local))
        watched.calms()


def test_a_file_system_that_crashes_and_is_mounted_again(remote: FuseFolder, tmp_path: Path) -> None:
    local, state = tmp_path / "local", tmp_path / "state"
    write(local / "a.txt", "a local file")
    config = write_sources(state, {"remote": remote.point, "local": local}, load=LOAD)
    with watching(config, state) as watched:
        watched.holds(remote.files() | files(local))
        before = held(state)
        remote.crash()
        change(remote)
        watched.warns("source remote", str(remote.point), "not connected")
        watched.ingests(local / "b.txt", "written meanwhile")
        remote.unmount()  # now the empty directory below it is seen
        watched.warns("source remote", str(remote.point), "not mounted?")
        watched.ingests(local / "c.txt", "written meanwhile")
        assert held(state) == before | files(local)
        remote.mount()
        watched.holds(remote.files() | files(local))
        watched.calms()
        # Gone for a moment, and changed in it.
        remote.crash()
        remote.unmount()
        write(remote.real / "sub/9.txt", "made in that moment")
        (remote.real / "sub/2.txt").unlink()
        remote.mount()
        watched.holds(remote.files() | files(local))
        watched.calms()


def test_a_slow_file_system_holds_up_nobody_else(remote: FuseFolder, tmp_path: Path) -> None:
    local, state = tmp_path / "local", tmp_path / "state"
    for number in range(10):
        write(remote.real / f"many/{number}.txt", f"one of many: {number}")
    write(local / "a.txt", "a local file")
    remote.dawdle(0.01)
    config = write_sources(state, {"remote": remote.point, "local": local})
    with watching(config, state) as watched:
        watched.ingests(local / "b.txt", "written while the other folder is looked at")
        watched.holds(remote.files() | files(local))
        change(remote)
        watched.holds(remote.files() | files(local))
        assert not watched.warnings


@pytest.mark.parametrize("swallow", [False, True], ids=["killable", "state D"])
def test_a_daemon_starts_works_and_stops_beside_a_hung_mount(tmp_path: Path, hang: Hang, swallow: bool) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "one.txt").write_text("wombat")
    mount = hang(tmp_path / "nas", swallow=swallow)
    state = tmp_path / "state"
    config = write_config(state, docs)
    config.write_text(f'{config.read_text()}[[watch]]\nname = "nas"\ndirectory = "{mount.place}"\nrescan = "1s"\n')
    with running(config, state) as daemon:
        deadline = time.monotonic() + 120
        while (status := daemon.status())["files"]["indexed"] < 1 or not status["ready"]:
            assert time.monotonic() < deadline, daemon.tail()
            time.sleep(0.2)
        while not any("nas: the file system does not answer" in text for text in daemon.status()["warnings"]):
            assert time.monotonic() < deadline, daemon.tail()
            time.sleep(0.2)
        assert daemon.stop(100) == 0, daemon.tail()
        mount.let_go()
