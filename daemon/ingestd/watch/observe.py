"""The kernel's change events for one source: hints of where to look, never the truth.

watchdog's inotify reader runs in a thread of its own and only marks paths here; the worker's loop drains the marks.
The scan adds each directory before it lists it, so there is no moment in which a change goes unseen, no second walk,
and no watch is spent on an excluded directory. A directory is known by its inode: one that is moved keeps its watch.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Final

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchCallback,
    WatchDescriptor,
)

from ingestd.errors import IngestdError

MARKS: Final = 50_000
"""Marked paths beyond which a scan of everything is cheaper."""

_IN = InotifyConstants
_MASK: Final = Mask(
    _IN.IN_MODIFY | _IN.IN_ATTRIB | _IN.IN_CLOSE_WRITE | _IN.IN_MOVED_FROM | _IN.IN_MOVED_TO | _IN.IN_CREATE
    | _IN.IN_DELETE | _IN.IN_MOVE_SELF | _IN.IN_ONLYDIR | _IN.IN_EXCL_UNLINK
)  # fmt: skip
_ID: Final = CallbackId(1)


class WatchLimitError(IngestdError):
    """The kernel has no more inotify watches or instances for this user."""


class Marks:
    """What the events since the last drain point at. Paths are relative to the source."""

    def __init__(self) -> None:
        self.files: dict[bytes, bool] = {}
        """True: it was closed after writing, or moved here."""
        self.directories: dict[bytes, bool] = {}
        """With their slash. True: it, or another one of that name, went away."""
        self.touched: set[bytes] = set()
        """Directories whose permissions or times changed."""
        self.overflow = False
        """Events were lost."""

    def __len__(self) -> int:
        return len(self.files) + len(self.directories) + len(self.touched)


class Observer(WatchCallback):
    """Watches directories of one source. `wake` is called, from another thread, when there is something to drain."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Raises `WatchLimitError`."""
        self._wake = wake
        self._lock = threading.Lock()
        self._marks = Marks()
        self._prefixes: dict[WatchDescriptor, bytes] = {}
        self._keys: dict[WatchDescriptor, tuple[int, int]] = {}
        self._watches: dict[tuple[int, int], WatchDescriptor] = {}
        self._seen: dict[WatchDescriptor, int] = {}
        self._generation = 0
        try:
            self._reader = InotifyFD()
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            raise WatchLimitError(
                "no inotify instance is left for this user",
                command="sysctl -w fs.inotify.max_user_instances=1024",
            ) from None
        self._reader.start()

    def __len__(self) -> int:
        return len(self._prefixes)

    @property
    def pending(self) -> bool:
        """There is something to drain."""
        return self._marks.overflow or len(self._marks) > 0

    @property
    def alive(self) -> bool:
        return self._reader.is_alive()

    def begin(self) -> int:
        """A scan begins; give the number to `sweep` at its end."""
        self._generation += 1
        return self._generation

    def add(self, prefix: bytes, descriptor: int, key: tuple[int, int]) -> None:
        """Watch the open directory, whose device and inode are `key`. Raises `WatchLimitError`."""
        with self._lock:
            watch = self._watches.get(key)
            if watch is not None:
                self._prefixes[watch] = prefix
                self._seen[watch] = self._generation
                return
        try:
            # By its descriptor, since another directory may have the path by now.
            watch = self._reader.add_callback(b"/proc/self/fd/%d" % descriptor, _MASK, self, _ID)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise WatchLimitError(
                    "no inotify watch is left for this user",
                    command="sysctl -w fs.inotify.max_user_watches=1048576",
                ) from None
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                return
            raise
        if watch < 0:  # not permitted; watchdog keeps a record of it all the same
            self._reader.remove_callbacks([(watch, _ID)])
            return
        with self._lock:
            self._prefixes[watch] = prefix
            self._keys[watch] = key
            self._watches[key] = watch
            self._seen[watch] = self._generation

    def sweep(self, prefix: bytes, generation: int) -> None:
        """End the watches below `prefix` on directories that were not met since `begin` gave `generation`."""
        with self._lock:
            stale = [
                watch
                for watch, place in self._prefixes.items()
                if self._seen[watch] < generation and place.startswith(prefix)
            ]
            for watch in stale:
                self._forget(watch)
        self._reader.remove_callbacks([(watch, _ID) for watch in stale])

    def drain(self) -> Marks:
        with self._lock:
            marks, self._marks = self._marks, Marks()
        return marks

    def close(self) -> None:
        with self._lock:
            self._prefixes.clear()
        self._reader.stop()
        self._reader.join()

    # --- called in the reader's thread ------------------------------------------------------------------------

    def on_event(self, event: InotifyEvent) -> None:
        mask = event.mask
        with self._lock:
            prefix = self._prefixes.get(event.wd)
            if prefix is None:
                return
            marks = self._marks
            first = not marks and not marks.overflow
            if not event.name:
                # Of the directory itself; all but the root are told of by the directory above as well.
                if mask & _IN.IN_UNMOUNT or (mask & _IN.IN_MOVE_SELF and not prefix):
                    marks.directories[prefix] = True
            elif mask & _IN.IN_ISDIR:
                path = prefix + event.name + b"/"
                if mask & (_IN.IN_MOVED_FROM | _IN.IN_DELETE):
                    marks.directories[path] = True
                elif mask & (_IN.IN_CREATE | _IN.IN_MOVED_TO):
                    marks.directories.setdefault(path, False)
                elif mask & _IN.IN_ATTRIB:
                    marks.touched.add(path)
            else:
                path = prefix + event.name
                closed = bool(mask & (_IN.IN_CLOSE_WRITE | _IN.IN_MOVED_TO))
                marks.files[path] = closed or marks.files.get(path, False)
            if len(marks) > MARKS:
                self._marks = Marks()
                self._marks.overflow = True
        if first:
            self._wake()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        with self._lock:
            prefix = self._prefixes.get(wd)
            if prefix is None:
                return
            self._forget(wd)
            self._marks.directories[prefix] = True
        self._wake()

    def on_queue_overflow(self) -> None:
        with self._lock:
            self._marks.overflow = True
        self._wake()

    def _forget(self, watch: WatchDescriptor) -> None:
        self._prefixes.pop(watch, None)
        self._seen.pop(watch, None)
        key = self._keys.pop(watch, None)
        if key is not None and self._watches.get(key) == watch:
            del self._watches[key]


NETWORK_TYPES: Final = frozenset({
    "nfs", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "ceph", "afs", "lustre", "glusterfs", "beegfs", "gpfs",
    "ocfs2", "gfs2", "orangefs", "pvfs2", "virtiofs", "vboxsf", "vmhgfs", "prl_fs", "davfs", "fuse.sshfs",
    "fuse.glusterfs", "fuse.ceph", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.goofys", "fuse.davfs",
    "fuse.curlftpfs", "fuse.vmhgfs-fuse", "fuse.portal",
})  # fmt: skip
"""File systems that others change without this kernel's knowledge."""


def file_system(path: bytes) -> str:
    """The type of the file system that a path lies on, "" where it cannot be told."""
    place = os.path.realpath(path)
    best, kind = -1, ""
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            for line in mounts:
                fields = line.split()
                point = fields[4].decode("unicode_escape").encode("latin-1")  # spaces are written \040
                inside = place == point or place.startswith(point.rstrip(b"/") + b"/")
                if inside and len(point) >= best:  # the last one of a place is on top
                    best, kind = len(point), fields[fields.index(b"-") + 1].decode()
    except (OSError, ValueError, IndexError):
        return ""
    return kind
