"""Every odd name and object in one tree, and every odd way in which programs change files there."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.mounting import MS_BIND, mount, unmounted_after
from tests.processes.daemons import RunningDaemon, ingestd, running, write_config
from tests.processes.watched import Apart, Watched, apart_only, watching, write, write_sources
from tests.test_paths import deep, put

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="cannot be had: root, who alone makes devices and mounts")

WORDS = ("aardvark", "bandicoot", "capybara", "dugong", "echidna", "fossa", "gerenuk", "hoatzin", "ibex")
NAMES = [
    b"\xff\xfe.txt",
    b"new\nline.txt",
    b"n" * 251 + b".txt",
    b" ",
    b" .txt",
    b"-rf",
    b"a\\*?[b].txt",
    b"%20&#39;.txt",
    b"\x1b[31mred.txt",
    b"con:trol\x7f\x01.txt",
    "名前.txt".encode(),
    "e\u0301.txt".encode(),  # and the same to the eye, but not to the kernel:
    "\u00e9.txt".encode(),
]
EXCLUDED = [
    "~$report.txt",
    "movie.txt.part",
    "page.txt.crdownload",
    "build.tmp",
    "notes.txt~",
    "#notes.txt#",
    ".#notes.txt",
    ".notes.txt.swp",
    ".notes.txt.swo",
    ".DS_Store",
    "Thumbs.db",
    "desktop.ini",
    ".git/config.txt",
    ".hg/a.txt",
    ".svn/a.txt",
    "sub/__pycache__/a.txt",
    "sub/node_modules/deep/a.txt",
    ".Trash-1000/a.txt",
    "lost+found/a.txt",
]


class Tree:
    """The folder, and what the index should hold of it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.expected: dict[str, str] = {}

    def holds(self, path: Path | bytes, text: bytes) -> None:
        self.expected[os.fsdecode(path)] = hashlib.blake2b(text, digest_size=16).hexdigest()

    def lacks(self, path: Path) -> None:
        del self.expected[str(path)]

    def write(self, name: str, text: str) -> Path:
        path = write(self.root / name, text)
        self.holds(path, text.encode())
        return path


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    root = tmp_path / "docs"
    root.mkdir()
    return Tree(root)


@contextlib.contextmanager
def listening(path: Path) -> Iterator[None]:
    """A socket in a directory of any length."""
    directory = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
        os.close(directory)
        yield


def why(daemon: RunningDaemon, path: Path) -> dict[str, Any]:
    """What is known of a path; empty: nothing is."""
    done = ingestd(daemon.config, "why", "--json", str(path))
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
    return found


