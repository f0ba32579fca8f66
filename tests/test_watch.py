"""The watch worker over a real socket pair, on real directories, against a real journal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from ingestd import journal, watch
from ingestd.channel import Channel, pair
from ingestd.config import DEFAULT_EXCLUDES
from ingestd.messages import Ready, Start, Stop
from ingestd.messages.load import Stat
from ingestd.messages.stages import FROM_WORKER, TO_WORKER
from ingestd.messages.watch import (
    Change,
    Changes,
    ChangesTaken,
    Rescan,
    Scanned,
    Settling,
    Unwatch,
    WatchSource,
    WatchWarning,
)
from ingestd.mounts import mount_of
from ingestd.paths import open_long
from ingestd.watch.modes import LOCAL_TYPES
from ingestd.watch.rules import Rules
from ingestd.watch.scan import JournalReader, UnreadableError
from tests.mounting import mount, unmount, unmounted_after
from tests.test_paths import deep, put

T = TypeVar("T")
SETTLE = 0.2
QUEUED = Path("/proc/sys/fs/inotify/max_queued_events")
root_only = pytest.mark.skipif(
    os.geteuid() != 0, reason="cannot be had: root, who alone may mount and set the limits of inotify"
)


LIMITED = """
import ctypes, pathlib, signal, socket, sys
from ingestd import watch
from ingestd.watch import events, source
from ingestd.channel import Channel
from ingestd.messages import Start
from ingestd.messages.stages import TO_WORKER
descriptor, journal, limit, value = sys.argv[1:]
CLONE_NEWUSER = 0x10000000
if ctypes.CDLL(None).unshare(CLONE_NEWUSER):
    sys.exit(77)
