"""The kernel's change events for one source: hints of where to look, never the truth.

watchdog's inotify reader runs in a thread of its own and only marks paths here; the worker's loop drains the marks.
The scan adds each directory before it lists it, so there is no moment in which a change goes unseen, no second walk,
and no watch is spent on an excluded directory. A directory is known by its inode: one that is moved keeps its watch.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path
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

SELF_TEST: Final = b".ingestd-self-test"
"""Name of the file that is made to see whether its event comes. It is never a document."""
HEARD_WITHIN: Final = 1.0
"""Seconds in which that event must come."""

_IN = InotifyConstants
_MASK: Final = Mask(
    _IN.IN_MODIFY | _IN.IN_ATTRIB | _IN.IN_CLOSE_WRITE | _IN.IN_MOVED_FROM | _IN.IN_MOVED_TO | _IN.IN_CREATE
    | _IN.IN_DELETE | _IN.IN_MOVE_SELF | _IN.IN_ONLYDIR | _IN.IN_EXCL_UNLINK
)  # fmt: skip
_ID: Final = CallbackId(1)


class WatchLimitError(IngestdError):
    """The kernel has no more inotify watches or instances for this user."""

    def __init__(self, what: str, key: str, least: int) -> None:
        try:
            now = int(Path(f"/proc/sys/fs/inotify/{key}").read_text())
        except (OSError, ValueError):
            now = 0
        super().__init__(
            f"no inotify {what} is left for this user (fs.inotify.{key} is {now})",
            command=f"sysctl -w fs.inotify.{key}={max(least, 2 * now)}",
        )


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
        self._heard = threading.Event()
        self._prefixes: dict[WatchDescriptor, bytes] = {}
        """Where the directory was met first; the other places of one that is mounted twice are in `_more`."""
        self._more: dict[WatchDescriptor, dict[bytes, int]] = {}
        """When they were seen, see `_seen`."""
        self._keys: dict[WatchDescriptor, tuple[int, int]] = {}
        self._watches: dict[tuple[int, int], WatchDescriptor] = {}
        self._seen: dict[WatchDescriptor, int] = {}
        self._generation = 0
        try:
            self._reader = InotifyFD()
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            raise WatchLimitError("instance", "max_user_instances", 1024) from None
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
                # It was moved, and its old place is swept in time; or it is there too, by a bind mount.
                if self._prefixes[watch] == prefix:
                    self._seen[watch] = self._generation
                else:
                    self._more.setdefault(watch, {})[prefix] = self._generation
                return
        try:
            # By its descriptor, since another directory may have the path by now.
            watch = self._reader.add_callback(b"/proc/self/fd/%d" % descriptor, _MASK, self, _ID)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise WatchLimitError("watch", "max_user_watches", 1 << 20) from None
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

    def hears(self, prefix: bytes, descriptor: int, key: tuple[int, int]) -> bool:
        """Whether a change in the open directory causes an event: a file is made there, and removed again.

        Raises `WatchLimitError`.
        """
        self.add(prefix, descriptor, key)
        self._heard.clear()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            with contextlib.suppress(FileNotFoundError):  # else one that died in the middle left it
                os.unlink(SELF_TEST, dir_fd=descriptor)
            os.close(os.open(SELF_TEST, flags, 0o600, dir_fd=descriptor))
            return self._heard.wait(HEARD_WITHIN)
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                os.unlink(SELF_TEST, dir_fd=descriptor)
            with self._lock:
                watch = self._watches.get(key)
                if watch is not None:
                    self._forget(watch)
            if watch is not None:
                self._reader.remove_callbacks([(watch, _ID)])

    def sweep(self, prefix: bytes, generation: int) -> None:
        """End the watches below `prefix` on directories that were not met there since `begin` gave `generation`."""
        with self._lock:
            for watch, more in list(self._more.items()):
                for place in [p for p, seen in more.items() if seen < generation and p.startswith(prefix)]:
                    del more[place]
                if not more:
                    del self._more[watch]
            stale = []
            for watch, place in self._prefixes.items():
                if self._seen[watch] < generation and place.startswith(prefix):
                    stale.append(watch)
            for watch in list(stale):
                if watch in self._more:
                    self._prefixes[watch], self._seen[watch] = self._more[watch].popitem()
                    if not self._more[watch]:
                        del self._more[watch]
                    stale.remove(watch)
                else:
                    self._forget(watch)
        self._reader.remove_callbacks([(watch, _ID) for watch in stale])

    def drain(self) -> Marks:
        with self._lock:
            marks, self._marks = self._marks, Marks()
        return marks

    def close(self) -> None:
        with self._lock:
            self._prefixes.clear()
            self._more.clear()
        self._reader.stop()
        self._reader.join()

    # --- called in the reader's thread ------------------------------------------------------------------------

    def on_event(self, event: InotifyEvent) -> None:
        if event.name == SELF_TEST:
            self._heard.set()
            return
        with self._lock:
            prefixes = self._places(event.wd)
            if not prefixes:
                return
            first = not self._marks and not self._marks.overflow
            for prefix in prefixes:
                self._mark(prefix, event.name, event.mask)
            if len(self._marks) > MARKS:
                self._marks = Marks()
                self._marks.overflow = True
        if first:
            self._wake()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        with self._lock:
            prefixes = self._places(wd)
            if not prefixes:
                return
            self._forget(wd)
            self._marks.directories.update(dict.fromkeys(prefixes, True))
        self._wake()

    def on_queue_overflow(self) -> None:
        with self._lock:
            self._marks.overflow = True
        self._wake()

    # --- with the lock held -----------------------------------------------------------------------------------

    def _mark(self, prefix: bytes, name: bytes, mask: int) -> None:
        marks = self._marks
        if not name:
            # Of the directory itself; all but the root are told of by the directory above as well.
            if mask & _IN.IN_UNMOUNT or (mask & _IN.IN_MOVE_SELF and not prefix):
                marks.directories[prefix] = True
        elif mask & _IN.IN_ISDIR:
            path = prefix + name + b"/"
            if mask & (_IN.IN_MOVED_FROM | _IN.IN_DELETE):
                marks.directories[path] = True
            elif mask & (_IN.IN_CREATE | _IN.IN_MOVED_TO):
                marks.directories.setdefault(path, False)
            elif mask & _IN.IN_ATTRIB:
                marks.touched.add(path)
        else:
            path = prefix + name
            closed = bool(mask & (_IN.IN_CLOSE_WRITE | _IN.IN_MOVED_TO))
            marks.files[path] = closed or marks.files.get(path, False)

    def _places(self, watch: WatchDescriptor) -> list[bytes]:
        """Where the directory is, below the source."""
        prefix = self._prefixes.get(watch)
        if prefix is None:
            return []
        return [prefix, *self._more[watch]] if watch in self._more else [prefix]

    def _forget(self, watch: WatchDescriptor) -> None:
        self._prefixes.pop(watch, None)
        self._more.pop(watch, None)
        self._seen.pop(watch, None)
        key = self._keys.pop(watch, None)
        if key is not None and self._watches.get(key) == watch:
            del self._watches[key]