@root_only
@apart_only
def test_odd_names_and_objects(tree: Tree, tmp_path: Path) -> None:
    root, state = tree.root, tree.root / "state"  # the state directory itself is no document
    outside = write(tmp_path / "outside/secret.txt", "not of this folder")
    for name in NAMES:
        text = b"the file called " + repr(name).encode()
        tree.holds(put(os.fsencode(root), name, text), text)
    bottom = deep(root, 9000, b"\xfe" * 255)
    tree.holds(put(bottom, b"deep.txt", b"at the bottom"), b"at the bottom")
    for name in EXCLUDED:
        write(root / name, f"excluded: {name}")

    plain = tree.write("sub/plain.txt", "a plain file")
    (root / "hard.txt").hardlink_to(plain)
    tree.holds(root / "hard.txt", b"a plain file")
    (root / "empty.txt").touch()
    tree.holds(root / "empty.txt", b"")
    future = tree.write("future.txt", "from the future")
    os.utime(future, (time.time() + 1e7,) * 2)
    ancient = tree.write("ancient.txt", "from before the epoch")
    os.utime(ancient, (-1e8, -1e8))
    with (root / "sparse.csv").open("wb") as sparse:  # text, then a hole
        sparse.write(b"name,value\nalpha,1\n" * 600)
        sparse.truncate(64 << 20)
    with (root / "hole.txt").open("wb") as sparse:
        sparse.truncate(64 << 20)

    (root / "to a file").symlink_to("sub/plain.txt")
    (root / "to a directory").symlink_to("sub")
    (root / "out.txt").symlink_to(outside)
    (root / "out").symlink_to(outside.parent)
    (root / "loop").symlink_to(".")
    (root / "self.txt").symlink_to("self.txt")
    (root / "nowhere.txt").symlink_to("nothing")
    os.mkfifo(root / "fifo.txt")
    os.mknod(root / "endless.txt", 0o020666, os.makedev(1, 5))  # zeros for ever
    os.mknod(root / "block.txt", 0o060666, os.makedev(7, 255))

    locked = write(root / "locked.txt", "only for its owner")
    os.chown(locked, 12345, 12345)
    locked.chmod(0o600)
    behind = write(root / "locked/behind.txt", "behind a locked door")
    os.chown(behind.parent, 12345, 12345)
    behind.parent.chmod(0o700)

    two = root / "two"
    config = write_sources(state, {"docs": root}).rename(tmp_path / "config.toml")
    daemon = Apart(config, state)  # which may not read what belongs to others
    daemon.log = tmp_path / "log"
    with unmounted_after(two), listening(root / "socket.txt"):
        mount(root / "sub", two, "", MS_BIND)
        tree.holds(two / "plain.txt", b"a plain file")
        with watching(config, state, daemon) as watched:
            watched.holds(tree.expected)
            assert "Permission denied" in failures(watched)["locked.txt"]
            assert "binary data" in failures(watched)["sparse.csv"]
            assert why(daemon, root / "hole.txt")["state"] in ("skipped", "quarantined")
            watched.warns("source docs", str(root / "locked"), "Permission denied")
            for name in ("to a file", "out.txt", "self.txt", "fifo.txt", "endless.txt", "block.txt", "socket.txt"):
                assert why(daemon, root / name) == {}, f"{name} is no document"

            hits = json.loads(ingestd(config, "search", "--json", "at the bottom").stdout)
            assert bottom + b"/deep.txt" in [base64.b64decode(hit.get("path_b64", "")) for hit in hits]

            # The doors open.
            os.chown(locked, 0, 0)
            tree.holds(locked, locked.read_bytes())
            os.chown(behind.parent, 0, 0)
            os.chown(behind, 0, 0)
            tree.holds(behind, behind.read_bytes())
            # The same directory in two places: a change in one is a change in both.
            write(two / "twice.txt", "in both places")
            tree.holds(two / "twice.txt", b"in both places")
            tree.holds(root / "sub/twice.txt", b"in both places")
            # One name of two is gone, and the other is written through.
            (root / "hard.txt").unlink()
            tree.lacks(root / "hard.txt")
            plain.write_text("written again")
            tree.holds(plain, b"written again")
            tree.holds(two / "plain.txt", b"written again")
            # Where an object was, there is a file now; where a file was, a link.
            (root / "fifo.txt").unlink()
            tree.write("fifo.txt", "a file now")
            (root / "out.txt").unlink()
            tree.write("out.txt", "in this folder now")
            future.unlink()
            future.symlink_to("sub/plain.txt")
            tree.lacks(future)
            # Names with nothing but the case changed.
            (root / " .txt").rename(root / " .TXT")
            tree.holds(root / " .TXT", (root / " .TXT").read_bytes())
            tree.lacks(root / " .txt")
            # Some exist only for a moment.
            for number in range(50):
                write(root / f"moment-{number}.txt", "gone again").unlink()
            watched.holds(tree.expected)
            watched.calms()
            assert "locked.txt" not in failures(watched)


def failures(watched: Watched) -> dict[str, str]:
    """Names of the files that failed, and why."""
    found = json.loads(ingestd(watched.daemon.config, "failures", "--json").stdout)
    return {os.path.basename(item["path"]): item["reason"] for item in found}


