"""Replace, re-key and remove on a server without transactions.

What a document is to become is computed whole before anything is sent. New and changed chunks go first, then what is
stale goes, by id; readers see neither before the refresh that follows both. A document that the server refuses part
of keeps its last version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ingestd.errors import IngestdError
from ingestd.types import Document, Operation, Rekey, Remove, Replace, Written, chunk_id
from ingestd_plugins import elasticsearch_documents as documents
from ingestd_plugins import elasticsearch_read as reading
from ingestd_plugins.elasticsearch_bulk import Action, Bulk
from ingestd_plugins.elasticsearch_index import Index
from ingestd_plugins.elasticsearch_owner import check_opened
from ingestd_plugins.elasticsearch_server import BASE64_VECTORS, Server
from ingestd_plugins.vectors import REFUSALS, check_hashes, unit_vectors

LOOK = 10.0
"""Seconds between two looks at who else writes to the index."""

State = dict[str, dict[str, dict[str, Any]]]
"""Metadata by entry, by document."""


@dataclass
class Plan:
    """What one operation comes to."""

    result: Written
    document: str = ""
    put: dict[str, bytes] = field(default_factory=dict)
    """Sources by id."""
    kept: dict[str, tuple[str, str, dict[str, Any]]] = field(default_factory=dict)
    """Entries whose text and vector are to be read from the index first: new id to (id, document, new metadata)."""
    drop: list[str] = field(default_factory=list)


class Writer:
    """Used by one thread at a time; everything here runs in the loop of the server's connection."""

    def __init__(self, server: Server, index: Index, dims: int) -> None:
        self._server = server
        self._index = index
        self._dims = dims
        self._bulk = Bulk(server, index)
        self._dirty: set[str] = set()
        """Documents written since the last refresh: a search may show their last version."""
        self._look_at = 0.0
        self._refreshing: asyncio.Task[None] | None = None
        self._whole = asyncio.Lock()
        """Held while a document may be half written: a refresh would show it."""

    async def write(self, operations: Sequence[Operation]) -> list[Written]:
        results: list[Written] = []
        await self._look()
        delay = self._server.settings.refresh_delay()
        for wave in _waves(operations):
            async with self._whole:
                if self._bulk.unsettled:
                    await self._bulk.settle()
                    await self._refresh(anyway=True)
                results += await self._wave(wave)
        if not delay:
            await self.show()
        elif self._dirty and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh_later(delay))
        return results

    async def _look(self) -> None:
        """Now and then, whether nobody else has opened the index since. Raises `IndexUnavailableError`."""
        now = asyncio.get_running_loop().time()
        if self._index.opened is not None and now >= self._look_at:
            await check_opened(self._server, self._index.name, self._index.opened)
            self._look_at = now + LOOK

    async def show(self, *, wait: bool = True) -> None:
        """Let searches see all that was written; without `wait` only if nothing is being written."""
        if self._dirty and (wait or not self._whole.locked()):
            async with self._whole:
                await self._refresh()

    async def _refresh(self, *, anyway: bool = False) -> None:
        if self._dirty or anyway:
            await self._server.call("refresh", lambda client: client.indices.refresh(index=self._index.name))
            self._dirty.clear()

    async def _refresh_later(self, delay: float) -> None:
        await asyncio.sleep(delay)
        try:
            await self.show()
        except IngestdError:
            return  # whoever needs it tries again, and says why it fails

    async def close(self) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
        await self.show()

    async def _wave(self, operations: Sequence[Operation]) -> list[Written]:
        """Operations that have no document in common."""
        touched = {doc_id for operation in operations for doc_id in _documents(operation)}
        if not touched:
            return []
        if touched & self._dirty:
            await self._refresh()
        state = await reading.state(self._server, self._index, sorted(touched))
        plans = [self._plan(operation, state) for operation in operations]
        await self._read_kept(plans)
        changing = [plan for plan in plans if plan.put or plan.drop]
        self._dirty.update(plan.document for plan in changing)
        refused = await self._bulk.send(
            [Action(id, plan.document, source) for plan in changing for id, source in plan.put.items()]
        )
        for plan in changing:
            if reason := refused.get(plan.document):
                plan.result = Written(error=f"Elasticsearch does not take this document: {reason}")
                plan.drop = [id for id in plan.put if id not in state.get(plan.document, {})]
        await self._bulk.send([Action(id, plan.document, None) for plan in changing for id in plan.drop])
        return [plan.result for plan in plans]

    def _plan(self, operation: Operation, state: State) -> Plan:
        try:
            match operation:
                case Replace():
                    return self._replace(operation, state)
                case Rekey():
                    return self._rekey(operation, state)
                case Remove():
                    return Plan(Written(), operation.doc_id, drop=list(state.get(operation.doc_id, ())))
        except REFUSALS as error:
            return Plan(Written(error=f"the store does not take this document: {error}"))

    def _replace(self, operation: Replace, state: State) -> Plan:
        document = operation.document
        stored = state.get(document.doc_id, {})
        common = documents.document_metadata(document)
        vectors = iter(unit_vectors(operation, self._dims))
        check_hashes(operation)
        plan = Plan(Written(chunks=len(operation.chunks)), document.doc_id)
        compact = self._server.version >= BASE64_VECTORS
        missing = 0
        wanted: set[str] = set()
        for chunk in operation.chunks:
            id = chunk_id(document.doc_id, chunk.hash)
            metadata = documents.chunk_metadata(common, chunk)
            wanted.add(id)
            if chunk.fresh:  # written whole: what is stored may be damaged
                source = documents.source(chunk.text, metadata, next(vectors), compact=compact)
                plan.put[id] = documents.encoded(source)
            elif id not in stored:
                missing += 1
            elif stored[id] != documents.plain(metadata):
                plan.kept[id] = (id, document.doc_id, metadata)
        if missing:
            return Plan(Written(missing=missing))
        return self._finish(plan, common, wanted, stored)

    def _rekey(self, operation: Rekey, state: State) -> Plan:
        document = operation.document
        origin = state.get(operation.origin, {})
        digest = document.digest.hex()
        ordinals = sorted(metadata["ordinal"] for metadata in origin.values())
        if not origin or ordinals != list(range(len(origin))):
            return Plan(Written(missing=1))
        if any(metadata["digest"] != digest for metadata in origin.values()):
            return Plan(Written(missing=1))
        common = documents.document_metadata(document)
        plan = Plan(Written(), document.doc_id)
        stored = state.get(document.doc_id, {})
        for old, metadata in origin.items():
            if metadata["hash"] == documents.BLANK:
                continue
            chunk = documents.chunk_of({"text": "", "metadata": metadata})
            made = documents.chunk_metadata(common, chunk)
            id = chunk_id(document.doc_id, chunk.hash)
            plan.kept[id] = (old, operation.origin, made)
        plan.result = Written(chunks=len(plan.kept))
        return self._finish(plan, common, set(plan.kept), stored)

    def _finish(self, plan: Plan, common: dict[str, Any], wanted: set[str], stored: dict[str, dict[str, Any]]) -> Plan:
        """What is stale, and the entry of a document without chunks."""
        if not wanted:
            blank = documents.blank(common)
            wanted = {plan.document}
            if stored.get(plan.document) != documents.plain(blank["metadata"]):
                plan.put[plan.document] = documents.encoded(blank)
        plan.drop = [id for id in stored if id not in wanted]
        return plan

    async def _read_kept(self, plans: list[Plan]) -> None:
        """Vectors of what has another place or name from now on; a document that lacks one is not changed."""
        asked = {(id, document): None for plan in plans for id, document, _ in plan.kept.values()}
        if not asked:
            return
        found = await reading.entries(self._server, self._index, list(asked))
        compact = self._server.version >= BASE64_VECTORS
        for plan in plans:
            lost = sum(id not in found for id, _, _ in plan.kept.values())
            if lost:
                plan.result, plan.put, plan.drop = Written(missing=lost), {}, []
                continue
            for new, (id, _, metadata) in plan.kept.items():
                entry = found[id]
                vector = documents.unpacked(entry["vector"], self._dims) if "vector" in entry else None
                source = documents.source(entry["text"], metadata, vector, compact=compact)
                plan.put[new] = documents.encoded(source)


def _documents(operation: Operation) -> set[str]:
    match operation:
        case Replace(document=Document(doc_id=doc_id)):
            return {doc_id}
        case Rekey(origin=origin, document=Document(doc_id=doc_id)):
            return {origin, doc_id}
        case Remove(doc_id=doc_id):
            return {doc_id}


def _waves(operations: Sequence[Operation]) -> Iterator[list[Operation]]:
    """The operations in order, cut where one touches what an earlier one has changed."""
    wave: list[Operation] = []
    touched: set[str] = set()
    for operation in operations:
        own = _documents(operation)
        if own & touched:
            yield wave
            wave, touched = [], set()
        wave.append(operation)
        touched |= own
    if wave:
        yield wave
