"""Journal and index compared, in the index worker: both sorted by document id, side by side, in bounded memory.

Nothing stands still meanwhile. The journal is read before the index, and what differs is looked up in the journal once
more afterwards: a document that moved between the two is pending, not wrong. The index commits first, so one that did
not move has to agree.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from ingestd import journal
from ingestd.messages.index import Finding, Problem
from ingestd.types import Chunk, Indexed, Replace, Sink, document_id, text_hash

FINDINGS: Final = 10_000
"""Documents that are told of one by one; the others are counted."""
HASHES: Final = 64 << 20
"""Bytes of chunk hashes that are sent along."""
DEEP_CHUNKS: Final = 2_000
DEEP_DOCUMENTS: Final = 64
"""Chunks and documents that are read at a time."""
EVERY: Final = 500
"""Documents between two looks at whether anybody still wants to know."""


BUSY: Final = "state IN ('queued', 'running') OR (gone > 0 AND state != 'held')"
"""SQL: the index may have an earlier or a later version of the document than the journal says, and no harm in it."""


class Expected(NamedTuple):
    """What the journal says that the index has."""

    doc_id: str
    row: int
    version: int
    digest: bytes | None
    chunks: int
    busy: bool


class StoppedError(Exception):
    """Nobody wants to know any more."""


@dataclass
class Comparison:
    """What was found."""

    documents: int = 0
    chunks: int = 0
    pending: int = 0
    problems: Counter[Problem] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)


class Comparer:
    """Compares once. `tell` is called with how far it is (documents seen, documents there are); it may raise."""

    def __init__(
        self, sink: Sink, journal: Path, scratch: Path, *, deep: bool, repair: bool, tell: Callable[[int, int], None]
    ) -> None:
        self._sink = sink
        self._journal = journal
        self._scratch = scratch
        self._deep = deep
        self._repair = repair
        self._tell = tell
        self._seen = 0
        self._total = 0
        self._hashes = 0
        self._found = Comparison()
        self._batch: list[tuple[Expected, Indexed]] = []

    def compare(self) -> Comparison:
        """Raises `IngestdError` where the index cannot be read."""
        self._total = self._sink.count()[0]
        with closing(journal.connect(self._journal, readonly=True)) as db:
            self._db = db
            self._roots = {name: source.root.rstrip(b"/") + b"/" for name, source in journal.sources(db).items()}
            with closing(_snapshot(db, self._scratch)) as snapshot:
                expected = map(Expected._make, snapshot.execute("SELECT * FROM expected ORDER BY doc_id"))
                for known, indexed in _joined(expected, self._sink.documents()):
                    self._progress()
                    self._judge(known, indexed)
                self._look_inside()
        return self._found

    def _progress(self) -> None:
        self._seen += 1
        if self._seen % EVERY == 0:
            self._tell(self._seen, max(self._total, self._seen))

    def _judge(self, known: Expected | None, indexed: Indexed | None) -> None:
        if indexed is not None:
            self._found.documents += 1
            self._found.chunks += indexed.chunks
        if known is None:
            assert indexed is not None
            self._extra(indexed)
        elif known.busy:
            if not (self._repair and indexed is not None and self._never_indexed(known)):
                self._found.pending += 1
            else:  # a folder was scanned before a lost journal was mended
                self._note(
                    "extra", "the journal does not know it", known.doc_id, indexed.source, indexed.path, indexed, known
                )
        elif known.digest is None:
            if indexed is not None:
                self._wrong("extra", "the journal says that it is not in the index", known, indexed)
        elif indexed is None:
            # A store of chunks has no trace of a document without any.
            if known.chunks:
                self._wrong("missing", f"the index lacks it and its {known.chunks} chunks", known, None)
        elif indexed.digest != known.digest:
            self._wrong("stale", "the index has another version of it", known, indexed)
        elif indexed.chunks != known.chunks:
            self._wrong("stale", f"the index has {indexed.chunks} of its {known.chunks} chunks", known, indexed)
        elif self._deep:
            self._batch.append((known, indexed))
            chunks = sum(each.chunks for _, each in self._batch)
            if chunks >= DEEP_CHUNKS or len(self._batch) >= DEEP_DOCUMENTS:
                self._look_inside()

    def _look_inside(self) -> None:
        """Every chunk of the documents gathered: its text, its vector, and whether it is one of those it should be."""
        batch, self._batch = self._batch, []
        read = {
            document.document.doc_id: document for document in self._sink.read([known.doc_id for known, _ in batch])
        }
        for known, indexed in batch:
            row = self._db.execute("SELECT hashes FROM hashes WHERE document = ?", (known.row,)).fetchone()
            found = read.get(known.doc_id)
            fault = "the index lacks it" if found is None else _fault(found, row[0] if row else b"")
            if fault and (found is not None or known.chunks):
                self._wrong("stale" if found is not None else "missing", fault, known, indexed)

    def _never_indexed(self, known: Expected) -> bool:
        """Whether the document waits for its first attempt, as far as the journal knows."""
        waiting = self._db.execute(
            "SELECT 1 FROM documents WHERE id = ? AND version = ? AND state = 'queued' AND gone = 0"
            " AND indexed_digest IS NULL",
            (known.row, known.version),
        ).fetchone()
        return waiting is not None

    def _extra(self, indexed: Indexed) -> None:
        root = self._roots.get(indexed.source)
        if root is not None and indexed.path.startswith(root):
            at = self._db.execute(
                "SELECT 1 FROM documents WHERE source = ? AND path = ?", (indexed.source, indexed.path[len(root) :])
            ).fetchone()
            if at is not None:  # it came meanwhile; another document of that place is judged by its own id
                self._found.pending += 1
                return
        self._note("extra", "the journal does not know it", indexed.doc_id, indexed.source, indexed.path, indexed)

    def _wrong(self, problem: Problem, reason: str, known: Expected, indexed: Indexed | None) -> None:
        now = self._db.execute(
            f"SELECT source, path, version, indexed_digest, chunks, {BUSY} FROM documents WHERE id = ?", (known.row,)
        ).fetchone()
        if now is None or now[2:] != (known.version, known.digest, known.chunks, 0):
            self._found.pending += 1
            return
        source, path = now[:2]
        path = indexed.path if indexed is not None else path
        self._note(problem, reason, known.doc_id, source, path, indexed, known)

    def _note(
        self, problem: Problem, reason: str, doc_id: str, source: str, path: bytes, indexed: Indexed | None,
        known: Expected | None = None,
    ) -> None:  # fmt: skip
        self._found.problems[problem] += 1
        if len(self._found.findings) >= FINDINGS or self._hashes > HASHES:
            return
        hashes = b""
        if self._repair and indexed is not None:
            hashes = b"".join(chunk.hash for document in self._sink.read([doc_id]) for chunk in sound(document))
            self._hashes += len(hashes)
        row, version = (known.row, known.version) if known is not None else (0, 0)
        digest = indexed.digest if indexed is not None else b""
        self._found.findings.append(Finding(problem, reason, doc_id, source, path, row, version, digest, hashes))


def sound(document: Replace) -> Iterator[Chunk]:
    """The chunks whose text and vector are what they should be; the others are to be made again."""
    occurrences: Counter[str] = Counter()
    dims = len(document.vectors) // 4 // max(1, len(document.chunks))
    vectors = np.frombuffer(document.vectors, np.float32).reshape(len(document.chunks), dims)
    for chunk, vector in zip(document.chunks, vectors, strict=True):
        whole = text_hash(chunk.text, occurrences[chunk.text]) == chunk.hash
        occurrences[chunk.text] += 1
        length = float(np.linalg.norm(vector.astype(np.float64)))
        if whole and (length == 0 or abs(length - 1) < 0.01):  # a store may keep vectors in fewer bits
            yield chunk


def _fault(document: Replace, expected: bytes) -> str | None:
    """What is wrong with the chunks of a document that has as many as it should."""
    hashes = {expected[start : start + 16] for start in range(0, len(expected), 16)}
    if strange := sum(chunk.hash not in hashes for chunk in document.chunks):
        return f"{strange} of its {len(document.chunks)} chunks are not those that were written"
    if damaged := len(document.chunks) - sum(1 for _ in sound(document)):
        return f"{damaged} of its {len(document.chunks)} chunks are damaged"
    if [chunk.ordinal for chunk in document.chunks] != list(range(len(document.chunks))):
        return "its chunks are not in order"
    return None


def _snapshot(db: sqlite3.Connection, scratch: Path) -> sqlite3.Connection:
    """What the journal says at this moment, in a file that is gone with its connection."""
    path = scratch / "expected.sqlite"
    path.unlink(missing_ok=True)
    snapshot = sqlite3.connect(path, isolation_level=None)
    path.unlink()
    snapshot.execute("PRAGMA journal_mode = OFF")
    snapshot.execute("PRAGMA cache_size = -32768")
    snapshot.execute(
        "CREATE TABLE expected(doc_id TEXT PRIMARY KEY, id INT, version INT, digest BLOB, chunks INT, busy INT)"
        " WITHOUT ROWID"
    )
    rows = db.execute(f"SELECT source, path, member, id, version, indexed_digest, chunks, {BUSY} FROM documents")
    snapshot.execute("BEGIN")
    snapshot.executemany(
        "INSERT INTO expected VALUES (?, ?, ?, ?, ?, ?)", ((document_id(*row[:3]), *row[3:]) for row in rows)
    )
    snapshot.execute("COMMIT")
    return snapshot


def _joined(
    expected: Iterator[Expected], indexed: Iterator[Indexed]
) -> Iterator[tuple[Expected | None, Indexed | None]]:
    """Both in order of `doc_id`, each with its counterpart."""
    known, there = next(expected, None), next(indexed, None)
    while known is not None or there is not None:
        if there is None or (known is not None and known.doc_id < there.doc_id):
            yield known, None
            known = next(expected, None)
        elif known is None or known.doc_id > there.doc_id:
            yield None, there
            there = next(indexed, None)
        else:
            yield known, there
            known, there = next(expected, None), next(indexed, None)
