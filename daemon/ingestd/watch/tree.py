"""The only place where a watch worker touches a watched tree: it first shows where, see `watching.Silence`."""

from __future__ import annotations

import errno
import os
from typing import Final

from ingestd import worker
from ingestd.paths import PATH_MAX, open_below
from ingestd.types import display

LONGEST: Final = 16 * 1024
"""Bytes of a directory's path: what lies deeper has no room in a frame."""
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK


class Tree:
    """What lies below the root of a source. Paths are relative to it; those of directories end with a slash."""

    def __init__(self, root: bytes) -> None:
        self.root = root.rstrip(b"/") + b"/"

    def step(self, path: bytes) -> None:
        """Show where the next answer is waited for."""
        worker.step(display(self.root + path))

    def stat(self, path: bytes) -> os.stat_result:
        """Of a file or directory itself. Raises `OSError`; ENOTDIR also where a link lies on the way."""
        path = path.rstrip(b"/")
        self.step(path)
        if not path:
            return os.stat(self.root)
        cut = path.rfind(b"/") + 1
        directory = open_below(self.root, path[:cut])
        try:
            return os.stat(path[cut:], dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)

    def open(self, prefix: bytes, *, first: bool = False) -> int:
        """The directory, to be listed. `first`: it was not met in the listing of the directory above it."""
        self.step(prefix)
        if len(prefix) > LONGEST:
            raise OSError(errno.ENAMETOOLONG, f"its path is longer than {LONGEST} bytes")
        if not prefix:
            return os.open(self.root, _LIST)
        path = self.root + prefix[:-1]
        if not first and len(path) < PATH_MAX:
            return os.open(path, _LIST | os.O_NOFOLLOW)
        directory = open_below(self.root, prefix)
        try:
            return os.open(b".", _LIST, dir_fd=directory)
        finally:
            os.close(directory)
