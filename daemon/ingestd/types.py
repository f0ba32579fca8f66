"""The vocabulary that every stage shares: files, elements, chunks, documents, queries, hits."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

import msgspec

from ingestd.errors import LimitError

if TYPE_CHECKING:  # the supervisor and the command line never need numpy
    import numpy as np
    import numpy.typing as npt

State = Literal["queued", "running", "indexed", "partial", "failed", "quarantined", "skipped", "held"]
"""What a file, or a part of one, is in the journal; `ingestd explain STATE` says what each means."""
STATES: tuple[State, ...] = (
    "queued", "running", "indexed", "partial", "failed", "quarantined", "skipped", "held",
)  # fmt: skip
"""The states of a journal row, in the order in which `status` prints them."""

Kind = Literal["text", "title", "heading", "list", "table", "code", "note", "header", "footnote", "caption"]
"""What an element is. `title` names the document, `heading` opens a section of `Element.level`."""

Metadata = Mapping[str, Any]
"""Plain typed data only: str, int, float, bool, None, and lists and dicts of them."""


# --- identity -------------------------------------------------------------------------------------------------


def document_id(source: str, path: bytes, member: str = "") -> str:
    """Hex of BLAKE2b-128 over source name, path relative to the source, and member of a container."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (source.encode(), path, member.encode()):
        digest.update(len(part).to_bytes(4, "little"))
        digest.update(part)
    return digest.hexdigest()


def text_hash(text: str, occurrence: int) -> bytes:
    """16 bytes: BLAKE2b-128 of a chunk's text and its occurrence among equal texts of the document (0, 1, ...)."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    digest.update(occurrence.to_bytes(4, "little"))
    return digest.digest()


def chunk_id(doc_id: str, hash: bytes) -> str:
    """Hex of BLAKE2b-128 over the document's id and the chunk's `text_hash`."""
    return hashlib.blake2b(doc_id.encode() + hash, digest_size=16).hexdigest()


def display(path: bytes | str) -> str:
    """A path that can be printed and sent anywhere: what is not UTF-8 becomes U+FFFD."""
    return (path if isinstance(path, bytes) else os.fsencode(path)).decode("utf-8", "replace")


# --- loading --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Element:
    """One piece of a document, in reading order: a paragraph, a heading, a table row block, a slide's notes."""

    text: str
    kind: Kind = "text"
    page: int | None = None
    """Page, slide or sheet number, from 1."""
    level: int | None = None
    """Depth of a heading, from 1."""
    metadata: Metadata = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Part:
    """A child document found inside a file: an attachment, a member of an archive. `File.part` makes one.

    It is taken before the loader goes on, and the file at `path` is removed.
    """

    name: str
    """As the file has it, "/" between directories."""
    path: Path | None = None
    """Where its content was written, below `File.scratch`."""
    error: str | None = None
    """Why it cannot be read: it becomes a document that is quarantined with this reason, the others do not suffer."""


@dataclass(slots=True)
class Allowance:
    """How much a file may hold, and how much was found in it."""

    count: int = 10_000
    """Parts."""
    size: int = 4 << 30
    """Bytes of all parts."""
    part: int = 1 << 30
    """Bytes of one part."""
    ratio: float = 200.0
    """Times that a packed file, or part, may grow when it is unpacked."""
    depth: int = 0
    """Containers that its parts may still lie in; 0: it may have none."""
    deepest: int = 0
    """`max_parts_depth`."""
    parts: int = 0
    used: int = 0
    spent: int = 0
    """Bytes unpacked of parts that turned out to be too large: work that was done for nothing."""


RATIO_FREE = 64 << 20
"""Bytes that may be unpacked whatever the ratio: a small bomb is no bomb."""
_BLOCK = 1 << 20


