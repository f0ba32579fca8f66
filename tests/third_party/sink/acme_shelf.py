"""A sink of one table: a document is a row, whole or not at all. `[index.shelf] fault = "HOW"` has a fault."""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ingestd.errors import IndexMismatchError
from ingestd.hookspecs import hookimpl
from ingestd.types import Fingerprint, Hit, Indexed, Operation, Query, Rekey, Remove, Replace, Written, chunk_id

encode = msgspec.msgpack.encode
decode = msgspec.msgpack.Decoder(Replace).decode


class ShelfSink:
    name = "shelf"

    def open(self, directory: Path, fingerprint: Fingerprint, options: Mapping[str, Any], *, readonly: bool) -> None:
        self.fault = options.get("fault", "")
        if self.fault == "open":
            raise RuntimeError("the shelf fell down")
        directory.mkdir(parents=True, exist_ok=True)
        self.dims = fingerprint.dims
        self.db = sqlite3.connect(directory / "shelf.sqlite", isolation_level=None, check_same_thread=False)
        self.reader = sqlite3.connect(directory / "shelf.sqlite", check_same_thread=False)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("CREATE TABLE IF NOT EXISTS meta (made TEXT)")
        self.db.execute("CREATE TABLE IF NOT EXISTS shelf (doc_id TEXT PRIMARY KEY, whole BLOB)")
        made = self.db.execute("SELECT made FROM meta").fetchone()
        if made is None:
            self.db.execute("INSERT INTO meta VALUES (?)", (fingerprint.digest(),))
        elif made[0] != fingerprint.digest():
            raise IndexMismatchError("the shelf was made with other settings", command="ingestd reindex")

    def write(self, operations: Sequence[Operation]) -> list[Written]:
        if self.fault == "write":
            raise RuntimeError("the shelf is sticky")
        if self.fault == "few":
            return []
        if self.fault == "sleep":
            time.sleep(1000)
        self.db.execute("BEGIN IMMEDIATE")
        results = [self._carry_out(operation) for operation in operations]
        self.db.execute("COMMIT")
        return results

    def _carry_out(self, operation: Operation) -> Written:
        match operation:
            case Remove(doc_id=doc_id):
                self.db.execute("DELETE FROM shelf WHERE doc_id = ?", (doc_id,))
                return Written()
            case Rekey(origin=origin, document=document):
                (found,) = self._read(self.db, [origin]) or [None]
                if found is None or found.document.digest != document.digest:
                    return Written(missing=1)
                return self._put(Replace(document, found.chunks, found.vectors))
            case Replace(document=document, chunks=chunks, vectors=vectors):
                size = 4 * self.dims
                (old,) = self._read(self.db, [document.doc_id]) or [None]
                known = {c.hash: old.vectors[n * size :][:size] for n, c in enumerate(old.chunks)} if old else {}
                missing = sum(not chunk.fresh and chunk.hash not in known for chunk in chunks)
                if missing:
                    return Written(missing=missing)
                fresh = iter(range(0, len(vectors), size))
                whole = [vectors[next(fresh) :][:size] if chunk.fresh else known[chunk.hash] for chunk in chunks]
                marked = [msgspec.structs.replace(chunk, fresh=True) for chunk in chunks]
                return self._put(Replace(document, marked, b"".join(whole)))

    def _put(self, whole: Replace) -> Written:
        self.db.execute("INSERT OR REPLACE INTO shelf VALUES (?, ?)", (whole.document.doc_id, encode(whole)))
        return Written(chunks=len(whole.chunks))

    def search(self, query: Query) -> list[Hit]:
        if self.fault == "search":
            raise RuntimeError("the shelf is too high")
        wanted = np.frombuffer(query.vector, np.float32)
        hits = []
        for (whole,) in self.reader.execute("SELECT whole FROM shelf").fetchall():
            found = decode(whole)
            document = found.document
            matrix = np.frombuffer(found.vectors, np.float32).reshape(-1, self.dims)
            for chunk, score in zip(found.chunks, matrix @ wanted, strict=True):
                hits.append(
                    Hit(
                        score=float(score),
                        path=document.path,
                        source=document.source,
                        page=chunk.page,
                        title=document.title,
                        text=chunk.text,
                        doc_id=document.doc_id,
                        chunk_id=chunk_id(document.doc_id, chunk.hash),
                        ordinal=chunk.ordinal,
                        metadata=chunk.metadata,
                    )
                )
        return sorted(hits, key=lambda hit: -hit.score)[: query.top]

    def documents(self) -> Iterator[Indexed]:
        for (whole,) in self.reader.execute("SELECT whole FROM shelf ORDER BY doc_id").fetchall():
            d = decode(whole).document
            yield Indexed(d.doc_id, d.source, d.path, d.digest, len(decode(whole).chunks))

    def read(self, doc_ids: Sequence[str]) -> list[Replace]:
        return self._read(self.reader, doc_ids)

    def _read(self, db: sqlite3.Connection, doc_ids: Sequence[str]) -> list[Replace]:
        rows = (db.execute("SELECT whole FROM shelf WHERE doc_id = ?", (doc_id,)).fetchone() for doc_id in doc_ids)
        return [decode(row[0]) for row in rows if row is not None]

    def chunk_ids(self) -> Iterator[str]:
        for (whole,) in self.reader.execute("SELECT whole FROM shelf").fetchall():
            found = decode(whole)
            yield from (chunk_id(found.document.doc_id, chunk.hash) for chunk in found.chunks)

    def count(self) -> tuple[int, int]:
        chunks = [len(decode(whole).chunks) for (whole,) in self.reader.execute("SELECT whole FROM shelf").fetchall()]
        return len(chunks), sum(chunks)

    def close(self) -> None:
        self.db.close()
        self.reader.close()


@hookimpl
def register_sinks() -> list[ShelfSink]:
    return [ShelfSink()]