setting = pathlib.Path(f"/proc/sys/user/max_inotify_{limit}")
setting.write_text(value)
signal.signal(signal.SIGUSR1, lambda *_: setting.write_text("1000"))
source.POLL = 0.5
events.LIMITED = (0.5, 0.5)
start = Start(stage="watch", version="", sys_path=[], scratch="", settings={"journal": journal})
watch.serve(Channel(socket.socket(fileno=int(descriptor)), TO_WORKER), start)
"""


class Supervisor:
    """The other end of the worker: takes its frames, and journals what it reports."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "folder"
        self.root.mkdir()
        self.state = tmp_path / "state"
        self.state.mkdir()
        self.path = self.state / "journal.sqlite"
        self.db = journal.connect(self.path)
        self.frames: list[Any] = []
        self.acknowledge = True
        self.job = 1
        self.start()

    def start(self) -> None:
        mine, theirs = pair()
        self.channel: Channel[Any] = Channel(mine, FROM_WORKER["watch"])
        self._theirs: Channel[Any] = Channel(theirs, TO_WORKER)
        settings = {"journal": str(self.path)}
        start = Start(stage="watch", version="", sys_path=[], scratch="", settings=settings)
        self.thread = threading.Thread(target=watch.serve, args=(self._theirs, start))
        self.thread.start()
        self.until(Ready)

    def start_limited(self, limit: str, value: int) -> subprocess.Popen[bytes]:
        """A worker in a user namespace of its own, whose inotify limits are nobody else's."""
        mine, theirs = pair()
        self.channel = Channel(mine, FROM_WORKER["watch"])
        arguments = [str(theirs.fileno()), str(self.path), limit, str(value)]
        process = subprocess.Popen(
            [sys.executable, "-c", LIMITED, *arguments], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()
        if not select.select([mine], [], [], 10)[0] or process.poll() == 77:
            process.wait(10)
            pytest.skip("cannot be had: a user namespace")
        self.until(Ready)
        return process

    def watch(self, **options: Any) -> Scanned:
        """Watch the folder, and wait for the scan at the start."""
        values = {"settle": SETTLE, "exclude": list(DEFAULT_EXCLUDES), "rescan": 600.0, **options}
        values.setdefault("root", os.fsencode(self.root))
        self.channel.send(WatchSource(job=self.job, source="docs", **values))
        return self.until(Scanned)

    def batch(self, *below: str, **options: Any) -> tuple[Scanned, dict[str, Change]]:
        """Everything that a scan with an end reports."""
        self.job += 1
        self.frames.clear()
        scanned = self.watch(once=True, below=[os.fsencode(path) for path in below], **options)
        return scanned, self.reported()

    def receive(self, timeout: float) -> Any:
        if not select.select([self.channel], [], [], timeout)[0]:
            return None
        frame, _ = self.channel.receive()
        self.frames.append(frame)
        if isinstance(frame, Changes) and self.acknowledge:
            self.take(frame)
        return frame

    def take(self, frame: Changes) -> None:
        for change in frame.changes:
            self.db.execute("DELETE FROM documents WHERE source = 'docs' AND path = ?", (change.path,))
            if change.stat is not None:
                self.put(change.path, change.stat)
        self.channel.send(ChangesTaken(job=frame.job, serial=frame.serial))

    def put(self, path: bytes, stat: Stat, state: str = "indexed", gone: int = 0) -> None:
        self.db.execute(
            "INSERT INTO documents(source, path, device, inode, size, mtime_ns, ctime_ns, state, gone)"
            " VALUES ('docs', ?, ?, ?, ?, ?, ?, ?, ?)",
            (path, stat.device, stat.inode, stat.size, stat.mtime_ns, stat.ctime_ns, state, gone),
        )

    def until(self, kind: type[T] | Callable[[], bool], timeout: float = 60.0) -> T:
        """The next frame of a kind, or any frame after which something holds."""
        end = time.monotonic() + timeout
        while True:
            frame = self.receive(max(0.0, end - time.monotonic()))
            if frame is None:
                raise AssertionError(f"nothing in time; so far {self.frames}")
            if isinstance(frame, kind) if isinstance(kind, type) else kind():
                return frame  # type: ignore[no-any-return]

    def quiet(self, seconds: float = 2.5 * SETTLE) -> list[Any]:
        """What comes in a while."""
        found = []
        end = time.monotonic() + seconds
        while (frame := self.receive(max(0.0, end - time.monotonic()))) is not None:
            found.append(frame)
        return found

    def reported(self) -> dict[str, Change]:
        """The last change of each path in all frames so far."""
        return {
            os.fsdecode(change.path): change
            for frame in self.frames
            if isinstance(frame, Changes)
            for change in frame.changes
        }

    def expect(self, *present: str, gone: tuple[str, ...] = ()) -> dict[str, Change]:
        """Wait until just these paths were reported like that since the last `expect`."""
        wanted = dict.fromkeys(present, True) | dict.fromkeys(gone, False)

        def shapes() -> dict[str, bool]:
            return {path: change.stat is not None for path, change in self.reported().items()}

        if shapes() != wanted:
            self.until(lambda: shapes() == wanted)
        found = self.reported()
        self.frames.clear()
        return found

    def equal(self) -> bool:
        """The journal has what the folder has."""
        return self.journaled() == self.folder()

    def journaled(self) -> set[str]:
        return {os.fsdecode(path) for (path,) in self.db.execute("SELECT path FROM documents WHERE gone = 0")}

    def stats(self) -> dict[str, tuple[int, ...]]:
        return {
            os.fsdecode(path): tuple(rest)
            for path, *rest in self.db.execute("SELECT path, inode, size, mtime_ns, ctime_ns FROM documents")
        }

    def folder(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file()}

    def warnings(self) -> str:
        return "\n".join(frame.reason for frame in self.frames if isinstance(frame, WatchWarning))

    def stop(self) -> None:
        try:
            self.channel.send(Stop())
        except OSError:
            pass
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.channel.close()
        self._theirs.close()


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    yield supervisor
    supervisor.stop()
    supervisor.db.close()


def write(path: Path, text: str = "text", age: float = 100.0) -> Path:
    """A file that was last changed a while ago by its mtime; its ctime is always now."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time.time() - age,) * 2)
    return path


# --- following the folder ---------------------------------------------------------------------------------------


def test_the_start_scan_reports_what_differs_and_a_second_one_nothing(supervisor: Supervisor) -> None:
    write(supervisor.root / "a.txt")
    write(supervisor.root / "b/c.txt")
    (supervisor.root / "empty").touch()
    scanned = supervisor.watch()
    assert (scanned.files, scanned.unchanged, scanned.watching, scanned.mode) == (3, 0, True, "inotify")
    changes = supervisor.expect("a.txt", "b/c.txt", "empty")
    assert not any(change.fresh for change in changes.values())
    status = (supervisor.root / "a.txt").stat()
    told = changes["a.txt"].stat
    assert told is not None
    assert told == Stat(told.device, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    supervisor.channel.send(Rescan(job=1))
    scanned = supervisor.until(Scanned)
    assert (scanned.files, scanned.unchanged, scanned.error) == (3, 3, None)
    (supervisor.root / "a.txt").open("a").close()  # an event, and no difference
    assert not [frame for frame in supervisor.quiet() if isinstance(frame, Changes)]


def test_files_created_appended_renamed_and_deleted_are_followed(supervisor: Supervisor) -> None:
    supervisor.watch()
    with (supervisor.root / "new.txt").open("w") as file:
        file.write("one")
    first = supervisor.expect("new.txt")["new.txt"]
    assert first.fresh
    with (supervisor.root / "new.txt").open("a") as file:
        file.write("two")
        file.flush()
        second = supervisor.expect("new.txt")["new.txt"]  # without a close
    assert first.stat is not None
    assert second.stat is not None
    assert (first.stat.size, second.stat.size) == (3, 6)
    (supervisor.root / "new.txt").rename(supervisor.root / "other.txt")
    supervisor.expect("other.txt", gone=("new.txt",))
    (supervisor.root / "other.txt").unlink()
    supervisor.expect(gone=("other.txt",))


def test_a_renamed_file_is_reported_at_its_new_place_first(supervisor: Supervisor) -> None:
    write(supervisor.root / "old.txt")
    supervisor.watch(settle=2.0)
    supervisor.expect("old.txt")
    (supervisor.root / "old.txt").rename(supervisor.root / "new.txt")
    supervisor.until(lambda: len(supervisor.reported()) == 2)
    assert list(supervisor.reported()) == ["new.txt", "old.txt"]


def test_a_file_that_is_being_written_is_not_reported_before_it_is_unchanged(supervisor: Supervisor) -> None:
    supervisor.watch(settle=1.0)
    with (supervisor.root / "slow.txt").open("w") as file:
        for _ in range(6):
            file.write("line\n")
            file.flush()
            assert not [frame for frame in supervisor.quiet(0.25) if isinstance(frame, Changes)]
        change = supervisor.expect("slow.txt")["slow.txt"]
    assert change.stat is not None
    assert change.stat.size == 30


def test_a_file_that_never_settles_is_taken_every_max_settle(supervisor: Supervisor) -> None:
    supervisor.watch(settle=1.0, max_settle=1.5)
    begin = time.monotonic()
    with (supervisor.root / "log").open("w") as file:
        while not supervisor.reported():
            file.write("line\n")
            file.flush()
            supervisor.receive(0.1)
            assert time.monotonic() < begin + 60
    assert time.monotonic() - begin > 1.4
    assert supervisor.reported()["log"].restless > 1.4


def test_settling_files_are_counted(supervisor: Supervisor) -> None:
    supervisor.watch()
    with (supervisor.root / "a").open("w") as file:
        file.write("x")
        file.flush()
        assert supervisor.until(Settling).count == 1
        supervisor.expect("a")
        assert supervisor.until(Settling).count == 0


def test_directories_made_moved_in_moved_and_removed_are_followed(supervisor: Supervisor, tmp_path: Path) -> None:
    supervisor.watch()
    for number in range(30):
        write(supervisor.root / f"deep/er/{number % 3}/{number}.txt")  # in directories made a moment before
    supervisor.until(supervisor.equal)
    write(tmp_path / "outside/one.txt")
    write(tmp_path / "outside/sub/two.txt")
    (tmp_path / "outside").rename(supervisor.root / "inside")
    supervisor.until(supervisor.equal)
    (supervisor.root / "deep").rename(supervisor.root / "moved")
    supervisor.until(supervisor.equal)
    write(supervisor.root / "moved/er/1/later.txt")  # the watches have moved along
    supervisor.until(supervisor.equal)
    (supervisor.root / "inside").rename(tmp_path / "outside")
    write(supervisor.root / "inside/sub/three.txt")  # another directory of the same name
    supervisor.until(supervisor.equal)
    supervisor.quiet()
    write(tmp_path / "outside/sub/two.txt", "changed")  # is nobody's business any more
    assert not [frame for frame in supervisor.quiet() if isinstance(frame, Changes)]
    shutil.rmtree(supervisor.root / "moved")
    supervisor.until(supervisor.equal)
    assert supervisor.journaled() == {"inside/sub/three.txt"}


def test_odd_names_and_odd_objects(supervisor: Supervisor) -> None:
    root = supervisor.root
    raw = [b"\xff\xfe.txt", b"new\nline", b"a" * 255, b"dir/x", b"dir-/x", b" ", "名前.txt".encode()]
    names = [os.fsdecode(name) for name in raw]
    for name in names:
        write(root / name)
    os.mkfifo(root / "fifo")
    (root / "link").symlink_to("new\nline")
    (root / "link to directory").symlink_to("dir")
    (root / "dir/loop").symlink_to("..")
    supervisor.watch()
    supervisor.expect(*names)
    supervisor.channel.send(Rescan(job=1))
    assert supervisor.until(Scanned).unchanged == len(names)
    late = os.fsdecode(b"late \xff\n")
    write(root / late)
    supervisor.expect(late)
    (root / "dir/x").unlink()
    (root / "dir/x").symlink_to("../ ")  # a link in its place is no document
    supervisor.expect(gone=("dir/x",))


def test_excluded_files_are_not_looked_for_and_newly_excluded_ones_are_gone(supervisor: Supervisor) -> None:
    for name in ("a.txt", "b.tmp", ".git/config", "c/node_modules/x.js", "c/keep.md", "d/e.txt"):
        write(supervisor.root / name)
    assert supervisor.watch().files == 3
    supervisor.expect("a.txt", "c/keep.md", "d/e.txt")
    write(supervisor.root / "c/node_modules/y.js")
    write(supervisor.root / "z.tmp")
    assert not [frame for frame in supervisor.quiet() if isinstance(frame, Changes)]
    supervisor.channel.send(Unwatch(job=1))
    supervisor.job = 2
    assert supervisor.watch(include=["*.txt"], exclude=["d/"]).files == 1
    supervisor.expect(gone=("c/keep.md", "d/e.txt"))


def test_a_bad_pattern_is_named_and_the_worker_goes_on(supervisor: Supervisor) -> None:
    scanned = supervisor.watch(exclude=["*.tmp", "!"])
    assert scanned.error == "source docs: Invalid git pattern: '!'"
    assert not scanned.watching
    assert supervisor.watch().error is None


def test_without_recursion_only_the_directory_itself_counts(supervisor: Supervisor) -> None:
    write(supervisor.root / "a.txt")
    write(supervisor.root / "b/c.txt")
    supervisor.watch(recursive=False)
    supervisor.expect("a.txt")
    write(supervisor.root / "b/d.txt")
    write(supervisor.root / "e.txt")
    supervisor.expect("e.txt")


def test_the_state_directory_is_not_a_document(supervisor: Supervisor) -> None:
    supervisor.watch(root=os.fsencode(supervisor.root.parent))
    write(supervisor.root / "a.txt")
    supervisor.expect("folder/a.txt")
    assert not [frame for frame in supervisor.quiet() if isinstance(frame, Changes)]


def test_a_file_whose_deletion_is_queued_is_reported_again(supervisor: Supervisor) -> None:
    for name in ("back.txt", "gone.txt"):
        status = write(supervisor.root / name).stat()
        stat = Stat(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        supervisor.put(name.encode(), stat, "queued", gone=1)
    (supervisor.root / "gone.txt").unlink()
    supervisor.watch()
    supervisor.expect("back.txt")
    assert not [frame for frame in supervisor.quiet() if isinstance(frame, Changes)]


def test_a_changed_device_number_alone_is_nothing(supervisor: Supervisor) -> None:
    """After a reboot: the files are the same, and deletions count nevertheless."""
    write(supervisor.root / "a.txt")
    write(supervisor.root / "b.txt")
    supervisor.watch()
    supervisor.expect("a.txt", "b.txt")
    supervisor.channel.send(Unwatch(job=1))
    supervisor.db.execute("UPDATE documents SET device = device + 1000")
    (supervisor.root / "a.txt").unlink()
    supervisor.job = 2
    scanned = supervisor.watch()
    assert (scanned.files, scanned.unchanged, scanned.error) == (1, 1, None)
    supervisor.expect(gone=("a.txt",))
    assert not supervisor.warnings()


def test_after_a_storm_the_journal_equals_the_folder(supervisor: Supervisor, tmp_path: Path) -> None:
    dice = random.Random(7)
    outside = tmp_path / "outside"
    outside.mkdir()
    supervisor.watch()

    def place() -> Path:
        return supervisor.root.joinpath(*(dice.choice("abc") for _ in range(dice.randint(1, 4))))

    def operate() -> None:
        one, other = place(), place()
        match dice.randrange(8):
            case 0 | 1 | 2:
                write(one / f"{dice.randrange(5)}.txt", "x" * dice.randrange(100), age=dice.choice([0.0, 1000.0]))
            case 3:
                one.rename(other)
            case 4:
                shutil.rmtree(one)
            case 5:
                one.rename(outside / str(dice.random()))
            case 6:
                dice.choice(list(outside.iterdir())).rename(other)
            case 7:
                file, target = (dice.choice([p for p in supervisor.root.rglob("*") if p.is_file()]) for _ in "12")
                dice.choice(
                    [file.unlink, lambda: file.replace(target), lambda: shutil.copy2(file, file.with_suffix(".cp"))]
                )()

    def same() -> bool:
        return supervisor.equal() and supervisor.stats() == {
            name: (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            for name in supervisor.folder()
            for status in [(supervisor.root / name).lstat()]
        }

    for _ in range(3):
        for number in range(150):
            with contextlib.suppress(OSError, IndexError):
                operate()
            if number % 10 == 0:
                supervisor.receive(0.02)
        supervisor.quiet(4 * SETTLE)
        if not same():
            supervisor.until(same)
    assert [frame for frame in supervisor.frames if isinstance(frame, Scanned)][1:] == []  # events were enough


# --- long paths ---------------------------------------------------------------------------------------------------


def test_files_deeper_than_a_path_of_the_kernel_are_followed(supervisor: Supervisor) -> None:
    directory = deep(supervisor.root, 5000)
    below = os.fsdecode(directory[len(os.fsencode(supervisor.root)) + 1 :])
    put(directory, b"old.txt", b"text")
    supervisor.watch()
    supervisor.expect(f"{below}/old.txt")
    put(directory, b"new.txt", b"text")
    assert supervisor.expect(f"{below}/new.txt")[f"{below}/new.txt"].fresh
    above = open_long(directory, os.O_RDONLY | os.O_DIRECTORY)
    os.unlink("old.txt", dir_fd=above)
    os.close(above)
    supervisor.expect(gone=(f"{below}/old.txt",))
    supervisor.channel.send(Rescan(job=1))
    assert supervisor.until(Scanned).unchanged == 1


def test_what_lies_too_deep_for_a_frame_is_named(supervisor: Supervisor) -> None:
    directory = deep(supervisor.root, 17_000, b"d" * 255)
    put(directory, b"unreachable.txt", b"text")
    write(supervisor.root / "a.txt")
    scanned = supervisor.watch()
    assert (scanned.files, scanned.error) == (1, None)
    assert "its path is longer than 16384 bytes" in supervisor.warnings()
    supervisor.expect("a.txt")


def test_a_directory_replaced_by_a_link_is_gone(supervisor: Supervisor) -> None:
    """Though what the link leads to has files of the same names."""
    write(supervisor.root / "one/a.txt")
    write(supervisor.root / "two/a.txt")
    supervisor.watch()
    supervisor.expect("one/a.txt", "two/a.txt")
    shutil.rmtree(supervisor.root / "one")
    (supervisor.root / "one").symlink_to("two")
    supervisor.expect(gone=("one/a.txt",))
    supervisor.channel.send(Rescan(job=1))
    supervisor.until(Scanned)
    assert not [frame for frame in supervisor.quiet() if isinstance(frame, Changes)]


# --- what is no deletion ----------------------------------------------------------------------------------------


def test_a_vanished_root_deletes_nothing_and_is_followed_when_it_is_back(supervisor: Supervisor) -> None:
    write(supervisor.root / "a.txt")
    supervisor.watch(rescan=0.5)
    supervisor.expect("a.txt")
    away = supervisor.root.with_name("away")
    supervisor.root.rename(away)
    error = supervisor.until(lambda: isinstance(f := supervisor.frames[-1], Scanned) and f.error is not None)
    assert str(supervisor.root) in str(error)
    assert not supervisor.reported()
    away.rename(supervisor.root)
    supervisor.until(lambda: isinstance(f := supervisor.frames[-1], Scanned) and f.error is None)
    write(supervisor.root / "b.txt")
    supervisor.expect("b.txt")


@root_only
def test_an_unmounted_root_and_an_unmounted_directory_delete_nothing(supervisor: Supervisor) -> None:
    below = supervisor.root / "below"
    with unmounted_after(supervisor.root, below):
        mount("disk", below)
        write(below / "mounted.txt")
        write(supervisor.root / "local.txt")
        supervisor.watch()
        supervisor.expect("below/mounted.txt", "local.txt")
        unmount(below)
        supervisor.until(WatchWarning)
        assert "not mounted?" in supervisor.warnings()
        assert not [frame for frame in supervisor.quiet() if isinstance(frame, Changes)]
        mount("disk", below)
        write(below / "other.txt")
        supervisor.channel.send(Rescan(job=1))
        supervisor.until(lambda: "below/other.txt" in supervisor.reported())
        mount("disk", supervisor.root)
        supervisor.frames.clear()
        supervisor.channel.send(Rescan(job=1))
        scanned = supervisor.until(lambda: isinstance(f := supervisor.frames[-1], Scanned) and f.error is not None)
        assert "not mounted?" in str(scanned)
        assert not [frame for frame in supervisor.quiet() if isinstance(frame, Changes)]


def test_an_unreadable_directory_deletes_nothing(supervisor: Supervisor) -> None:
    for name in ("open/a.txt", "shut/b.txt", "shut/c.txt"):
        write(supervisor.root / name)
    supervisor.stop()
    process = supervisor.start_limited("watches", 1000)  # root's rights end with its user namespace
    try:
        supervisor.watch()
        supervisor.expect("open/a.txt", "shut/b.txt", "shut/c.txt")
        (supervisor.root / "shut").chmod(0)
        (supervisor.root / "open/a.txt").chmod(0)  # a file is looked at without being opened
        write(supervisor.root / "z.txt")
        supervisor.until(lambda: {"z.txt", "open/a.txt"} <= set(supervisor.reported()))
        supervisor.channel.send(Rescan(job=1))
        scanned = supervisor.until(Scanned)
        assert (scanned.files, scanned.error) == (2, None)
        assert "shut/: Permission denied" in supervisor.warnings()
        assert set(supervisor.reported()) == {"z.txt", "open/a.txt"}
        assert not [path for path, change in supervisor.reported().items() if change.stat is None]
        supervisor.frames.clear()
        (supervisor.root / "shut/b.txt").unlink()  # by somebody who may
        (supervisor.root / "shut").chmod(0o755)
        supervisor.expect(gone=("shut/b.txt",))
        supervisor.channel.send(Rescan(job=1))
        over = supervisor.until(WatchWarning)
        assert (over.over, "shut/: Permission denied" in over.reason) == (True, True)
    finally:
        supervisor.channel.send(Stop())
        assert process.wait(60) == 0


# --- lost events --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def tiny_queue(lock: Path) -> Iterator[None]:
    """Observers that are made now have a queue of few events. The setting is the whole machine's."""
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        old = QUEUED.read_text()
        try:
            QUEUED.write_text("16")
        except OSError:
            pytest.skip("cannot be had: a small fs.inotify.max_queued_events")
        try:
            yield
        finally:
            QUEUED.write_text(old)


@root_only
def test_an_overflown_queue_leads_to_a_scan(supervisor: Supervisor, tmp_path_factory: pytest.TempPathFactory) -> None:
    with tiny_queue(tmp_path_factory.getbasetemp().parent / "inotify.lock"):
        supervisor.watch()
    for number in range(800):
        (supervisor.root / f"{number % 5}").mkdir(exist_ok=True)
        (supervisor.root / f"{number % 5}/{number}").touch()
    supervisor.until(supervisor.equal)
    supervisor.until(lambda: any(isinstance(frame, Scanned) for frame in supervisor.frames[2:]))


@pytest.mark.parametrize(("limit", "key"), [("watches", "max_user_watches"), ("instances", "max_user_instances")])
def test_without_watches_the_folder_is_polled(supervisor: Supervisor, limit: str, key: str) -> None:
    for number in range(5):
        write(supervisor.root / f"{number}/a.txt")
    supervisor.stop()
    process = supervisor.start_limited(limit, {"watches": 3, "instances": 0}[limit])
    try:
        supervisor.watch()
        supervisor.until(lambda: isinstance(f := supervisor.frames[-1], Scanned) and f.mode == "poll")
        assert f"sysctl -w fs.inotify.{key}=" in supervisor.warnings()
        supervisor.until(supervisor.equal)
        write(supervisor.root / "3/later.txt")
        supervisor.until(supervisor.equal)
    finally:
        supervisor.channel.send(Stop())
        assert process.wait(10) == 0


def test_polling_by_choice(supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingestd.watch.source.POLL", 0.3)
    assert supervisor.watch(mode="poll").mode == "poll"
    write(supervisor.root / "a.txt")
    assert not supervisor.expect("a.txt")["a.txt"].fresh
    (supervisor.root / "a.txt").unlink()
    supervisor.expect(gone=("a.txt",))


def test_the_type_of_a_file_system_is_told(tmp_path: Path) -> None:
    for place, expected in ((Path("/proc/self"), {"proc"}), (tmp_path, LOCAL_TYPES)):
        descriptor = os.open(place, os.O_RDONLY)
        try:
            assert mount_of(descriptor).kind in expected
        finally:
            os.close(descriptor)
    assert mount_of(10_000).kind == ""


# --- reporting ----------------------------------------------------------------------------------------------------


def test_only_a_few_frames_are_unacknowledged_and_nothing_is_reported_twice(supervisor: Supervisor) -> None:
    supervisor.acknowledge = False
    for number in range(600):
        (supervisor.root / f"{number:04d}").touch()
    name = "x" * 200
    for number in range(200):
        write(supervisor.root / name / name / name / name / f"{number}")
    supervisor.channel.send(WatchSource(job=1, source="docs", root=os.fsencode(supervisor.root), settle=0.01))
    supervisor.quiet()
    held = [frame for frame in supervisor.frames if isinstance(frame, Changes)]
    assert len(held) == 4
    assert not any(isinstance(frame, Scanned) for frame in supervisor.frames)
    supervisor.channel.send(Rescan(job=1))
    write(supervisor.root / "0000", "changed")
    assert not [frame for frame in supervisor.quiet() if isinstance(frame, Changes)]
    supervisor.acknowledge = True
    for frame in held:
        supervisor.take(frame)
    supervisor.until(supervisor.equal)
    supervisor.quiet()
    changes = [c.path for frame in supervisor.frames if isinstance(frame, Changes) for c in frame.changes]
    assert changes.count(b"0000") == 2
    assert len(changes) == 801
    assert all(len(frame.changes) <= 64 for frame in supervisor.frames if isinstance(frame, Changes))


def test_a_fresh_file_overtakes_what_a_scan_found(supervisor: Supervisor) -> None:
    supervisor.acknowledge = False
    for number in range(1000):
        (supervisor.root / f"{number:04d}").touch()
    supervisor.channel.send(WatchSource(job=1, source="docs", root=os.fsencode(supervisor.root), settle=SETTLE))
    supervisor.quiet(1.0)
    (supervisor.root / "urgent").touch()
    supervisor.quiet()
    supervisor.acknowledge = True
    for frame in list(supervisor.frames):
        if isinstance(frame, Changes):
            supervisor.take(frame)
    supervisor.frames.clear()
    changes = supervisor.until(Changes).changes
    assert changes[0].path == b"urgent"


# --- batches ------------------------------------------------------------------------------------------------------


def test_a_batch_reports_everything_and_ends(supervisor: Supervisor) -> None:
    write(supervisor.root / "a.txt")
    write(supervisor.root / "b/c.txt")
    scanned, changes = supervisor.batch()
    assert set(changes) == {"a.txt", "b/c.txt"}
    assert (scanned.files, scanned.unchanged, scanned.watching, scanned.settling) == (2, 0, False, 0)
    for path, state in ((b"a.txt", "failed"), (b"b/c.txt", "quarantined")):
        supervisor.db.execute("UPDATE documents SET state = ? WHERE path = ?", (state, path))
    write(supervisor.root / "b/d.txt")
    scanned, changes = supervisor.batch()
    assert scanned.done == {"quarantined": 1}
    assert (scanned.files, scanned.unchanged) == (3, 2)
    assert {path: change.known for path, change in changes.items()} == {"a.txt": True, "b/d.txt": False}
    supervisor.channel.send(Rescan(job=supervisor.job))  # the job is over
    assert not [frame for frame in supervisor.quiet() if isinstance(frame, Scanned)]


def test_a_batch_waits_for_files_to_settle(supervisor: Supervisor) -> None:
    with (supervisor.root / "slow.txt").open("w") as file:
        file.write("x")
        file.flush()
        begin = time.monotonic()
        _, changes = supervisor.batch()
    assert time.monotonic() - begin > SETTLE / 2
    assert set(changes) == {"slow.txt"}


def test_a_batch_of_paths_looks_only_there(supervisor: Supervisor) -> None:
    for name in ("a.txt", "b/c.txt", "b/deep/d.txt", "b-/e.txt", "x.tmp", "f/g.txt"):
        write(supervisor.root / name)
    supervisor.batch()
    (supervisor.root / "b/c.txt").unlink()
    shutil.rmtree(supervisor.root / "f")
    (supervisor.root / "b-/e.txt").unlink()
    (supervisor.root / "link").symlink_to("a.txt")
    scanned, changes = supervisor.batch("b", "b/deep", "a.txt", "missing.txt", "x.tmp", "f", "link")
    assert {path: change.stat for path, change in changes.items()} == {"b/c.txt": None, "f/g.txt": None}
    assert (scanned.files, scanned.unchanged, scanned.done) == (2, 2, {"indexed": 2})
    assert scanned.error is not None
    for part in ("missing.txt: no such file", "/f: no such file", "x.tmp: excluded", "link: not a regular file"):
        assert part in scanned.error


def test_a_batch_without_a_journal_takes_everything(supervisor: Supervisor) -> None:
    supervisor.acknowledge = False
    supervisor.stop()
    for path in supervisor.state.iterdir():
        path.unlink()
    supervisor.start()
    write(supervisor.root / "a.txt")
    supervisor.job += 1
    supervisor.channel.send(WatchSource(job=2, source="docs", root=os.fsencode(supervisor.root), settle=0.1, once=True))
    frame = supervisor.until(Changes)
    assert [change.path for change in frame.changes] == [b"a.txt"]
    supervisor.channel.send(ChangesTaken(job=2, serial=frame.serial))
    assert supervisor.until(Scanned).files == 1


def test_an_unreadable_journal_is_named(supervisor: Supervisor) -> None:
    supervisor.stop()
    supervisor.db.close()
    for path in supervisor.state.iterdir():
        path.unlink()
    supervisor.path.write_text("this is no database, and long enough to be looked at" * 100)
    supervisor.start()
    write(supervisor.root / "a.txt")
    supervisor.channel.send(WatchSource(job=1, source="docs", root=os.fsencode(supervisor.root), once=True))
    assert "journal cannot be read" in str(supervisor.until(Scanned).error)
    supervisor.channel.send(WatchSource(job=2, source="docs", root=os.fsencode(supervisor.root)))
    assert "journal cannot be read" in supervisor.until(WatchWarning).reason
    assert not supervisor.reported()


# --- parts ----------------------------------------------------------------------------------------------------------


def test_rules_follow_gitignore() -> None:
    rules = Rules(["*.txt", "docs/"], ["*.tmp", "/build/", "secret/*", "!secret/open.txt"], recursive=True)
    admitted = [b"a.txt", b"docs/any.pdf", b"x/build/a.txt", b"secret/open.txt", b"\xff.txt"]
    refused = [b"a.pdf", b"docs/a.tmp", b"build/a.txt", b"secret/a.txt"]
    assert [path for path in admitted if not rules.file(path)] == []
    assert [path for path in refused if rules.file(path)] == []
    assert not rules.directory(b"build/deeper/")


def test_reads_of_the_journal_are_in_order_and_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ingestd.watch.scan.PAGE", 2)
    reader = JournalReader(tmp_path / "journal.sqlite")
    assert reader.page("docs", b"", b"\xff", states=True) == ([], [])
    db = journal.connect(tmp_path / "journal.sqlite")
    paths = [b"a", b"a-/x", b"a/b", b"a/c", b"a0", b"\xff"]
    db.executemany("INSERT INTO documents(source, path, state) VALUES ('docs', ?, 'queued')", [(p,) for p in paths])
    page, states = reader.page("docs", b"a/", b"a0", states=True)
    assert [row[0] for row in page] == [b"a/b", b"a/c"]
    assert states == ["queued", "queued"]
    assert reader.page("docs", b"a/", b"a0", states=False) == (page, [])
    assert set(reader.find("docs", [b"a", b"nothing", *[b"%d" % n for n in range(250)], b"a0"])) == {b"a", b"a0"}
    db.execute("BEGIN IMMEDIATE")  # a writer is at work, and reads go on
    db.execute("DELETE FROM documents")
    assert len(reader.find("docs", paths)) == 6
    db.execute("COMMIT")
    assert reader.find("docs", paths) == {}
    reader.close()
    db.close()


def test_a_bad_query_is_an_error_and_no_empty_journal(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_text("no database at all" * 100)
    reader = JournalReader(tmp_path / "journal.sqlite")
    with pytest.raises(UnreadableError):
        reader.find("docs", [b"a"])
    reader.close()