@dataclass(slots=True)
class File:
    """What a loader is given.

    `path` is an ASCII alias with the right suffix, whatever the file's real name; `name` is the real one, for
    people. `scratch` is a directory of this attempt alone, the only place where a loader may write.
    """

    path: Path
    name: str
    suffix: str
    """Lower case, with the dot: that of the detected type where the real suffix lies."""
    media_type: str
    size: int
    scratch: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    """The loader's own table of the configuration, `[load.NAME]`, without the keys that ingestd itself reads."""
    warnings: list[str] = field(default_factory=list)
    title: str | None = None
    """Set by the loader where the format names the document."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Document-level metadata that the loader adds (author, encoding, ...)."""
    partial: str | None = None
    """Set by the loader where what it yields is not all that the file has: why."""
    allowance: Allowance = field(default_factory=Allowance)
    """For those who unpack: what is left of it."""

    def warn(self, message: str) -> None:
        """Add a line that `ingestd why` shows; the file is indexed all the same."""
        if message not in self.warnings and len(self.warnings) < 32:
            self.warnings.append(message)

    def part(self, name: str, content: bytes | BinaryIO, packed: int | None = None) -> Part:
        """A part of the file, to be yielded; `content`: a stream is read to its end.

        `packed`: bytes that it takes in the file, where that can be told. A part that is too large for the
        configuration is one with an `error`. Raises `LimitError` where all parts together are too large: let it pass,
        what was yielded stays.
        """
        allowed = self.allowance
        path = self.scratch / "part"
        path.unlink(missing_ok=True)
        size = 0
        error: str | None = None
        stream = io.BytesIO(content) if isinstance(content, bytes) else content
        with path.open("xb") as target:
            while error is None and (block := stream.read(_BLOCK)):
                size += len(block)
                if allowed.used + allowed.spent + size > allowed.size:
                    raise LimitError(f"more than max_parts_size = {allowed.size} bytes in its parts")
                if size > allowed.part:
                    error = f"larger than max_file_size: the limit is {allowed.part} bytes"
                elif packed is not None and size > max(RATIO_FREE, allowed.ratio * packed):
                    error = f"it unpacks to more than max_parts_ratio = {allowed.ratio:g} times its size"
                elif allowed.used + size > max(RATIO_FREE, allowed.ratio * self.size):
                    raise LimitError(f"its parts have more than max_parts_ratio = {allowed.ratio:g} times its size")
                target.write(block)
        if error is not None:
            allowed.spent += size
            path.unlink()
            return Part(name, error=error)
        return Part(name, path)


class Loader(Protocol):
    """One file format family. See `hookspecs.register_loaders`."""

    name: str
    version: str
    suffixes: Sequence[str]
    """Lower case, with the dot."""
    media_types: Sequence[str]

    def load(self, file: File) -> Iterator[Element | Part]:
        """Yield the file's elements in reading order, streaming.

        Raises `FileError` (or a subclass) where the file is at fault for good; any other exception counts as a
        strike and is tried again.
        """
        ...


# --- chunks ---------------------------------------------------------------------------------------------------


class Chunk(msgspec.Struct, array_like=True, frozen=True):
    """A passage of a document as it travels from a load worker to the index."""

    hash: bytes
    """`text_hash`, 16 bytes."""
    text: str
    ordinal: int
    """Position in the document, from 0."""
    tokens: int
    """Token ids that the encoder sees, special tokens and prompt included."""
    fresh: bool
    """True: its vector is the next one of the vectors sent along. False: the index has its vector already."""
    page: int | None = None
    headings: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What the index knows of a document beside its chunks."""

    doc_id: str
    source: str
    path: bytes
    """Absolute."""
    title: str | None = None
    media_type: str = ""
    size: int = 0
    """Bytes."""
    mtime_ns: int = 0
    """Of a part: its container's, when that was found to have it."""
    digest: bytes = b""
    loader: str = ""
    category_id: str | None = None
    category_path: str | None = None
    metadata: dict[str, Any] = {}


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """What decides whether two vectors can be compared and two chunkings are the same.

    Not part of it: dtype, engine, device, query prompt.
    """

    model: str
    dims: int
    pooling: str
    normalize: bool
    tokenizer: str
    """Digest of the tokeniser."""
    max_tokens: int
    overlap: int
    passage_prompt: str = ""
    chunking: int = 1
    """Version of the splitting rules."""

    def digest(self) -> str:
        """12 hex digits that name an index."""
        return hashlib.blake2b(msgspec.json.encode(self, order="sorted"), digest_size=6).hexdigest()

    def changes(self, made: Fingerprint) -> str:
        """How it differs from that of an index made earlier, for a person; empty where it does not."""
        differing = [name for name in self.__struct_fields__ if getattr(made, name) != getattr(self, name)]
        return "; ".join(f"{name} was {getattr(made, name)!r}, is {getattr(self, name)!r}" for name in differing)


# --- encoding -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids of several texts, flat: text i is `ids[offsets[i]:offsets[i + 1]]`, special tokens included."""

    ids: npt.NDArray[np.int32]
    """Shape (total,)."""
    offsets: npt.NDArray[np.int64]
    """Shape (n + 1,), from 0 to total."""

    def __len__(self) -> int:
        return len(self.offsets) - 1