def save_by_renaming(path: Path, text: str) -> None:
    """As most editors do: a new file, synced, in the place of the old one."""
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def save_with_a_backup(path: Path, text: str) -> None:
    """As vim does: it tries the directory out, moves the old file away, writes a new one and removes the old one."""
    probe = path.with_name("4913")
    probe.touch()
    probe.unlink()
    backup = path.with_name(f"{path.name}~")
    path.rename(backup)
    with path.open("w") as file:
        file.write(text[: len(text) // 2])
        file.flush()
        time.sleep(0.05)
        file.write(text[len(text) // 2 :])
    backup.unlink()


def save_in_place(path: Path, text: str) -> None:
    """As nano does."""
    with path.open("r+") as file:
        file.truncate()
        file.write(text)


def save_by_swapping(path: Path, text: str) -> None:
    """As macOS does: the new file and the old one change places, then the old one goes."""
    fresh = path.with_name("swapped.txt")
    fresh.write_text(text)
    aside = path.with_name("aside.txt")
    aside.hardlink_to(path)
    fresh.replace(path)
    aside.unlink()


@root_only
@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed (Debian's package rsync)")
def test_ways_of_programs_to_change_files(tree: Tree, tmp_path: Path) -> None:
    root, state = tree.root, tmp_path / "state"
    saves: list[Callable[[Path, str], None]] = [
        save_by_renaming,
        save_with_a_backup,
        save_in_place,
        save_by_swapping,
    ]
    for save in saves:
        tree.write(f"{save.__name__}.txt", "as it was at first")
    for name in ("cp", "rsync", "rsync-in-place"):
        tree.write(f"{name}.txt", "version 1")
    tree.write("Case.txt", "a matter of case")
    tree.write("log/app.log.txt", "day 1\n")
    tree.write("log/cut.log.txt", "night 1\n")
    past = 1_000_000_000
    source = tmp_path / "outside"
    for name in ("cp", "rsync", "rsync-in-place"):
        os.utime(root / f"{name}.txt", (past, past))
        write(source / f"{name}.txt", "version 2")  # as long, and as old, as what it replaces
        os.utime(source / f"{name}.txt", (past, past))
    for number in range(5):
        write(source / f"tree/{number % 2}/{number}.txt", f"copied {number}")
        os.utime(source / f"tree/{number % 2}/{number}.txt", (past + number, past + number))
    config = write_sources(state, {"docs": root})

    def run(*command: str | Path) -> None:
        subprocess.run(list(map(str, command)), check=True)

    with watching(config, state) as watched:
        watched.holds(tree.expected)
        for turn in range(2):
            for save in saves:
                text = f"saved again, turn {turn}"
                save(root / f"{save.__name__}.txt", text)
                tree.holds(root / f"{save.__name__}.txt", text.encode())
        run("cp", "-p", source / "cp.txt", root / "cp.txt")
        run("rsync", "-a", "--checksum", source / "rsync.txt", root / "rsync.txt")
        run("rsync", "-a", "--checksum", "--inplace", source / "rsync-in-place.txt", root / "rsync-in-place.txt")
        for name in ("cp", "rsync", "rsync-in-place"):
            assert (root / f"{name}.txt").stat().st_mtime == past
            tree.holds(root / f"{name}.txt", b"version 2")
        run("cp", "-pr", source / "tree", root / "by-cp")
        run("rsync", "-a", f"{source}/tree/", root / "by-rsync")
        for place in ("by-cp", "by-rsync"):
            for number in range(5):
                tree.holds(root / f"{place}/{number % 2}/{number}.txt", f"copied {number}".encode())
        (root / "Case.txt").rename(root / "cASE.txt")
        tree.lacks(root / "Case.txt")
        tree.holds(root / "cASE.txt", b"a matter of case")
        # logrotate: by renaming and creating, while the program writes on into the old file for a moment;
        log = root / "log/app.log.txt"
        with log.open("a") as writer:
            log.rename(root / "log/app.log-1.txt")
            tree.write("log/app.log.txt", "day 2\n")
            writer.write("the last line of day 1\n")
        tree.holds(root / "log/app.log-1.txt", b"day 1\nthe last line of day 1\n")
        # and by copying and truncating, while the program holds the file open.
        cut = root / "log/cut.log.txt"
        with cut.open("a") as writer:
            shutil.copy2(cut, root / "log/cut.log-1.txt")
            os.truncate(cut, 0)
            writer.write("night 2\n")
        tree.holds(root / "log/cut.log-1.txt", b"night 1\n")
        tree.holds(cut, b"night 2\n")
        watched.holds(tree.expected)

        # rsync --delete, and two files that change places.
        shutil.rmtree(source / "tree/1")
        run("rsync", "-a", "--delete", f"{source}/tree/", root / "by-rsync")
        for number in (1, 3):
            tree.lacks(root / f"by-rsync/1/{number}.txt")
        one, other = root / "by-cp/0/0.txt", root / "by-cp/0/2.txt"
        one.rename(root / "by-cp/0/x.txt")
        other.rename(one)
        (root / "by-cp/0/x.txt").rename(other)
        tree.holds(one, b"copied 2")
        tree.holds(other, b"copied 0")
        watched.holds(tree.expected)
        assert not watched.warnings
        assert watched.daemon.status()["files"]["failed"] == 0


def hits(daemon: RunningDaemon, word: str) -> set[bytes]:
    """Paths of the files in which the word is found."""
    found: list[dict[str, Any]] = json.loads(ingestd(daemon.config, "search", "--json", word).stdout)
    return {
        base64.b64decode(hit["path_b64"]) if "path_b64" in hit else hit["path"].encode()
        for hit in found
        if word in hit["text"]
    }


@root_only
def test_odd_names_are_found_by_search(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    root = os.fsencode(docs)
    names = [
        b"\xff\xfe.txt",
        b"new\nline.txt",
        b"n" * 251 + b".txt",
        b" ",
        "名前.txt".encode(),
        b"-rf",
        b"a\\*?[b].txt",
    ]
    paths = [put(root, name, word.encode()) for name, word in zip(names, WORDS, strict=False)]
    paths.append(put(deep(docs, 5000, b"\xfe" * 255), b"deep.txt", WORDS[7].encode()))
    future = put(root, b"future.txt", WORDS[8].encode())
    paths.append(future)
    os.utime(future, (time.time() + 1e6,) * 2)
    os.mkfifo(docs / "fifo.txt")
    os.mknod(docs / "device.txt", 0o020666, os.makedev(1, 5))  # endless zeros
    os.mknod(docs / "block.txt", 0o060666, os.makedev(7, 255))
    listener = socket.socket(socket.AF_UNIX)
    directory = os.open(docs, os.O_RDONLY)
    listener.bind(f"/proc/self/fd/{directory}/socket.txt")
    os.close(directory)
    (docs / "loop").symlink_to(".")
    (docs / "self").symlink_to("self")
    (docs / "outside.txt").symlink_to("/etc/passwd")
    (docs / "hard.txt").hardlink_to(os.fsdecode(future))
    (docs / "empty.txt").touch()
    with (docs / "sparse.txt").open("wb") as sparse:
        sparse.truncate(1 << 20)
    config = write_config(tmp_path / "state", docs)
    with running(config, tmp_path / "state") as daemon:
        status = daemon.wait()
        for path, word in zip(paths, WORDS, strict=True):
            expected = {path, os.fsencode(docs / "hard.txt")} if path == future else {path}
            assert hits(daemon, word) == expected, word
        known = sum(status["files"].values())
        assert known == len(paths) + 3, "neither objects nor links are documents"
        assert not [text for text in status["warnings"] if "docs" in text]

        (docs / "-rf").rename(docs / "-RF")  # the case alone
        (docs / " ").unlink()
        late = put(root, b"late \xff\n.txt", b"jerboa")
        preserved = docs / "preserved.txt"
        shutil.copy2(os.fsdecode(late), preserved)  # a new file with an old time
        os.utime(preserved, (1e9, 1e9))
        deadline = time.monotonic() + 120
        while hits(daemon, "jerboa") != {late, os.fsencode(preserved)} or hits(daemon, "dugong"):
            assert time.monotonic() < deadline, daemon.tail()
        while hits(daemon, "fossa") != {root + b"/-RF"}:
            assert time.monotonic() < deadline, daemon.tail()
    listener.close()


def test_a_file_deeper_than_a_path_of_the_kernel_can_be_named(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    path = os.fsdecode(put(deep(docs, 5000), b"deep.txt", b"a wombat"))
    config = write_config(tmp_path / "state", None)
    done = ingestd(config, "ingest", "--json", path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["indexed"] == 1
    assert json.loads(ingestd(config, "why", "--json", path).stdout)["state"] == "indexed"
    assert ingestd(config, "ingest", f"{path}-").returncode == 2
