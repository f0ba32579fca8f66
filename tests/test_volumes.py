"""What is mounted at a place, told apart from what is mounted there next, by real mounts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestd.mounts import volume
from ingestd.watch.absence import Absence
from ingestd.watch.tree import Tree
from ingestd.watch.volumes import Volumes
from tests.mounting import MS_BIND, Disk, mount, unmount, unmounted_after


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory; what a test mounts below it is unmounted afterwards."""
    place = tmp_path / "with space"
    place.mkdir()
    with unmounted_after(tmp_path / "other", place / "sub/deep/more", place / "sub/deep", place / "sub", place):
        yield place


def number(path: Path) -> int:
    descriptor = os.open(path, os.O_PATH)
    try:
        return volume(descriptor)
    finally:
        os.close(descriptor)


def test_the_next_one_in_the_same_place_is_another(place: Path) -> None:
    below = number(place)
    mount("tmpfs", place)
    first, device = number(place), place.stat().st_dev
    unmount(place)
    assert number(place) == below
    mount("tmpfs", place)
    assert place.stat().st_dev == device, "the kernel gives the free number to the next one"
    assert len({below, first, number(place)}) == 3


def test_the_same_one_again_is_the_same(place: Path, tmp_path: Path) -> None:
    disk = Disk(tmp_path / "image")
    disk.mount(place)
    first = number(place)
    unmount(place)
    other = tmp_path / "other"
    disk.mount(other)
    assert number(other) == first


def test_a_bind_mount_is_told_from_the_directory_below_it(place: Path, tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    origin.mkdir()
    before = number(place)
    mount(origin, place, "", MS_BIND)
    assert place.stat().st_dev == origin.parent.stat().st_dev
    assert number(place) != before


def test_files_get_the_volume_that_they_lie_on(place: Path) -> None:
    tree = Tree(os.fsencode(place))
    (place / "sub" / "deep").mkdir(parents=True)
    mount("one", place / "sub" / "deep")
    (place / "sub" / "deep" / "more").mkdir()
    mount("two", place / "sub" / "deep" / "more")
    volumes = Volumes(tree, os.fsencode(place))
    for prefix in (b"", b"sub/", b"sub/deep/", b"sub/deep/more/"):
        descriptor = tree.open(prefix)
        volumes.entered(prefix, descriptor, os.fstat(descriptor).st_dev)
        os.close(descriptor)
    found = [volumes.of(path) for path in (b"a", b"sub/a", b"sub/deep/a", b"sub/deep/more/a", b"sub/deep2/a")]
    assert found[0] == found[1] == found[4]
    assert len(set(found)) == 3
    assert found == [Volumes(tree, os.fsencode(place)).of(path) for path in
                     (b"a", b"sub/a", b"sub/deep/a", b"sub/deep/more/a", b"a")]  # fmt: skip


def test_what_was_unmounted_is_doubted_until_a_person_says_otherwise(place: Path) -> None:
    tree = Tree(os.fsencode(place))
    volumes = Volumes(tree, os.fsencode(place))
    absence = Absence(volumes)
    (place / "sub").mkdir()
    mount("one", place / "sub")
    mine, roots = volumes.look(b"sub/"), volumes.look(b"")
    assert absence.doubt(b"sub/a", mine) is None
    assert absence.doubt(b"a", roots) is None
    unmount(place / "sub")
    absence.forget()
    for path, where in ((b"sub/a", b"sub/"), (b"sub/deep/a", b"sub/")):
        doubt = absence.doubt(path, mine)
        assert doubt is not None
        assert doubt[0] == where
        assert "not mounted?" in doubt[1]
    assert absence.doubt(b"sub/a", roots) is None
    mount("another", place / "sub")
    absence.forget()
    assert absence.doubt(b"sub/a", mine) is not None
    assert absence.doubt(b"sub/a", roots) is not None, "it may be below the new mount"
    absence.accept = True
    assert absence.doubt(b"sub/a", mine) is None
    absence.accept = False
    absence.aliases.add((mine, volumes.look(b"sub/")))
    assert absence.doubt(b"sub/a", mine) is None
