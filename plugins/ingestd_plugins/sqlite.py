"""The embedded store: one SQLite file that is searched by meaning (exact vector scan) and by words (BM25).

Vector search is linear in the number of chunks; beyond half a million of them a server is the better store.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import msgspec

from ingestd.errors import ConfigError, IngestdError
from ingestd.hookspecs import hookimpl
from ingestd.types import Fingerprint, Hit, Indexed, Operation, Query, Replace, Sink, Written, chunk_id
from ingestd_plugins import sqlite_file, sqlite_read, sqlite_search
from ingestd_plugins.fusion import fuse
from ingestd_plugins.highlights import highlights
from ingestd_plugins.sqlite_write import carry_out
from ingestd_plugins.terms import question_words

_TOP_LIMIT = 10_000
_VOTERS = 1_000
"""Passages of the ranking by words that are weighed; a place further down moves nothing that is near."""


class SqliteSink:
    """See `types.Sink`."""

    name = "sqlite"

    def __init__(self) -> None:
        self._path = Path()
        self._fingerprint: Fingerprint | None = None
        self._readonly = False
        self._writer: apsw.Connection | None = None
        self._readers: queue.LifoQueue[apsw.Connection] = queue.LifoQueue()

    def open(self, directory: Path, fingerprint: Fingerprint, options: Mapping[str, Any], *, readonly: bool) -> None:
        for key in options:
            raise ConfigError(f"[index.sqlite] has no key {key!r}; it takes none")
        self._path = directory / sqlite_file.FILE
        self._fingerprint = fingerprint
        self._readonly = readonly
        if not readonly:
            self._writer = sqlite_file.open_writer(self._path, fingerprint)
        try:
            self._readers.put(sqlite_file.open_reader(self._path, fingerprint))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        while True:
            try:
                self._readers.get_nowait().close()
            except queue.Empty:
                break
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._fingerprint = None

    def _opened(self) -> Fingerprint:
        if self._fingerprint is None:
            raise IngestdError("the index is not open")
        return self._fingerprint

    # --- writing ----------------------------------------------------------------------------------------------

    def write(self, operations: Sequence[Operation]) -> list[Written]:
        """All operations in one transaction, which is on the disk when this returns."""
        fingerprint = self._opened()
        if self._readonly:
            raise IngestdError(f"the index {self._path} was opened for reading only")
        if self._writer is None:
            self._writer = sqlite_file.open_writer(self._path, fingerprint)
        connection = self._writer
        try:
            with sqlite_file.explained("write", self._path, connection):
                connection.execute("BEGIN IMMEDIATE")
                results = [carry_out(connection, operation, fingerprint.dims) for operation in operations]
                connection.execute("COMMIT")
        except BaseException:
            # After a failed write neither cache nor full-text table can be trusted; closing rolls back.
            self._writer = None
            connection.close(True)
            raise
        sqlite_file.shorten_log(connection, self._path)
        return results

    # --- searching --------------------------------------------------------------------------------------------

    def search(self, query: Query) -> list[Hit]:
        """Passages near in meaning and passages with the words, fused; `IngestdError` for a vector of other dims."""
        dims = self._opened().dims
        if query.vector and len(query.vector) != 4 * dims:
            raise IngestdError(f"the question's vector has {len(query.vector)} bytes; the index has {dims} dimensions")
        top = max(0, min(query.top, _TOP_LIMIT))
        if not top:
            return []
        depth = max(50, 4 * top)
        where, arguments = sqlite_search.condition(query)
        with self._snapshot() as connection:
            near = sqlite_search.nearest(connection, query.vector, where, arguments, depth)
            words = question_words(query.text)
            most = min(depth, _VOTERS) if near else depth
            worded = sqlite_search.best_worded(connection, words, where, arguments, most)
            shares = sqlite_search.coverages(connection, words, [id for id, _ in worded]) if near and worded else {}
            scores = fuse(near, worded, shares)
            places = sqlite_search.places(connection, scores)
            best = sorted(scores, key=lambda id: (-scores[id], places[id]))[:top]
            hits = sqlite_search.hits(connection, best)
        found = [msgspec.structs.replace(hits[id], score=scores[id]) for id in best]
        return [msgspec.structs.replace(hit, highlights=highlights(words, hit.text)) for hit in found]

    @contextmanager
    def _snapshot(self) -> Iterator[apsw.Connection]:
        """A reader's connection that sees one state of the index throughout."""
        try:
            connection = self._readers.get_nowait()
        except queue.Empty:
            connection = sqlite_file.open_reader(self._path, self._opened())
        try:
            with sqlite_file.explained("read", self._path, connection):
                connection.execute("BEGIN")
                yield connection
                connection.execute("COMMIT")
        except BaseException:
            connection.close(True)
            raise
        self._readers.put(connection)

    # --- verifying --------------------------------------------------------------------------------------------

    def documents(self) -> Iterator[Indexed]:
        with self._snapshot() as connection:
            sql = "SELECT doc_id, source, path, digest, chunks FROM documents ORDER BY doc_id"
            for row in connection.execute(sql):
                yield Indexed(*row)

    def read(self, doc_ids: Sequence[str]) -> list[Replace]:
        dims = self._opened().dims
        with self._snapshot() as connection:
            found = (sqlite_read.document(connection, doc_id, dims) for doc_id in doc_ids)
            return [document for document in found if document is not None]

    def chunk_ids(self) -> Iterator[str]:
        """Document by document."""
        with self._snapshot() as connection:
            sql = f"SELECT d.doc_id, c.hash FROM documents d CROSS JOIN chunks c ON {sqlite_file.within('c', 'd.id')}"
            for doc_id, hash in connection.execute(sql):
                yield chunk_id(doc_id, hash)

    def count(self) -> tuple[int, int]:
        with self._snapshot() as connection:
            found = connection.execute("SELECT count(*), coalesce(sum(chunks), 0) FROM documents").fetchone()
            assert found is not None
            return found[0], found[1]


@hookimpl
def register_sinks() -> list[Sink]:
    return [SqliteSink()]
