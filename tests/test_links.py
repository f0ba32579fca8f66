"""Symbolic links: never followed out of a source, unless the configuration says so; then loops end."""

from __future__ import annotations

from pathlib import Path

import pytest

from ingestd.messages.watch import Changes, Rescan, Scanned
from tests.processes.daemons import ingestd, running, write_config
from tests.test_watch import Supervisor, write
from tests.test_watch import supervisor as supervisor


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    outside = tmp_path / "outside"
    write(outside / "one.txt")
    write(outside / "deep/two.txt")
    write(outside / "x.tmp")
    return outside


def test_links_are_no_documents_by_default(supervisor: Supervisor, outside: Path) -> None:
    write(supervisor.root / "a.txt")
    (supervisor.root / "file").symlink_to(outside / "one.txt")
    (supervisor.root / "directory").symlink_to(outside)
    supervisor.watch()
    supervisor.expect("a.txt")
    assert not [frame for frame in supervisor.quiet() if isinstance(frame, Changes)]


def test_links_to_files_and_directories_are_followed(supervisor: Supervisor, outside: Path) -> None:
    write(supervisor.root / "a.txt")
    (supervisor.root / "file").symlink_to(outside / "one.txt")
    (supervisor.root / "directory").symlink_to(outside)
    (supervisor.root / "nothing").symlink_to(outside / "nothing")
    (supervisor.root / "self").symlink_to("self")
    (supervisor.root / "device").symlink_to("/dev/null")
    scanned = supervisor.watch(follow_links=True)
    assert (scanned.files, scanned.error) == (4, None)
    supervisor.expect("a.txt", "file", "directory/one.txt", "directory/deep/two.txt")
    write(outside / "deep/three.txt")
    assert supervisor.expect("directory/deep/three.txt")["directory/deep/three.txt"].fresh
    (supervisor.root / "late").symlink_to(outside / "deep")
    supervisor.expect("late/two.txt", "late/three.txt")
    (outside / "deep/two.txt").unlink()
    supervisor.expect(gone=("late/two.txt", "directory/deep/two.txt"))
    (supervisor.root / "late").unlink()
    supervisor.expect(gone=("late/three.txt",))
    write(outside / "one.txt", "changed")
    supervisor.expect("directory/one.txt")
    supervisor.channel.send(Rescan(job=1))  # no event tells of a file behind a link
    supervisor.expect("file")
    assert not supervisor.warnings()


def test_loops_end(supervisor: Supervisor, outside: Path) -> None:
    root = supervisor.root
    write(root / "a/b/c.txt")
    (root / "a/b/up").symlink_to("..")
    (root / "a/top").symlink_to("../..")
    (root / "out").symlink_to(outside)
    (outside / "back").symlink_to(root)
    (outside / "deep/here").symlink_to(".")
    scanned = supervisor.watch(follow_links=True)
    # "a/top" is the directory above the root: all of it is seen once more from there, but for what is above it.
    found = {path for path in supervisor.expect(*supervised(root, outside)) if "/" in path}
    assert "a/b/c.txt" in found
    assert scanned.error is None
    write(root / "a/b/d.txt")
    supervisor.until(lambda: "a/b/d.txt" in supervisor.reported())
    supervisor.channel.send(Rescan(job=1))
    assert supervisor.until(Scanned).error is None


def supervised(root: Path, outside: Path) -> set[str]:
    """What a walk finds that follows links, but not to a directory that it is in already."""
    found = set()

    def walk(directory: Path, above: list[tuple[int, int]]) -> None:
        status = directory.stat()
        key = (status.st_dev, status.st_ino)
        if key in above or directory.resolve() == (root.parent / "state").resolve():
            return
        for path in directory.iterdir():
            if path.is_dir():
                walk(path, [*above, key])
            elif path.is_file() and path.suffix != ".tmp":
                found.add(str(path.relative_to(root)))

    walk(root, [])
    return found


def test_a_link_that_leads_nowhere_deletes_nothing(supervisor: Supervisor, outside: Path) -> None:
    (supervisor.root / "file").symlink_to(outside / "one.txt")
    (supervisor.root / "directory").symlink_to(outside)
    supervisor.watch(follow_links=True)
    supervisor.expect("file", "directory/one.txt", "directory/deep/two.txt")
    away = outside.with_name("away")
    outside.rename(away)
    supervisor.channel.send(Rescan(job=1))
    supervisor.until(lambda: "leads nowhere" in supervisor.warnings())
    assert not [frame for frame in supervisor.quiet() if isinstance(frame, Changes)]
    away.rename(outside)
    supervisor.frames.clear()
    supervisor.channel.send(Rescan(job=1))
    assert supervisor.until(Scanned).unchanged == 3
    assert not supervisor.reported()


def test_what_lies_behind_links_is_loaded_but_never_the_state(tmp_path: Path, outside: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    write(outside / "one.txt", "wombat")
    write(outside / "deep/two.txt", "quokka")
    (docs / "file.txt").symlink_to(outside / "one.txt")
    (docs / "directory").symlink_to(outside / "deep")
    (docs / "everything").symlink_to(tmp_path)
    state = tmp_path / "state"
    config = write_config(state, docs)
    config.write_text(config.read_text() + "follow_links = true\n")
    with running(config, state) as daemon:
        daemon.wait()
        for word, path in (("wombat", docs / "file.txt"), ("quokka", docs / "directory/two.txt")):
            assert f'"{path}"' in ingestd(config, "search", "--json", word).stdout, daemon.tail()
        hidden = docs / "everything/state/journal.sqlite"
        assert hidden.exists()
        assert ingestd(config, "why", str(hidden)).returncode == 2
