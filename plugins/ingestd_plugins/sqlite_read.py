"""Documents of the embedded store as they are stored, to be compared or written elsewhere."""

from __future__ import annotations

from typing import Any

import apsw
import msgspec

from ingestd.types import Chunk, Document, Replace
from ingestd_plugins.sqlite_file import within

_DOCUMENT = (
    "id, doc_id, source, path, title, media_type, size, mtime_ns, digest, loader, category_id, category_path, metadata"
)
_CHUNKS = (
    "SELECT c.hash, c.text, c.ordinal, c.tokens, c.page, c.headings, c.metadata, v.vector"
    f" FROM chunks c LEFT JOIN vectors v ON v.id = c.id WHERE {within('c', '?1')} ORDER BY c.ordinal"
)


def document(connection: apsw.Connection, doc_id: str, dims: int) -> Replace | None:
    """The operation that would make the document what it is; None where there is none of that id."""
    found: Any = connection.execute(f"SELECT {_DOCUMENT} FROM documents WHERE doc_id = ?", (doc_id,)).fetchone()
    if found is None:
        return None
    id, *fields, metadata = found
    names = _DOCUMENT.split(", ")[1:-1]
    chunks: list[Chunk] = []
    vectors: list[bytes] = []
    rows: Any = connection.execute(_CHUNKS, (id,))
    for hash, text, ordinal, tokens, page, headings, chunk_metadata, vector in rows:
        chunks.append(
            Chunk(
                hash=hash,
                text=text,
                ordinal=ordinal,
                tokens=tokens,
                fresh=True,
                page=page,
                headings=tuple(_decoded(headings, [])),
                metadata=_decoded(chunk_metadata, {}),
            )
        )
        vectors.append(bytes(4 * dims) if vector is None else vector)
    made = Document(**dict(zip(names, fields, strict=True)), metadata=_decoded(metadata, {}))
    return Replace(made, chunks, b"".join(vectors))


def _decoded(value: str | None, empty: Any) -> Any:
    return msgspec.json.decode(value) if value else empty
