"""What is mounted where, as the kernel says it in text: no path is looked at, so nothing here can hang."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import Final, NamedTuple

_TABLE: Final = "/proc/self/mountinfo"


class Mount(NamedTuple):
    """One mount. The fields are empty where nothing can be told."""

    kind: str = ""
    """Type of the file system."""
    root: bytes = b""
    """What part of the file system is mounted; not all of it with a bind mount."""
    source: bytes = b""
    """A device, a server's export, or any word."""


def mount_of(descriptor: int) -> Mount:
    """The mount on which an open file lies."""
    number = b""
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as lines:
            for line in lines:
                if line.startswith(b"mnt_id:"):
                    number = line.split()[1]
        with open(_TABLE, "rb") as mounts:
            for line in mounts:
                fields = line.split(b" ")
                if fields[0] == number:
                    rest = fields.index(b"-", 6)
                    return Mount(fields[rest + 1].decode("ascii", "replace"), fields[3], fields[rest + 2])
    except (OSError, ValueError, IndexError):
        pass
    return Mount()


def volume(descriptor: int) -> int:
    """A number for what is mounted where an open directory lies: the same after it was mounted again.

    The device number will not do: the kernel gives a free one to whatever is mounted next.
    """
    kind, root, source = mount_of(descriptor)
    fsid = os.fstatvfs(descriptor).f_fsid
    name = b"\0".join((kind.encode(), root, str(fsid).encode() if fsid else source))
    return int.from_bytes(hashlib.blake2b(name, digest_size=7).digest(), "little")


def mount_points() -> list[bytes]:
    """The directories on which something is mounted, longest first."""
    return sorted({point.rstrip(b"/") or b"/" for point, _ in _table()}, key=len, reverse=True)


def point_of(path: bytes, points: Sequence[bytes]) -> bytes:
    """The mount point that a path lies below, by its name alone; `points`: longest first."""
    for point in points:
        if path == point or path.startswith(point.rstrip(b"/") + b"/"):
            return point
    return b"/"


def mounts_about(place: bytes) -> list[bytes]:
    """What the kernel says of the mounts on the way to a directory and below it; another list: one came or went."""
    place = place.rstrip(b"/") + b"/"
    return [line for point, line in _table() if place.startswith(point) or point.startswith(place)]


def points_below(place: bytes) -> set[bytes]:
    """The directories below `place` on which something is mounted, relative to it, with their slash."""
    place = place.rstrip(b"/") + b"/"
    return {point[len(place) :] for point, _ in _table() if point.startswith(place) and point != place}


def _table() -> list[tuple[bytes, bytes]]:
    """Mount point, with its slash, and line."""
    with open(_TABLE, "rb") as mounts:
        return [
            (line.split(b" ")[4].decode("unicode_escape").encode("latin-1").rstrip(b"/") + b"/", line)
            for line in mounts
        ]
