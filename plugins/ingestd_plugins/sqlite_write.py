"""Replace, re-key and remove in the tables of the embedded store; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw
import msgspec

from ingestd.types import Chunk, Document, Operation, Rekey, Remove, Replace, Written
from ingestd_plugins.sqlite_file import SHIFT, SPAN
from ingestd_plugins.terms import prepare
from ingestd_plugins.vectors import REFUSALS, check_hashes, check_metadata, check_values, unit_vectors


def carry_out(connection: apsw.Connection, operation: Operation, dims: int) -> Written:
    """One operation. Whatever is wrong with a document is found before the first row of it is changed."""
    match operation:
        case Replace():
            return _replace(connection, operation, dims)
        case Rekey():
            return _rekey(connection, operation)
        case Remove():
            return _remove(connection, operation.doc_id)


def _replace(connection: apsw.Connection, operation: Replace, dims: int) -> Written:
    chunks = operation.chunks
    try:
        document = _document_row(operation.document)
        rows = [_chunk_row(chunk) for chunk in chunks]
        vectors = unit_vectors(operation, dims)
        check_hashes(operation)
    except REFUSALS as error:
        return Written(error=f"the store does not take this document: {error}")
    found = _find(connection, operation.document.doc_id)
    stored: dict[bytes, tuple[int, tuple[Any, ...]]] = {}
    if found is not None:
        for row in _rows(connection, "chunks", "id, hash, ordinal, page, headings, metadata, tokens", found.base):
            stored[row[1]] = (row[0], row[2:])
    missing = sum(not chunk.fresh and chunk.hash not in stored for chunk in chunks)
    if missing:
        return Written(missing=missing)

    keep = {chunk.hash for chunk in chunks}
    _delete_chunks(connection, [id for hash, (id, _) in stored.items() if hash not in keep])
    found = _save_document(connection, found, document, len(chunks))
    added: list[tuple[int, Chunk, tuple[Any, ...]]] = []
    new_vectors: list[tuple[int, bytes | None]] = []
    again: list[tuple[int, Chunk]] = []
    following = found.next
    fresh = 0
    for chunk, row in zip(chunks, rows, strict=True):
        known = stored.get(chunk.hash)
        if known is None:
            id = found.base + following
            following += 1
            added.append((id, chunk, row))
        else:
            id, old = known
            if old != row or chunk.fresh:  # a fresh one is written whole: what is stored may be damaged
                connection.execute(
                    "UPDATE chunks SET text = ?, ordinal = ?, page = ?, headings = ?, metadata = ?, tokens = ?"
                    " WHERE id = ?",
                    (chunk.text, *row, id),
                )
                if old[2] != row[2] or chunk.fresh:
                    again.append((id, chunk))
        if chunk.fresh:
            new_vectors.append((id, vectors[fresh]))
            fresh += 1
    connection.execute("UPDATE documents SET next = ? WHERE id = ?", (following, found.base >> SHIFT))
    connection.executemany(
        "INSERT INTO chunks (id, hash, text, ordinal, page, headings, metadata, tokens)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        ((id, chunk.hash, chunk.text, *row) for id, chunk, row in added),
    )
    connection.executemany("INSERT OR REPLACE INTO vectors (id, vector) VALUES (?, ?)", new_vectors)
    connection.executemany("DELETE FROM terms WHERE rowid = ?", ((id,) for id, _ in again))
    words = [(id, _searchable(c.headings, c.text)) for id, c in again]
    words += [(id, _searchable(c.headings, c.text)) for id, c, _ in added]
    connection.executemany("INSERT INTO terms (rowid, text) VALUES (?, ?)", words)
    return Written(chunks=len(chunks))


class _Found(msgspec.Struct, frozen=True):
    """A document's row: where its chunks' ids begin, and how many of them were ever given."""

    base: int
    next: int
    chunks: int
    digest: bytes


def _find(connection: apsw.Connection, doc_id: str) -> _Found | None:
    row = connection.execute("SELECT id, next, chunks, digest FROM documents WHERE doc_id = ?", (doc_id,)).fetchone()
    return None if row is None else _Found(row[0] << SHIFT, row[1], row[2], row[3])


def _rows(connection: apsw.Connection, table: str, columns: str, base: int) -> list[tuple[Any, ...]]:
    sql = f"SELECT {columns} FROM {table} WHERE id >= ? AND id < ?"
    return connection.execute(sql, (base, base + SPAN)).fetchall()


_COLUMNS = (
    "doc_id", "source", "path", "name", "title", "media_type", "size", "mtime_ns", "digest", "loader", "category_id",
    "category_path", "metadata",
)  # fmt: skip
_INSERT = (
    f"INSERT INTO documents ({', '.join(_COLUMNS)}, chunks, next) VALUES ({', '.join('?' * len(_COLUMNS))}, ?, 0)"
    " RETURNING id"
)
_UPDATE = f"UPDATE documents SET {', '.join(f'{column} = ?' for column in _COLUMNS)}, chunks = ? WHERE id = ?"


def _document_row(document: Document) -> tuple[Any, ...]:
    row = (
        document.doc_id, document.source, document.path, document.path.rsplit(b"/", 1)[-1], document.title,
        document.media_type, document.size, document.mtime_ns, document.digest, document.loader, document.category_id,
        document.category_path, _json(document.metadata),
    )  # fmt: skip
    check_values(row)
    return row


def _chunk_row(chunk: Chunk) -> tuple[Any, ...]:
    """ordinal, page, headings, metadata, tokens"""
    row = (chunk.ordinal, chunk.page, _json(chunk.headings), _json(chunk.metadata), chunk.tokens)
    check_values(row)
    check_values((chunk.text,))
    return row


def _json(value: Any) -> str | None:
    if not value:
        return None
    check_metadata(value)
    return msgspec.json.encode(value).decode()


def _searchable(headings: Sequence[str], text: str) -> str:
    return prepare("\n".join((*headings, text)))


def _save_document(
    connection: apsw.Connection, found: _Found | None, row: tuple[Any, ...], chunks: int
) -> _Found:  # fmt: skip
    if found is not None:
        connection.execute(_UPDATE, (*row, chunks, found.base >> SHIFT))
        return found
    inserted: list[Any] = connection.execute(_INSERT, (*row, chunks)).fetchall()
    id: int = inserted[0][0]
    return _Found(id << SHIFT, 0, chunks, b"")


def _delete_chunks(connection: apsw.Connection, ids: Sequence[int]) -> None:
    for table, key in (("chunks", "id"), ("vectors", "id"), ("terms", "rowid")):
        connection.executemany(f"DELETE FROM {table} WHERE {key} = ?", ((id,) for id in ids))


def _remove(connection: apsw.Connection, doc_id: str) -> Written:
    found = _find(connection, doc_id)
    if found is not None:
        _delete_chunks(connection, [id for (id,) in _rows(connection, "chunks", "id", found.base)])
        connection.execute("DELETE FROM documents WHERE id = ?", (found.base >> SHIFT,))
    return Written()


def _rekey(connection: apsw.Connection, operation: Rekey) -> Written:
    try:
        row = _document_row(operation.document)
    except REFUSALS as error:
        return Written(error=f"the store does not take this document: {error}")
    origin = _find(connection, operation.origin)
    if origin is None or origin.digest != operation.document.digest:
        return Written(missing=1)
    target = _find(connection, operation.document.doc_id)
    if target is not None and target.base != origin.base:
        _delete_chunks(connection, [id for (id,) in _rows(connection, "chunks", "id", target.base)])
    target = _save_document(connection, target, row, origin.chunks)
    if target.base == origin.base:
        return Written(chunks=origin.chunks)
    move = target.base + target.next - origin.base
    area = (move, origin.base, origin.base + SPAN)
    connection.execute(
        "INSERT INTO chunks (id, hash, ordinal, page, headings, text, metadata, tokens)"
        " SELECT id + ?, hash, ordinal, page, headings, text, metadata, tokens FROM chunks WHERE id >= ? AND id < ?",
        area,
    )
    connection.execute(
        "INSERT INTO vectors (id, vector) SELECT id + ?, vector FROM vectors WHERE id >= ? AND id < ?", area
    )
    words = _rows(connection, "chunks", "id, headings, text", origin.base)
    connection.executemany(
        "INSERT INTO terms (rowid, text) VALUES (?, ?)",
        ((id + move, _searchable(msgspec.json.decode(headings or "[]"), text)) for id, headings, text in words),
    )
    connection.execute("UPDATE documents SET next = ? WHERE id = ?", (target.next + origin.next, target.base >> SHIFT))
    return Written(chunks=origin.chunks)
