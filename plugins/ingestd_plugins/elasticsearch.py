"""Elasticsearch: an index of this daemon's own on a cluster, under an alias that readers use.

Needs `ingestd[elasticsearch]` and a server 8.15 or later, with its core modules and the free licence alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ingestd.errors import IngestdError
from ingestd.hookspecs import hookimpl
from ingestd.owner import owner
from ingestd.types import Chunk, Fingerprint, Hit, Indexed, Operation, Query, Replace, Sink, Written
from ingestd_plugins.elasticsearch_settings import settings

if TYPE_CHECKING:
    from ingestd_plugins.elasticsearch_owner import Owner

DRAFT = "elasticsearch-index"
"""A file below the state directory with the name of the index that is being built."""


class ElasticsearchSink:
    """See `types.Sink`."""

    name = "elasticsearch"

    def __init__(self) -> None:
        self._fingerprint: Fingerprint | None = None
        self._owner: Owner | None = None
        self._readonly = False

    def open(
        self, directory: Path, fingerprint: Fingerprint, options: Mapping[str, Any], *, readonly: bool,
        draft: bool = False,
    ) -> None:  # fmt: skip
        """`draft`: the index that is built beside the one in use; readers see it once it is published."""
        from ingestd_plugins import elasticsearch_index
        from ingestd_plugins.elasticsearch_owner import Owner
        from ingestd_plugins.elasticsearch_server import Server
        from ingestd_plugins.elasticsearch_write import Writer

        self._server = Server(settings(options))
        try:
            self._owner = None if readonly else Owner(owner(directory), directory.parent, secrets.token_hex(8))
            if draft and self._owner is not None:
                found = elasticsearch_index.draft(self._server, fingerprint, self._owner, directory / DRAFT)
            else:
                found = elasticsearch_index.prepare(self._server, fingerprint, self._owner)
            self._index = self._server.run(found)
            if self._owner is not None and not draft:
                self._server.start(elasticsearch_index.drop_replaced(self._server, self._owner))
            self._writer = Writer(self._server, self._index, fingerprint.dims)
        except BaseException:
            self._server.close()
            raise
        self._fingerprint = fingerprint
        self._readonly = readonly

    def publish(self) -> None:
        """Put the draft in the place of the index in use, for all readers at once."""
        from ingestd_plugins import elasticsearch_index

        self._opened()
        assert self._owner is not None
        self._server.run(self._writer.show())
        self._server.run(elasticsearch_index.publish(self._server, self._index, self._owner))
        self._server.start(elasticsearch_index.drop_replaced(self._server, self._owner))

    def close(self) -> None:
        if self._fingerprint is None:
            return
        self._fingerprint = None
        try:
            self._server.run(self._writer.close())
        except IngestdError:
            pass  # it is durable; the server shows it by itself
        finally:
            self._server.close()

    def _opened(self) -> Fingerprint:
        if self._fingerprint is None:
            raise IngestdError("the index is not open")
        return self._fingerprint

    def write(self, operations: Sequence[Operation]) -> list[Written]:
        self._opened()
        if self._readonly:
            raise IngestdError(f"the index {self._index.name} was opened for reading only")
        return self._server.run(self._writer.write(operations)) if operations else []

    def search(self, query: Query) -> list[Hit]:
        from ingestd_plugins import elasticsearch_search

        dims = self._opened().dims
        elasticsearch_search.check(query, dims)
        self._server.run(self._writer.show(wait=False))
        return self._server.run(elasticsearch_search.search(self._server, self._index, query, dims))

    # --- verifying --------------------------------------------------------------------------------------------

    def documents(self) -> Iterator[Indexed]:
        from ingestd_plugins.elasticsearch_documents import path_of

        first: dict[str, Any] | None = None
        chunks = 0

        def found() -> Indexed:
            assert first is not None
            return Indexed(
                first["doc_id"], first["source"], path_of(first), bytes.fromhex(first["digest"]), chunks
            )  # fmt: skip

        fields = [f"metadata.{name}" for name in ("doc_id", "hash", "source", "path", "path_b64", "digest", "ordinal")]
        for entry in self._entries(fields):
            metadata = entry["metadata"]
            if first is not None and metadata["doc_id"] != first["doc_id"]:
                yield found()
                chunks = 0
            if not chunks or metadata["ordinal"] == 0:
                first = metadata
            chunks += bool(metadata["hash"])
        if first is not None:
            yield found()

    def chunk_ids(self) -> Iterator[str]:
        from ingestd.types import chunk_id

        for entry in self._entries(["metadata.doc_id", "metadata.hash"]):
            metadata = entry["metadata"]
            if metadata["hash"]:
                yield chunk_id(metadata["doc_id"], bytes.fromhex(metadata["hash"]))

    def _entries(self, fields: list[str]) -> Iterator[dict[str, Any]]:
        """Of the whole index as it is now, ordered by document."""
        from ingestd_plugins import elasticsearch_read as reading

        self._opened()
        self._server.run(self._writer.show())
        with_snapshot = reading.snapshot(self._server, self._index)
        point = self._server.run(with_snapshot.__aenter__())
        try:
            after: list[Any] | None = None
            while page := self._server.run(reading.page(self._server, self._index, point, after, fields)):
                for _, entry, _ in page:
                    yield entry
                after = page[-1][2]
        finally:
            self._server.run(with_snapshot.__aexit__(None, None, None))

    def read(self, doc_ids: Sequence[str]) -> list[Replace]:
        from ingestd_plugins import elasticsearch_documents, elasticsearch_read

        dims = self._opened().dims
        self._server.run(self._writer.show())
        entries: dict[str, list[dict[str, Any]]] = {}

        async def collect() -> None:
            async for entry in elasticsearch_read.whole(self._server, self._index, doc_ids):
                entries.setdefault(entry["metadata"]["doc_id"], []).append(entry)

        self._server.run(collect())
        found: list[Replace] = []
        for doc_id in doc_ids:
            if doc_id not in entries:
                continue
            mine = sorted(entries[doc_id], key=lambda entry: entry["metadata"]["ordinal"])
            passages = [entry for entry in mine if entry["metadata"]["hash"]]
            chunks: list[Chunk] = [elasticsearch_documents.chunk_of(entry) for entry in passages]
            vectors = [elasticsearch_documents.unpacked(entry.get("vector"), dims) for entry in passages]
            found.append(Replace(elasticsearch_documents.document_of(mine[0]["metadata"]), chunks, b"".join(vectors)))
        return found

    def count(self) -> tuple[int, int]:
        from ingestd_plugins import elasticsearch_read

        self._opened()
        self._server.run(self._writer.show())
        body = {
            "size": 0,
            "track_total_hits": True,
            "query": {"exists": {"field": "terms"}},
        }
        firsts = {"size": 0, "track_total_hits": True, "query": {"term": {"metadata.ordinal": 0}}}
        chunks = self._server.run(elasticsearch_read.search(self._server, self._index.name, body))
        documents = self._server.run(elasticsearch_read.search(self._server, self._index.name, firsts))
        return documents["hits"]["total"]["value"], chunks["hits"]["total"]["value"]


@hookimpl
def register_sinks() -> list[Sink]:
    return [ElasticsearchSink()]
