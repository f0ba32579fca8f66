"""Parts that a loader finds in its file, in the load worker: identified, taken along as far as there is room, told of.

Bytes go into one unlinked file after the other, each of many parts, so that thousands of members are a few descriptors;
the kernel cleans up, whoever dies. What the supervisor has no room for, or the index has already, is told of without
them: it is unpacked again when its turn comes.
"""

from __future__ import annotations

import os
import re
import shutil
import stat as modes
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from ingestd.channel import Channel, write_blob
from ingestd.detect import Detector
from ingestd.digest import digest_of
from ingestd.errors import LimitError
from ingestd.messages.load import Member, Parts, PartsTaken, Proceed
from ingestd.types import Allowance, File, Part
from ingestd.worker import one_line, step

BLOCK = 1 << 20
SEGMENT = 16 << 20
"""Bytes of parts after which they are handed over."""
MEMBERS = 256
"""Parts told of at once."""
LINGER = 1.0
"""Seconds after which those found so far are told of."""
LONGEST_NAME = 1000
"""Characters."""
_UNFIT = re.compile("[\0-\x1f\x7f\ud800-\udfff]")


class Unpacking:
    """The parts of one file."""

    def __init__(
        self,
        channel: Channel[Any],
        proceed: Proceed,
        known: bytes,
        detector: Detector,
        versions: Mapping[str, str],
        own: Path,
    ) -> None:
        """`known`: digests, 16 bytes each, of parts whose bytes nobody needs. `versions`: of the loaders. `own`: the
        worker's directory."""
        self._channel = channel
        self._job = proceed.job
        self._room = proceed.room
        self._want = proceed.want
        self._known = {known[i : i + 16] for i in range(0, len(known), 16)}
        self._detector = detector
        self._versions = versions
        self._own = own
        self._names: dict[str, int] = {}
        self._found: list[Member] = []
        self._segment: BinaryIO | None = None
        self._filled = 0
        self._taken = 0
        self._told = time.monotonic()

    def take(self, part: Part, file: File) -> None:
        """Raises `LimitError` where the file has too many parts."""
        allowed = file.allowance
        name = self._unique(tidy(part.name))
        step(f"part {allowed.parts + 1}: {name}")
        if allowed.depth <= 0:
            raise LimitError(
                f"containers in containers, more than max_parts_depth = {allowed.deepest}: its parts are not read"
            )
        if allowed.parts >= allowed.count:
            raise LimitError(f"more than max_parts = {allowed.count} parts")
        allowed.parts += 1
        if part.error is not None or part.path is None:
            self._found.append(Member(name, error=one_line(part.error or "it has no content")))
        else:
            self._content(name, part.path, allowed)
        if len(self._found) >= MEMBERS or self._filled >= SEGMENT or time.monotonic() - self._told > LINGER:
            self.flush()

    def flush(self) -> None:
        """Tell of what was found, and wait until that is journaled."""
        if not self._found:
            return
        descriptors = [write_blob([msgspec.msgpack.encode(self._found)], self._own)]
        try:
            if self._segment is not None:
                self._segment.flush()
                descriptors.append(self._segment.fileno())
            self._channel.send(Parts(job=self._job), descriptors)
        finally:
            os.close(descriptors[0])
            self.close()
        self._found = []
        try:
            answer, others = self._channel.receive()
        except EOFError:
            os._exit(0)
        for descriptor in others:
            os.close(descriptor)
        assert isinstance(answer, PartsTaken)
        self._room = answer.room
        self._told = time.monotonic()

    def close(self) -> None:
        """Let go of what was not handed over."""
        if self._segment is not None:
            self._segment.close()
            self._segment = None
            self._filled = 0

    def _unique(self, name: str) -> str:
        number = self._names[name] = self._names.get(name, 0) + 1
        return name if number == 1 else self._unique(f"{name}~{number}")

    def _content(self, name: str, path: Path, allowed: Allowance) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not modes.S_ISREG(found.st_mode):
                raise TypeError(f"the part {name!r} is not a regular file")
            allowed.used += found.st_size
            if allowed.used > allowed.size:
                raise LimitError(f"more than max_parts_size = {allowed.size} bytes in its parts")
            digest = digest_of(stream)
            detected = self._detector.detect(stream, name.rpartition("/")[2])
            offset = self._pack(name, stream, digest, found.st_size)
        version = self._versions[detected.loader] if detected.loader is not None else ""
        self._found.append(Member(name, found.st_size, digest, detected.media_type, detected.loader, version, offset))
        os.unlink(path)

    def _pack(self, name: str, stream: BinaryIO, digest: bytes, size: int) -> int:
        """Where its bytes begin in the file that goes along; -1: they are left out."""
        if digest in self._known or (self._want is not None and not leads_to(name, self._want)):
            return -1
        if self._room <= 0 or (size > self._room and self._taken):
            return -1  # the first one goes along whatever its size: it would never have another chance
        if self._segment is None:
            self._segment = tempfile.TemporaryFile(dir=self._own)  # noqa: SIM115
            self._filled = 0
        stream.seek(0)
        offset = self._filled
        shutil.copyfileobj(stream, self._segment, BLOCK)
        self._filled += size
        self._room -= size
        self._taken += 1
        return offset


def leads_to(name: str, member: str) -> bool:
    """Whether a part is the one that is meant, or the container in which that lies."""
    return member == name or member.startswith(f"{name}!/")


def tidy(name: str) -> str:
    """A name that can be stored and printed anywhere."""
    name = _UNFIT.sub("\N{REPLACEMENT CHARACTER}", name) or "unnamed"
    return name if len(name) <= LONGEST_NAME else name[:LONGEST_NAME]


def fetch(descriptor: int, offset: int, size: int, target: Path) -> None:
    """Write the bytes of a part to a file."""
    with target.open("xb") as copy:
        while size > 0:
            block = os.pread(descriptor, min(size, BLOCK), offset)
            if not block:
                break
            copy.write(block)
            offset += len(block)
            size -= len(block)
