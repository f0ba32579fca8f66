"""The only place where a watch worker touches a watched tree: it first shows where, see `watching.Silence`."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from ingestd import worker
from ingestd.paths import PATH_MAX, open_below, open_long, stat_long
from ingestd.types import display

LONGEST: Final = 16 * 1024
"""Bytes of a directory's path: what lies deeper has no room in a frame."""
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK


class Tree:
    """What lies below the root of a source. Paths are relative to it; those of directories end with a slash.

    `follow`: symbolic links are what they lead to, except that nothing is seen of the directory `closed`.
    """

    def __init__(self, root: bytes, *, follow: bool = False, closed: bytes | None = None) -> None:
        self.root = root.rstrip(b"/") + b"/"
        self.follow = follow
        self._closed = os.stat(closed) if follow and closed is not None else None

    def step(self, path: bytes) -> None:
        """Show where the next answer is waited for."""
        worker.step(display(self.root + path))

    def stat(self, path: bytes) -> os.stat_result:
        """Of a file or directory. Raises `OSError`; ENOTDIR also where a link lies on the way that is not followed."""
        path = path.rstrip(b"/")
        self.step(path)
        if not path:
            return os.stat(self.root)
        if self.follow:
            try:
                return stat_long(self.root + path)
            except OSError as error:
                if error.errno != errno.ELOOP:
                    raise
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None  # it leads to itself
        cut = path.rfind(b"/") + 1
        directory = open_below(self.root, path[:cut])
        try:
            return os.stat(path[cut:], dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)

    def reach(self, prefix: bytes) -> int:
        """The directory, but not to be listed. Raises `OSError`."""
        self.step(prefix)
        return self._open_beyond(self.root + prefix) if self.follow else open_below(self.root, prefix)

    def own(self, path: bytes) -> os.stat_result:
        """Of a link itself, though links are followed. Raises `OSError`."""
        path = path.rstrip(b"/")
        cut = path.rfind(b"/") + 1
        directory = self.reach(path[:cut])
        try:
            return os.stat(path[cut:], dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)

    def dangling(self, path: bytes) -> bool:
        """Whether what is missing lies behind a link that leads nowhere now: nobody removed it here."""
        while self.follow and path:
            try:
                if not stat.S_ISLNK(self.own(path).st_mode):
                    return False
            except OSError:
                path = path[: path.rstrip(b"/").rfind(b"/") + 1]
                continue
            try:
                self.stat(path)
            except FileNotFoundError:
                return True
            return False
        return False

    def open(self, prefix: bytes, *, first: bool = False) -> int:
        """The directory, to be listed. `first`: it was not met in the listing of the directory above it."""
        self.step(prefix)
        if len(prefix) > LONGEST:
            raise OSError(errno.ENAMETOOLONG, f"its path is longer than {LONGEST} bytes")
        if not prefix:
            return os.open(self.root, _LIST)
        path = self.root + prefix[:-1]
        if self.follow:
            return self._open_beyond(path)
        if not first and len(path) < PATH_MAX:
            return os.open(path, _LIST | os.O_NOFOLLOW)
        directory = open_below(self.root, prefix)
        try:
            return os.open(b".", _LIST, dir_fd=directory)
        finally:
            os.close(directory)

    def _open_beyond(self, path: bytes) -> int:
        directory = open_long(path, _LIST)
        if self._closed is not None and os.path.samestat(os.fstat(directory), self._closed):
            os.close(directory)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return directory
