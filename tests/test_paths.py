"""Paths of any length, opened in steps, past no symbolic link."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ingestd.paths import PATH_MAX, exists, open_below, open_long, permitted, stat_long


def deep(root: Path, length: int, name: bytes = b"d" * 200) -> bytes:
    """A directory below `root`, made in steps, whose path is longer than `length`; without its slash."""
    path = os.fsencode(root)
    directory = os.open(root, os.O_RDONLY)
    while len(path) <= length:
        os.mkdir(name, dir_fd=directory)
        deeper = os.open(name, os.O_RDONLY, dir_fd=directory)
        os.close(directory)
        directory = deeper
        path += b"/" + name
    os.close(directory)
    return path


def put(directory: bytes, name: bytes, text: bytes) -> bytes:
    """A file in a directory of any depth; its path."""
    above = open_long(directory, os.O_RDONLY | os.O_DIRECTORY)
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT, 0o644, dir_fd=above)
    os.write(descriptor, text)
    os.close(descriptor)
    os.close(above)
    return directory + b"/" + name


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Removed at once: what clears the directories of tests away later, goes no thousands of levels down."""
    folder = tmp_path / "folder"
    folder.mkdir()
    yield folder
    subprocess.run(["rm", "-rf", str(folder)], check=True)


@pytest.mark.parametrize("length", [10, PATH_MAX - 200, PATH_MAX, 3 * PATH_MAX])
@pytest.mark.parametrize("name", [b"d" * 200, b"\xff" * 255, b"e"])
def test_a_path_of_any_length_is_opened(folder: Path, length: int, name: bytes) -> None:
    before = len(os.listdir("/proc/self/fd"))
    path = put(deep(folder, length, name), b"file", b"text")
    descriptor = open_long(path, os.O_RDONLY)
    assert os.read(descriptor, 10) == b"text"
    assert os.fstat(descriptor).st_ino == stat_long(path).st_ino
    os.close(descriptor)
    assert exists(path)
    assert permitted(path)
    assert not permitted(path + b"-")
    assert not exists(path + b"-")
    assert not exists(path + b"/" + name)
    with pytest.raises(FileNotFoundError):
        open_long(path + b"-", os.O_RDONLY)
    with pytest.raises(NotADirectoryError):
        stat_long(path + b"/x")
    root = os.fsencode(folder)
    directory = open_below(root, path[len(root) + 1 : -len(b"file")])
    assert os.stat(b"file", dir_fd=directory).st_size == 4
    os.close(directory)
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor is left open"


def test_no_link_below_the_root_is_passed(tmp_path: Path) -> None:
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "root").symlink_to("real")
    (tmp_path / "real/link").symlink_to("deep")
    root = os.fsencode(tmp_path / "root")
    for prefix in (b"", b"deep/"):
        os.close(open_below(root, prefix))
    for prefix in (b"link/", b"link/x/"):
        with pytest.raises(NotADirectoryError):
            open_below(root, prefix)
