"""File systems that come and go below a running daemon: nothing is dropped meanwhile, and all is in step afterwards."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.mounting import MS_BIND, Disk, mount, unmount, unmounted_after
from tests.processes.daemons import contents, ingestd
from tests.processes.watched import digest, files, held, watching, write, write_sources

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cannot be had: root, who alone may mount")


def test_a_root_that_is_unmounted_and_mounted_again(tmp_path: Path) -> None:
    """Also while the daemon is down, and changed meanwhile on another machine."""
    root, local, state = tmp_path / "disk", tmp_path / "local", tmp_path / "state"
    disk = Disk(tmp_path / "image")
    config = write_sources(state, {"disk": root, "local": local})
    with unmounted_after(root):
        disk.mount(root)
        for number in range(5):
            write(root / f"deep/{number}.txt", f"number {number} on the disk")
        write(root / "top.txt", "at the top of the disk")
        write(local / "a.txt", "a local file")
        with watching(config, state) as watched:
            watched.equals(root, local)
            before = held(state)
            unmount(root)
            watched.warns("source disk", str(root), "not mounted?", "kept")
            watched.ingests(local / "b.txt", "written while the disk was away")
            assert held(state) == before | files(local)
            with disk.elsewhere(tmp_path / "elsewhere") as other:
                (other / "deep/0.txt").unlink()
                write(other / "deep/1.txt", "changed on another machine")
                write(other / "new/5.txt", "made on another machine")
                (other / "top.txt").rename(other / "deep/top.txt")
            disk.mount(root)
            watched.equals(root, local)
            watched.calms()
            watched.ingests(root / "deep/later.txt", "followed as before")
            watched.daemon.stop()
        unmount(root)
        before = held(state)
        with watching(config, state) as watched:
            watched.warns("source disk", "not mounted?")
            watched.ingests(local / "c.txt", "written while nobody had mounted the disk")
            assert held(state) == before | files(local)
            disk.mount(root)
            (root / "deep/1.txt").unlink()
            watched.equals(root, local)
            watched.calms()


def test_another_file_system_mounted_over_a_root(tmp_path: Path) -> None:
    root, state = tmp_path / "docs", tmp_path / "state"
    write(root / "below.txt", "on the file system below")
    write(root / "sub/deep.txt", "deep on the file system below")
    config = write_sources(state, {"docs": root})
    with unmounted_after(root), watching(config, state) as watched:
        watched.equals(root)
        below = held(state)
        mount("over", root)
        watched.warns("source docs", str(root), "another file system", "kept")
        watched.ingests(root / "over.txt", "on the file system above")
        watched.ingests(root / "sub/over.txt", "in a directory of the same name")
        assert held(state) == below | files(root)
        over = files(root)
        unmount(root)
        # Now it is the upper one that is not mounted.
        watched.ingests(root / "again.txt", "on the file system below again")
        (root / "sub/deep.txt").unlink()
        del below[str(root / "sub/deep.txt")]
        watched.holds(below | over | files(root))
        watched.warns("source docs", "kept")


def test_another_file_system_in_the_place_of_one(tmp_path: Path) -> None:
    """The kernel gives the number of a device that went to the next one that comes."""
    root, state = tmp_path / "docs", tmp_path / "state"
    config = write_sources(state, {"docs": root})
    with unmounted_after(root):
        mount("first", root)
        write(root / "first.txt", "on the first file system")
        with watching(config, state) as watched:
            watched.equals(root)
            first = held(state)
            unmount(root)
            watched.warns("source docs", "kept")
            mount("second", root)
            watched.ingests(root / "second.txt", "on the second file system")
            watched.holds(first | files(root))
            watched.warns("source docs", "kept")


def test_a_file_system_below_a_root_that_comes_and_goes(tmp_path: Path) -> None:
    root, state = tmp_path / "docs", tmp_path / "state"
    point = root / "disk"
    disk = Disk(tmp_path / "image")
    config = write_sources(state, {"docs": root})
    write(root / "a.txt", "a local file")
    write(root / "z/b.txt", "another one")
    with unmounted_after(point):
        disk.mount(point)
        write(point / "one.txt", "one on the disk")
        write(point / "deep/two.txt", "two on the disk")
        with watching(config, state) as watched:
            watched.equals(root)
            mounted = files(point)
            unmount(point)
            watched.warns("source docs", str(point), "not mounted?", "kept")
            watched.ingests(root / "c.txt", "written while the disk was away")
            (root / "z/b.txt").unlink()  # is a deletion
            write(point / "hidden.txt", "in the directory below the disk")
            watched.holds(files(root) | mounted)
            with disk.elsewhere(tmp_path / "elsewhere") as other:
                (other / "one.txt").unlink()
                write(other / "deep/three.txt", "three on the disk")
            hidden = files(point)
            disk.mount(point)
            watched.ingests(point / "four.txt", "four on the disk")
            # What the disk hides again is not gone either.
            watched.holds(files(root) | hidden)
            # Gone for moments only.
            for number in range(3):
                unmount(point)
                disk.mount(point)
                write(point / f"moment/{number}.txt", f"written between two moments: {number}")
            (point / "deep/two.txt").unlink()
            watched.holds(files(root) | hidden)


def test_one_directory_in_several_places(tmp_path: Path) -> None:
    """Bind mounts: each place has its documents, and a change through one is a change in all."""
    root, other, state = tmp_path / "docs", tmp_path / "other", tmp_path / "state"
    write(root / "one/a.txt", "seen from everywhere")
    write(root / "one/sub/b.txt", "deep and seen from everywhere")
    write(other / "own.txt", "of the other folder")
    config = write_sources(state, {"docs": root, "other": other})
    with unmounted_after(root / "two", other / "three"):
        mount(root / "one", root / "two", "", MS_BIND)
        mount(root / "one", other / "three", "", MS_BIND)
        with watching(config, state) as watched:
            watched.equals(root, other)
            assert len(held(state)) == 7
            write(root / "two/sub/c.txt", "written through the second place")
            write(other / "three/a.txt", "changed through the third place")
            (root / "one/sub/b.txt").unlink()
            watched.equals(root, other)
            assert {str(root / "one/sub/c.txt"), str(other / "three/sub/c.txt")} < set(held(state))
            assert not watched.warnings
            before = held(state)
            unmount(root / "two")
            watched.warns("source docs", str(root / "two"), "not mounted?", "confirm-deletes")
            shutil.rmtree(root / "one/sub")
            missing = {path: found for path, found in before.items() if path.startswith(f"{root}/two/")}
            watched.holds(files(root, other) | missing)
            mount(root / "one", root / "two", "", MS_BIND)
            watched.equals(root, other)
            watched.calms()
            # For good: a person says so.
            unmount(root / "two")
            watched.warns("source docs", str(root / "two"), "not mounted?", "confirm-deletes")
            assert ingestd(config, "confirm-deletes", "docs").returncode == 0
            watched.equals(root, other)
            watched.calms()


def test_a_folder_that_is_moved_away_and_back(tmp_path: Path) -> None:
    root, local, state = tmp_path / "docs", tmp_path / "local", tmp_path / "state"
    write(root / "a.txt", "in the folder")
    write(local / "b.txt", "in another one")
    config = write_sources(state, {"docs": root, "local": local})
    with watching(config, state) as watched:
        watched.equals(root, local)
        before = held(state)
        root.rename(tmp_path / "away")
        watched.warns("source docs", str(root), "No such file or directory")
        watched.ingests(local / "c.txt", "written meanwhile")
        assert held(state) == before | files(local)
        write(tmp_path / "away/d.txt", "written while it was away")
        (tmp_path / "away/a.txt").unlink()
        (tmp_path / "away").rename(root)
        watched.equals(root, local)
        watched.calms()
    assert contents(state)[0][str(root / "d.txt")][1] == digest(root / "d.txt")
