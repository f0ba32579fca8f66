"""Where the watch worker relies on events, and where it does not: by real mounts, limits and changes."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ingestd.messages import Stop
from ingestd.messages.watch import Changes, Scanned, WatchWarning
from ingestd.watch import modes, source
from ingestd.watch.observe import SELF_TEST
from tests import mounting
from tests.test_watch import Supervisor, write
from tests.test_watch import supervisor as supervisor

READ_ONLY, REMOUNT = 1, 32
Mount = Callable[..., Path]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Mounts something; all is unmounted at the end."""
    with contextlib.ExitStack() as undo:

        def make(place: Path, kind: str = "ramfs", origin: Path | str = "none", flags: int = 0) -> Path:
            mounting.mount(origin, place, kind, flags)
            undo.callback(mounting.detach, place)
            return place

        yield make


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a real server would send is not to be had here: ramfs stands for a type that others change."""
    monkeypatch.setattr(modes, "NETWORK_TYPES", frozenset({"ramfs"}))
    monkeypatch.setattr(modes, "LOCAL_TYPES", modes.LOCAL_TYPES - {"ramfs"})
    monkeypatch.setattr(source, "POLL", 0.3)


def watches() -> int:
    """inotify watches of this process, in which the worker is a thread."""
    count = 0
    for entry in os.scandir("/proc/self/fd"):
        try:
            if os.readlink(entry.path) == "anon_inode:inotify":
                count += Path(f"/proc/self/fdinfo/{entry.name}").read_text().count("inotify wd")
        except OSError:
            continue
    return count


@pytest.mark.usefixtures("network")
def test_a_network_mount_below_a_local_folder_is_compared_and_the_rest_is_followed(
    supervisor: Supervisor, mount: Mount
) -> None:
    write(supervisor.root / "here/a.txt")
    nas = mount(supervisor.root / "nas")
    for number in range(50):
        write(nas / f"{number}/b.txt")
    assert supervisor.watch().mode == "inotify, poll below nas"
    supervisor.until(supervisor.equal)
    assert watches() == 2
    supervisor.frames.clear()
    write(supervisor.root / "here/fresh.txt")
    assert supervisor.expect("here/fresh.txt")["here/fresh.txt"].fresh
    write(nas / "7/late.txt")
    assert not supervisor.expect("nas/7/late.txt")["nas/7/late.txt"].fresh
    (nas / "7/late.txt").unlink()
    supervisor.expect(gone=("nas/7/late.txt",))
    assert not [frame for frame in supervisor.frames if isinstance(frame, Scanned)], "all of it was compared"
    mounting.detach(nas)
    assert supervisor.until(Scanned).mode == "inotify", "a mount that went is noticed"
    assert "not mounted?" in supervisor.warnings()
    assert not supervisor.reported()
    mount(nas)
    for number in range(50):
        write(nas / f"{number}/b.txt")
    supervisor.until(lambda: isinstance(f := supervisor.frames[-1], WatchWarning) and f.over)
    supervisor.until(supervisor.equal)


@pytest.mark.usefixtures("network")
def test_a_source_on_a_network_mount_is_compared_as_a_whole(supervisor: Supervisor, mount: Mount) -> None:
    mount(supervisor.root)
    write(supervisor.root / "a.txt")
    assert supervisor.watch().mode == "poll"
    supervisor.until(supervisor.equal)
    write(supervisor.root / "b.txt")
    supervisor.until(supervisor.equal)
    assert watches() == 0


@pytest.mark.usefixtures("network")
def test_the_configuration_has_the_last_word(supervisor: Supervisor, mount: Mount) -> None:
    nas = mount(supervisor.root / "nas")
    assert supervisor.watch(mode="inotify").mode == "inotify"
    write(nas / "a.txt")
    assert supervisor.expect("nas/a.txt")["nas/a.txt"].fresh


def test_a_type_that_says_nothing_is_tried(
    supervisor: Supervisor, mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modes, "LOCAL_TYPES", modes.LOCAL_TYPES - {"ramfs"})
    monkeypatch.setattr(source, "POLL", 0.3)
    before = supervisor.root.stat().st_mtime_ns
    mount(supervisor.root / "odd")
    silent = mount(supervisor.root / "silent")
    left = silent / os.fsdecode(SELF_TEST)
    left.touch()  # by a worker that was killed in the middle
    mount(silent, "none", flags=REMOUNT | READ_ONLY)
    (supervisor.root / "here").mkdir()
    touched = supervisor.root.stat().st_mtime_ns
    assert touched != before
    assert supervisor.watch().mode == "inotify, poll below silent"
    assert (supervisor.root.stat().st_mtime_ns, os.listdir(supervisor.root / "odd")) == (touched, [])
    write(supervisor.root / "odd/a.txt")
    assert supervisor.expect("odd/a.txt")["odd/a.txt"].fresh
    assert watches() == 3
    mount(silent, "none", flags=REMOUNT)
    supervisor.until(lambda: isinstance(f := supervisor.frames[-1], Scanned) and f.mode == "inotify")
    assert not left.exists()
    write(silent / "b.txt")
    assert supervisor.expect("silent/b.txt")["silent/b.txt"].fresh


def test_a_source_that_can_only_be_read_is_polled_where_its_type_says_nothing(supervisor: Supervisor) -> None:
    scanned = supervisor.watch(root=b"/proc/self/net", include=["nothing"])
    assert (scanned.mode, scanned.error) == ("poll", None)


@pytest.mark.parametrize(("limit", "few"), [("watches", 3), ("instances", 0)])
def test_events_are_tried_again_when_the_limit_was_raised(supervisor: Supervisor, limit: str, few: int) -> None:
    for number in range(5):
        write(supervisor.root / f"{number}/a.txt")
    supervisor.stop()
    process = supervisor.start_limited(limit, few)
    try:
        supervisor.watch()
        supervisor.until(lambda: isinstance(f := supervisor.frames[-1], Scanned) and f.mode == "poll", 60)
        (warning,) = [frame for frame in supervisor.frames if isinstance(frame, WatchWarning)]
        process.send_signal(signal.SIGUSR1)
        over = supervisor.until(WatchWarning, 60)
        assert (over.reason, over.over) == (warning.reason, True)
        supervisor.until(lambda: isinstance(f := supervisor.frames[-1], Scanned) and f.mode == "inotify", 60)
        supervisor.frames.clear()
        write(supervisor.root / "3/later.txt")
        supervisor.until(lambda: "3/later.txt" in supervisor.reported(), 60)
        assert supervisor.reported()["3/later.txt"].fresh
    finally:
        supervisor.channel.send(Stop())
        assert process.wait(60) == 0


def test_a_directory_that_is_there_twice_is_followed_at_both_places(supervisor: Supervisor, mount: Mount) -> None:
    write(supervisor.root / "a/deep/old.txt")
    mount(supervisor.root / "b", "none", supervisor.root / "a", mounting.MS_BIND)
    supervisor.watch()
    supervisor.expect("a/deep/old.txt", "b/deep/old.txt")
    write(supervisor.root / "b/deep/new.txt")
    changes = supervisor.expect("a/deep/new.txt", "b/deep/new.txt")
    assert all(change.fresh for change in changes.values())
    (supervisor.root / "a/deep").rename(supervisor.root / "a/moved")
    supervisor.until(supervisor.equal)
    supervisor.frames.clear()
    (supervisor.root / "a/moved/old.txt").unlink()
    supervisor.expect(gone=("a/moved/old.txt", "b/moved/old.txt"))
    assert not [frame for frame in supervisor.quiet() if isinstance(frame, Changes)]
    assert watches() == 3
    assert stat.S_ISDIR((supervisor.root / "b/moved").stat().st_mode)
