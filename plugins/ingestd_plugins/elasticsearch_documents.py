"""Chunks as documents of the server and back: `{"text", "vector", "terms", "metadata": {...}}`, one for each chunk.

A document without chunks is one entry with metadata alone, which no search finds.
"""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from ingestd.types import Chunk, Document, Hit, chunk_id, display
from ingestd_plugins.stems import stems
from ingestd_plugins.vectors import check_metadata, check_values

BLANK = ""
"""Hash of the entry of a document without chunks."""

_keyword = {"type": "keyword"}
_stored = {"type": "keyword", "index": False, "doc_values": False}
METADATA: dict[str, Any] = {
    "doc_id": _keyword,
    "hash": _keyword,
    "ordinal": {"type": "integer"},
    "source": _keyword,
    "path": _keyword,
    "path_exact": _keyword,
    "path_b64": _stored,
    "name": _keyword,
    "folders": _keyword,
    "title": {"type": "text", "fields": {"keyword": {"type": "keyword", "ignore_above": 1024}}},
    "media_type": _keyword,
    "size": {"type": "long"},
    "mtime": {"type": "date", "format": "strict_date_optional_time_nanos||epoch_millis"},
    "mtime_ns": {"type": "long"},
    "digest": _keyword,
    "loader": _keyword,
    "category_id": _keyword,
    "category_path": _keyword,
    "page": {"type": "integer"},
    "headings": {"type": "text"},
    "tokens": {"type": "integer"},
    "extra": {"type": "flattened", "ignore_above": 4096, "depth_limit": 100},
    "chunk_extra": {"type": "flattened", "ignore_above": 4096, "depth_limit": 100},
}
"""`extra` is what loaders and configuration add of the document, `chunk_extra` of one passage: no plugin can break the
mapping. `path_exact` and `name` are for patterns: see `exact`."""


def exact(path: bytes | str) -> str:
    """A path as Unicode in which every byte that is not UTF-8 has a private character of its own."""
    text = os.fsdecode(path) if isinstance(path, bytes) else path
    if text.isascii():
        return text
    return "".join(chr(0x10FF00 + ord(c) - 0xDC00) if "\udc80" <= c <= "\udcff" else c for c in text)