class Tokenizer(Protocol):
    """The encoder's own tokeniser; loads without the model's weights and without torch."""

    max_tokens: int
    """The most token ids per text that the model takes, special tokens included."""
    unknown_id: int | None
    digest: str
    passage_prompt: str
    """The model's own prompt for passages, where the configuration names none."""

    def encode(self, texts: Sequence[str], *, prompt: str = "") -> Tokens:
        """Ids of `prompt + text` for each text, cut at `max_tokens`."""
        ...

    def offsets(self, texts: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        """For each text, shape (tokens, 2): where each token starts and ends, in characters; no special tokens."""
        ...

    def overhead(self, prompt: str = "") -> int:
        """Ids that special tokens and the prompt add to a text."""
        ...

    def unknown(self, tokens: Tokens) -> int:
        """How many of the ids are the unknown token."""
        ...


class Engine(Protocol):
    """Turns token ids into vectors on one device. See `hookspecs.register_engines`."""

    name: str

    def tokenizer(self, model: str) -> Tokenizer:
        """Called in load workers and encode workers. Raises `ModelError`."""
        ...

    def load(self, model: str, device: str, options: Mapping[str, Any]) -> None:
        """Load the weights, once, in an encode worker.

        `options` holds `dtype` ("auto", "float32", "bfloat16", "float16"), `normalize` (bool or None for the model's
        own choice) and `reserved` (bytes of the device's memory that are for others). Raises `ModelError`.
        """
        ...

    def encode(self, tokens: Tokens) -> npt.NDArray[np.float32]:
        """Shape (len(tokens), dims), in the order given. `MemoryError` where the batch is too big for the device."""
        ...

    def devices(self) -> list[str]:
        """The accelerators that this engine can use here ("cuda:0", ...), empty where there are none."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """After `load`: `dims`, `pooling`, `normalize`, `dtype`, `query_prompt`, `passage_prompt`."""
        ...


# --- index ----------------------------------------------------------------------------------------------------


class Replace(msgspec.Struct, frozen=True):
    """Make `document` consist of exactly `chunks`. `vectors`: float32 (number of fresh chunks, dims), raw."""

    document: Document
    chunks: list[Chunk]
    vectors: bytes


class Rekey(msgspec.Struct, frozen=True):
    """Make `document` a copy of the chunks and vectors of the document `origin`; nothing is embedded.

    Only while the index has `origin` with the digest of `document`: it may have changed meanwhile. Otherwise nothing is
    done, and `Written.missing` is 1.
    """

    origin: str
    document: Document


class Remove(msgspec.Struct, frozen=True):
    """Remove the document and all its chunks; no error where it is not there."""

    doc_id: str


Operation = Replace | Rekey | Remove
"""What a sink is told to do, in order."""


class Written(msgspec.Struct, frozen=True):
    """What became of one operation."""

    chunks: int = 0
    """Chunks that the document now has."""
    missing: int = 0
    """Chunks sent without a vector that the index does not have either: nothing was changed, send all vectors."""
    error: str | None = None
    """The store refuses this document for good (not: is full, is away)."""


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """What is searched for: by meaning (`vector`) and by words (`text`), with filters."""

    text: str
    vector: bytes
    """float32 (dims,), raw; empty: find by words alone."""
    top: int = 10
    source: str | None = None
    path: str | None = None
    """Shell-style pattern over the absolute path, or over the file's name where it has no slash."""
    under: bytes | None = None
    """Absolute path of a directory: only what lies below it."""
    category: str | None = None
    """A category's id, or its path; what is below that path too."""
    since_ns: int | None = None
    """Only files last changed then or later."""
    until_ns: int | None = None
    """Only files last changed before then."""


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """One passage found, best first. `score` is the reciprocal-rank-fusion score."""

    score: float
    path: bytes
    source: str
    page: int | None
    title: str | None
    text: str
    doc_id: str
    chunk_id: str
    ordinal: int
    metadata: dict[str, Any]
    highlights: list[tuple[int, int]] = []
    """Where words of the question are in `text`: start and end, in characters."""


class Indexed(msgspec.Struct, frozen=True):
    """A document as the index has it, for verify and repair."""

    doc_id: str
    source: str
    path: bytes
    digest: bytes
    chunks: int


class Sink(Protocol):
    """A store of chunks and vectors. See `hookspecs.register_sinks`."""

    name: str

    def open(self, directory: Path, fingerprint: Fingerprint, options: Mapping[str, Any], *, readonly: bool) -> None:
        """Open or create the index below `directory`. Raises `IndexMismatchError`, `IndexUnavailableError`."""
        ...

    def write(self, operations: Sequence[Operation]) -> list[Written]:
        """Carry out the operations in order, each document whole; durable when this returns.

        One result for each operation. Doing an operation twice equals doing it once. Raises
        `IndexUnavailableError` where the store cannot write now (then none, some or all were done: send them again).
        """
        ...

    def search(self, query: Query) -> list[Hit]:
        """Hybrid search. Called from another thread than `write` and never waits for it."""
        ...

    def documents(self) -> Iterator[Indexed]:
        """Every document, ordered by `doc_id`, without holding all of them."""
        ...

    def read(self, doc_ids: Sequence[str]) -> list[Replace]:
        """These documents as they are stored, in the order asked for; those that are not there are left out.

        Each as the operation that would make it so: all chunks in order and `fresh`, vectors of length 1, zeros where
        one has no direction. Called from other threads than `write`, as `documents` is.
        """
        ...

    def chunk_ids(self) -> Iterator[str]:
        """Every chunk's id, in any order."""
        ...

    def count(self) -> tuple[int, int]:
        """How many documents and how many chunks there are."""
        ...

    def close(self) -> None:
        """Let go of the store; nothing is called after it."""
        ...
