"""Frames of the index worker: writes, searches, and the comparison with the journal."""

from __future__ import annotations

from typing import Literal

import msgspec

from ingestd.messages import Count, Frame, Reason
from ingestd.types import Document


class IndexReplace(Frame, frozen=True, kw_only=True):
    """Descriptors: chunks, and vectors of the fresh ones where there are any."""

    job: int
    document: Document


class IndexRekey(Frame, frozen=True, kw_only=True):
    job: int
    origin: str
    document: Document


class IndexRemove(Frame, frozen=True, kw_only=True):
    job: int
    doc_id: str


class IndexWritten(Frame, frozen=True, kw_only=True):
    """Durable. See `types.Written`."""

    job: int
    chunks: Count = 0
    missing: Count = 0
    error: Reason | None = None
    broken: bool = False
    """The error is no verdict of the sink: it raised, or answered with nonsense."""


class IndexUnavailable(Frame, frozen=True, kw_only=True):
    """The store cannot be written now; the operation is to be sent again later."""

    job: int
    reason: Reason


class IndexSearch(Frame, frozen=True, kw_only=True):
    job: int
    text: str
    vector: bytes
    top: int
    source: str | None = None
    path: str | None = None
    under: bytes | None = None
    category: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None


class IndexHits(Frame, frozen=True, kw_only=True):
    """Descriptor: msgpack list of `types.Hit`."""

    job: int
    error: Reason | None = None


class IndexRead(Frame, frozen=True, kw_only=True):
    """A document as it is stored."""

    job: int
    doc_id: str


class IndexDocument(Frame, frozen=True, kw_only=True):
    """Descriptors where there is such a document: msgpack list of `types.Chunk`, and of their texts."""

    job: int
    document: Document | None = None
    chunks: Count = 0
    hashes: bytes = b""
    """BLAKE2b of the hashes of the chunks, in order."""
    error: Reason | None = None


Problem = Literal["missing", "extra", "stale"]
"""`missing`: the index lacks what the journal says it has; `extra`: the journal knows nothing of it; `stale`: the index
has something else."""


class Finding(msgspec.Struct, array_like=True, frozen=True):
    """One document that is not as it should be."""

    problem: Problem
    reason: str
    doc_id: str
    source: str
    path: bytes
    """Absolute, of one that the index has; else relative to the source."""
    row: int = 0
    """Of the journal; 0 for one that it does not have."""
    version: int = 0
    digest: bytes = b""
    """That the index has."""
    hashes: bytes = b""
    """16 bytes for each chunk that the index has."""


class IndexCompare(Frame, frozen=True, kw_only=True):
    """Compare the journal at this path with the index. `deep`: every chunk's text and vector, too."""

    job: int
    journal: str
    deep: bool = False
    repair: bool = False
    """Tell which chunks the index has of what is wrong."""


class IndexComparing(Frame, frozen=True, kw_only=True):
    """How far it is; no answer to the job."""

    done: Count
    total: Count


class IndexCompared(Frame, frozen=True, kw_only=True):
    """Descriptor: msgpack list of `Finding`, the first ones; `problems` counts all."""

    job: int
    documents: Count = 0
    chunks: Count = 0
    pending: Count = 0
    problems: dict[str, int] = {}
    error: Reason | None = None