def document_metadata(document: Document) -> dict[str, Any]:
    """What all chunks of the document have in common. Raises one of `vectors.REFUSALS`."""
    check_metadata(document.metadata)
    path = display(document.path)
    raw = exact(document.path)
    check_values((document.source, document.size, document.mtime_ns, document.category_id, document.category_path))
    parts = path.split("/")
    moment = datetime.fromtimestamp(document.mtime_ns // 1_000_000_000, UTC)
    found: dict[str, Any] = {
        "doc_id": document.doc_id,
        "source": document.source,
        "path": path,
        "path_exact": raw,
        "name": raw.rsplit("/", 1)[-1],
        "folders": ["/".join(parts[:depth]) for depth in range(2, len(parts))],
        "path_b64": base64.b64encode(document.path).decode() if raw != path else None,
        "title": document.title,
        "media_type": document.media_type,
        "size": document.size,
        "mtime": f"{moment:%Y-%m-%dT%H:%M:%S}.{document.mtime_ns % 1_000_000_000:09d}Z",
        "mtime_ns": document.mtime_ns,
        "digest": document.digest.hex(),
        "loader": document.loader,
        "category_id": document.category_id,
        "category_path": document.category_path,
        "extra": document.metadata or None,
    }
    return {key: value for key, value in found.items() if value is not None}


def chunk_metadata(common: dict[str, Any], chunk: Chunk) -> dict[str, Any]:
    """Raises one of `vectors.REFUSALS`."""
    check_metadata(chunk.metadata)
    check_values((chunk.ordinal, chunk.page, chunk.tokens))
    found = {**common, "hash": chunk.hash.hex(), "ordinal": chunk.ordinal, "tokens": chunk.tokens}
    if chunk.page is not None:
        found["page"] = chunk.page
    if chunk.headings:
        found["headings"] = list(chunk.headings)
    if chunk.metadata:
        found["chunk_extra"] = chunk.metadata
    return found


def blank(common: dict[str, Any]) -> dict[str, Any]:
    """The source of the entry of a document without chunks; its id is the document's."""
    return {"metadata": {**common, "hash": BLANK, "ordinal": 0}}


def source(text: str, metadata: dict[str, Any], vector: bytes | None, *, compact: bool) -> dict[str, Any]:
    """The source of a chunk. Raises one of `vectors.REFUSALS`."""
    check_values((text,))
    found: dict[str, Any] = {"text": text, "terms": " ".join(stems("\n".join((*metadata.get("headings", ()), text))))}
    if vector is not None:
        found["vector"] = packed(vector) if compact else np.frombuffer(vector, np.float32).tolist()
    found["metadata"] = metadata
    return found


def packed(vector: bytes) -> str:
    """Base64 of big-endian float32."""
    return base64.b64encode(np.frombuffer(vector, "<f4").astype(">f4").tobytes()).decode()


def unpacked(vector: Any, dims: int) -> bytes:
    """float32 (dims,) of length 1, whichever way the server gives it; zeros where there is none."""
    if vector is None:
        return bytes(4 * dims)
    if isinstance(vector, str):
        return np.frombuffer(base64.b64decode(vector), ">f4").astype("<f4").tobytes()
    return np.asarray(vector, np.float32).tobytes()


def document_of(metadata: dict[str, Any]) -> Document:
    return Document(
        doc_id=metadata["doc_id"], source=metadata["source"], path=path_of(metadata), title=metadata.get("title"),
        media_type=metadata["media_type"], size=metadata["size"], mtime_ns=metadata["mtime_ns"],
        digest=bytes.fromhex(metadata["digest"]), loader=metadata["loader"], category_id=metadata.get("category_id"),
        category_path=metadata.get("category_path"), metadata=metadata.get("extra", {}),
    )  # fmt: skip


def chunk_of(entry: dict[str, Any]) -> Chunk:
    metadata = entry["metadata"]
    return Chunk(
        hash=bytes.fromhex(metadata["hash"]), text=entry["text"], ordinal=metadata["ordinal"],
        tokens=metadata["tokens"], fresh=True, page=metadata.get("page"),
        headings=tuple(metadata.get("headings", ())), metadata=metadata.get("chunk_extra", {}),
    )  # fmt: skip


def path_of(metadata: dict[str, Any]) -> bytes:
    encoded = metadata.get("path_b64")
    return base64.b64decode(encoded) if encoded else metadata["path"].encode()


def hit_of(entry: dict[str, Any], score: float) -> Hit:
    metadata = entry["metadata"]
    doc_id, text, title, page = metadata["doc_id"], entry["text"], metadata.get("title"), metadata.get("page")
    path, hash, ordinal = path_of(metadata), bytes.fromhex(metadata["hash"]), metadata["ordinal"]
    every: dict[str, Any] = {
        **metadata.get("extra", {}),
        **metadata.get("chunk_extra", {}),
        "doc_id": doc_id,
        "path": metadata["path"],
        "source": metadata["source"],
        "category_id": metadata.get("category_id"),
        "category_path": metadata.get("category_path"),
        "page": page,
        "headings": metadata.get("headings", []),
        "title": title,
        "media_type": metadata["media_type"],
        "size": metadata["size"],
        "mtime": metadata["mtime_ns"] / 1e9,
        "digest": metadata["digest"],
        "loader": metadata["loader"],
        "ordinal": ordinal,
    }
    return Hit(
        score=score, path=path, source=metadata["source"], page=page, title=title, text=text, doc_id=doc_id,
        chunk_id=chunk_id(doc_id, hash), ordinal=ordinal, metadata=every,
    )  # fmt: skip


def encoded(value: Any) -> bytes:
    """JSON without line ends. Raises one of `vectors.REFUSALS`."""
    return msgspec.json.encode(value)


def plain(metadata: dict[str, Any]) -> Any:
    """As it comes back from the server."""
    return msgspec.json.decode(encoded(metadata))
