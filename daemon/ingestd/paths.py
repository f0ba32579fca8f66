"""Paths longer than the kernel takes at once, and paths on which no symbolic link may lie: opened in steps."""

from __future__ import annotations

import os
from typing import Final

PATH_MAX: Final = 4096
"""Bytes of a path for one system call, with the zero at its end."""
_STEP: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def open_long(path: bytes, flags: int) -> int:
    """`os.open`, of a path of any length."""
    if len(path) < PATH_MAX:
        return os.open(path, flags)
    directory, name = _shorten(path)
    try:
        return os.open(name, flags, dir_fd=directory)
    finally:
        os.close(directory)


def stat_long(path: bytes) -> os.stat_result:
    """`os.stat`, of a path of any length."""
    if len(path) < PATH_MAX:
        return os.stat(path)
    directory, name = _shorten(path)
    try:
        return os.stat(name, dir_fd=directory)
    finally:
        os.close(directory)


def exists(path: bytes) -> bool:
    """`os.path.lexists`, of a path of any length."""
    if len(path) < PATH_MAX:
        return os.path.lexists(path)
    try:
        directory, name = _shorten(path)
    except OSError:
        return False
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    finally:
        os.close(directory)
    return True


def permitted(path: bytes) -> bool:
    """Whether the file's permissions let this process read it; a path of any length."""
    if len(path) < PATH_MAX:
        return os.access(path, os.R_OK)
    try:
        directory, name = _shorten(path)
    except OSError:
        return False
    try:
        return os.access(name, os.R_OK, dir_fd=directory)
    finally:
        os.close(directory)


def open_below(root: bytes, prefix: bytes) -> int:
    """The directory `prefix` (with its slash; "": the root) as a place to start from, see `openat(2)`.

    The root may be a symbolic link; below it none is followed: `OSError` (ENOTDIR).
    """
    directory = open_long(root, _STEP)
    try:
        for name in prefix.split(b"/")[:-1]:
            deeper = os.open(name, _STEP | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = deeper
    except BaseException:
        os.close(directory)
        raise
    return directory


def split_member(path: bytes) -> tuple[bytes, str]:
    """A file and what is meant in it: "archive.zip!/report.pdf" is a part where no file has that name."""
    position = path.find(b"!/")
    while position >= 0 and not exists(path):
        file = path[:position]
        if exists(file) and not os.path.isdir(file):
            return file, path[position + 2 :].decode("utf-8", "replace")
        position = path.find(b"!/", position + 1)
    return path, ""


def _shorten(path: bytes) -> tuple[int, bytes]:
    """A directory on the way, and the rest of the path, which is short enough."""
    cut = path.rindex(b"/", 0, PATH_MAX - 1)
    directory = os.open(path[:cut] or b"/", _STEP)
    path = path[cut + 1 :]
    while len(path) >= PATH_MAX:
        try:
            cut = path.rindex(b"/", 0, PATH_MAX - 1)
            deeper = os.open(path[:cut], _STEP, dir_fd=directory)
        finally:
            os.close(directory)
        directory, path = deeper, path[cut + 1 :]
    return directory, path
