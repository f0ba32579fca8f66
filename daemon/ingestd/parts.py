"""Parts that were unpacked and wait to be loaded: their bytes, in descriptors that the supervisor holds.

Nothing but a cache. What is not here is unpacked again: the journal says what there is, the container has the bytes.
A descriptor is of an unlinked file with many parts in it, and is closed when the last of them is done with.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import msgspec

from ingestd.channel import read_blob
from ingestd.errors import ChannelError
from ingestd.journal import Row
from ingestd.journal.members import joined
from ingestd.messages.load import Member

ROOM = 1 << 30
"""Bytes of parts that may wait, all together, about."""
SEGMENTS = 256
"""Descriptors."""
STALE = 30.0
"""Seconds after which bytes that nobody asked for make room for others."""
LISTING = 16 << 20
"""Bytes that a list of parts may have."""

Key = tuple[str, bytes, str]
_members = msgspec.msgpack.Decoder(list[Member])


class Place(NamedTuple):
    """Where the bytes of a part are."""

    descriptor: int
    offset: int
    size: int


class Segment:
    """One file with the bytes of several parts."""

    def __init__(self, descriptor: int, size: int, used: float) -> None:
        self.descriptor = descriptor
        self.size = size
        self.used = used
        """When somebody asked for any of it."""
        self.parts: dict[Key, tuple[bytes, int, int]] = {}
        """Digest, offset and size of those that are still wanted."""


class Unpacked:
    """All that is at hand."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._segments: dict[int, Segment] = {}
        self._where: dict[Key, Segment] = {}
        self._size = 0

    def add(self, row: Row, members: Sequence[Member], descriptor: int) -> None:
        """Take over the descriptor with the bytes of these parts of `row`. Raises `ChannelError`; then it is closed."""
        size = os.fstat(descriptor).st_size
        segment = Segment(descriptor, size, self._clock())
        for member in members:
            if member.offset >= 0:
                if member.offset + member.size > size:
                    os.close(descriptor)
                    raise ChannelError(f"a bad frame: the part {member.name!r} lies outside of what came along")
                key = (row.source, row.path, joined(row.member, member.name))
                segment.parts[key] = (member.digest, member.offset, member.size)
        self._segments[descriptor] = segment
        self._size += size
        for key in segment.parts:
            self.done(key)
            self._where[key] = segment

    def keep(self, row: Row, members: Sequence[Member], wanted: Collection[str]) -> None:
        """Of these parts of `row` only those are wanted."""
        for member in members:
            name = joined(row.member, member.name)
            if name not in wanted:
                self.done((row.source, row.path, name))

    def find(self, row: Row) -> Place | None:
        """Where the bytes of a part are."""
        key = (row.source, row.path, row.member)
        segment = self._where.get(key)
        if segment is None:
            return None
        digest, offset, size = segment.parts[key]
        segment.used = self._clock()
        return Place(segment.descriptor, offset, size) if digest == row.digest else None

    def done(self, key: Key) -> None:
        """Nobody will ask for this part again."""
        segment = self._where.pop(key, None)
        if segment is not None:
            del segment.parts[key]
            if not segment.parts:
                self._drop(segment)

    def room(self) -> int:
        """Bytes that may come to those that are here."""
        if self._size > ROOM // 2 or len(self._segments) >= SEGMENTS // 2:
            stale = self._clock() - STALE
            for segment in [segment for segment in self._segments.values() if segment.used < stale]:
                self._drop(segment)
        return max(0, ROOM - self._size) if len(self._segments) < SEGMENTS else 0

    def close(self) -> None:
        for segment in list(self._segments.values()):
            self._drop(segment)

    def _drop(self, segment: Segment) -> None:
        if self._segments.pop(segment.descriptor, None) is None:
            return
        for key in segment.parts:
            if self._where.get(key) is segment:
                del self._where[key]
        self._size -= segment.size
        os.close(segment.descriptor)


def read(descriptors: list[int]) -> tuple[list[Member], int | None]:
    """What came with a `Parts` frame: the parts, and the descriptor of their bytes. Raises `ChannelError`."""
    try:
        if not 1 <= len(descriptors) <= 2:
            raise ChannelError(f"a bad frame: parts came with {len(descriptors)} descriptors")
        members = _members.decode(read_blob(descriptors.pop(0), LISTING))
    except (ChannelError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(error, ChannelError):
            raise
        raise ChannelError(f"a bad frame: {error}") from None
    return members, descriptors[0] if descriptors else None
