"""Frames of the load workers: a file identified, loaded and cut, and the parts found in it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from ingestd.messages import Count, Digest, Frame, MemberName, Reason, Short


class Stat(msgspec.Struct, frozen=True, array_like=True):
    """The identity of a file's content as far as `stat` can tell."""

    device: int
    """From a watch worker: a number for what is mounted there, see `mounts.volume`."""
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


def journaled(number: int) -> int:
    """A number of a `stat` as SQLite can keep it: 64 bits with a sign. Times after 2262, which file systems take, and
    inode numbers of the upper half wrap around."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


class Load(Frame, frozen=True, kw_only=True):
    """Open the file, say what it is (`Identified`), and wait for `Proceed` or `Drop`."""

    job: int
    path: bytes
    """Absolute."""
    follow_links: bool = False
    scratch: str
    """Directory of this attempt, made and removed by the supervisor."""
    loader: Short | None = None
    """Have this one load it, whatever the file is."""
    member: MemberName = ""
    """A part of the file. Descriptor: its bytes are `size` from `offset` on, with this digest."""
    offset: Count = 0
    size: Count = 0
    digest: Digest = b""


class Identified(Frame, frozen=True, kw_only=True):
    """The file was opened and read once: its digest, its type and who loads it (None: no loader)."""

    job: int
    stat: Stat
    digest: Digest
    media_type: Short
    loader: Short | None
    loader_version: Short = ""


class Proceed(Frame, frozen=True, kw_only=True):
    """Load it. Descriptors, if any: a blob of the 16-byte hashes of chunks whose vectors the index has, one of the
    16-byte digests of parts whose bytes nobody needs, and one of what the loader made of this content before."""

    job: int
    limits: dict[str, Any] = {}
    """Those of `LoaderLimits` that a worker keeps, and `accept_changed` (take what was read, though the file changed
    meanwhile)."""
    depth: Count = 0
    """Containers in which the file lies."""
    room: Count = 0
    """Bytes of parts that may be taken along."""
    want: MemberName | None = None
    """Take along only this part, or the container in which it lies."""
    options: dict[str, Any] = {}
    """The loader's own options."""
    show: Count = 0
    """Hand over what the loader yielded, the first so many elements: a further descriptor, a blob of `Yielded`."""


class Drop(Frame, frozen=True, kw_only=True):
    """Do not load it: the index has this content already, or no loader takes it."""

    job: int


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """An element as a person looks at it."""

    kind: str
    page: int | None
    level: int | None
    text: str
    """Its beginning."""
    length: int
    """Characters of all of it."""


class Yielded(msgspec.Struct, frozen=True):
    """What a loader yielded, for those who look at it."""

    elements: int
    shown: list[Shown]
    faults: list[str]
    """Where it does not keep to the contract of loaders, see `contract`."""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A part that a loader found in its file."""

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=1024, pattern=r"\A[^\0]*\Z")]
    """Its own, without that of the container; no two parts of a file have the same."""
    size: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)] = 0
    digest: Digest = b""
    media_type: Short = ""
    loader: Short | None = None
    loader_version: Short = ""
    offset: Annotated[int, msgspec.Meta(ge=-1, lt=1 << 62)] = -1
    """Where its bytes begin in what comes along; -1: nowhere."""
    error: Reason | None = None
    """Why it cannot be read."""


class Parts(Frame, frozen=True, kw_only=True):
    """Some of the parts of the file. Descriptors: a blob of them (msgpack list of `Member`), and, if any was taken
    along, a file with their bytes. The worker goes on when it has `PartsTaken`."""

    job: int


class PartsTaken(Frame, frozen=True, kw_only=True):
    """They are journaled. `room`: bytes that may be taken along from now on."""

    job: int
    room: Count


UNKNOWN_TOKENS = "tokens are unknown to the model"
"""Part of the warning of a text in a language that the model does not know."""


class Loaded(Frame, frozen=True, kw_only=True):
    """Descriptors: chunks (msgpack list of `Chunk`), token ids of the fresh ones (`encode.pack_tokens`), the 16-byte
    hashes of all chunks, in order, and, with `remember`, what is to be given with the next `Proceed` for this content.
    `leave`: the worker is not fit for another file."""

    job: int
    chunks: Count
    fresh: Count
    tokens: Count
    """Token ids of the fresh chunks."""
    size: Count
    """Bytes of both blobs."""
    title: Short | None = None
    partial: Reason | None = None
    """Why the text ends before the file does."""
    warnings: list[Reason] = []
    metadata: dict[str, Any] = {}
    changed: bool = False
    """The file changed while it was read, which `accept_changed` allowed."""
    remember: bool = False
    leave: bool = False


class LoadFailed(Frame, frozen=True, kw_only=True):
    """The attempt failed inside the worker, which is still fit for the next file unless `leave` is set."""

    job: int
    kind: Short
    """"file" (the file is at fault for good), "error" (an exception: a strike), "memory", "gone" (no such file),
    "changed" (it changed while it was read), "unreadable" (permission or input/output error), "full" (no room on
    the disk of the scratch directory), "missing" (the loader needs something that is not installed)."""
    reason: Reason
    detail: Reason = ""
    leave: bool = False
    limit: bool = False
    """A limit was met: elsewhere another one may hold for the same content."""
