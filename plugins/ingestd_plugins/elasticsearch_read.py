"""What the index holds: of some documents, for a write; of all of them, for verify and repair."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from ingestd.errors import IndexUnavailableError
from ingestd_plugins.elasticsearch_index import Index, with_vectors
from ingestd_plugins.elasticsearch_server import Server

PAGE: Final = 5_000
"""Entries of a search; the server's own limit is 10,000."""
VECTORS: Final = 500
"""Entries with their vectors at once."""
TERMS: Final = 10_000
"""Documents asked for by one search."""
KEEP: Final = "5m"
_ORDER: Final = [{"metadata.doc_id": "asc"}, {"metadata.hash": "asc"}]

Entry = dict[str, Any]
"""A source: `text`, `metadata` and so on, as much as was asked for."""


async def state(server: Server, index: Index, doc_ids: Sequence[str]) -> dict[str, dict[str, Entry]]:
    """Metadata of the chunks of each document that is there, by the ids of the entries. What is not refreshed is not
    seen."""
    found: dict[str, dict[str, Entry]] = {}
    async for id, entry in _pages(server, index, _of(doc_ids), ["metadata"], name=index.name):
        metadata = entry["metadata"]
        found.setdefault(metadata["doc_id"], {})[id] = metadata
    return found


async def entries(server: Server, index: Index, ids: Sequence[tuple[str, str]]) -> dict[str, Entry]:
    """Whole entries by (id, document), with vectors, as they are now; those that are not there are left out."""
    found: dict[str, Entry] = {}
    for start in range(0, len(ids), VECTORS):
        wanted = [
            {"_id": id, **({"routing": document} if server.settings.routing else {})}
            for id, document in ids[start : start + VECTORS]
        ]
        answer = await server.call(
            "read from",
            lambda client, wanted=wanted: client.perform_request(  # type: ignore[misc]
                "POST", f"/{index.name}/_mget", params=with_vectors(server),
                headers={"accept": "application/json", "content-type": "application/json"}, body={"docs": wanted},
            ),
        )  # fmt: skip
        for item in answer["docs"]:
            if "error" in item:
                raise IndexUnavailableError(f"cannot read from Elasticsearch at {server.where}: {item['error']}")
            if item.get("found"):
                found[item["_id"]] = item["_source"]
    return found


async def whole(server: Server, index: Index, doc_ids: Sequence[str]) -> AsyncIterator[Entry]:
    """All entries of some documents with their vectors, ordered by document."""
    async for _, entry in _pages(server, index, _of(doc_ids), True, name=index.name, size=VECTORS):
        yield entry


@asynccontextmanager
async def snapshot(server: Server, index: Index) -> AsyncIterator[str]:
    """A point in time."""
    answer = await server.call("read from", lambda client: client.open_point_in_time(index=index.name, keep_alive=KEEP))
    try:
        yield answer["id"]
    finally:
        await server.call("read from", lambda client: client.close_point_in_time(id=answer["id"]), missing=answer)


async def page(
    server: Server, index: Index, point: str, after: list[Any] | None, fields: Any
) -> list[tuple[str, Entry, list[Any]]]:
    """The next entries of a snapshot, ordered by document: id, source, and where to go on."""
    return await _search(server, {"match_all": {}}, fields, PAGE, after, {"pit": {"id": point, "keep_alive": KEEP}})


def _of(doc_ids: Sequence[str]) -> dict[str, Any]:
    return {"terms": {"metadata.doc_id": list(doc_ids)}}


async def _pages(
    server: Server, index: Index, query: dict[str, Any], fields: Any, *, name: str, size: int = PAGE
) -> AsyncIterator[tuple[str, Entry]]:
    after: list[Any] | None = None
    while True:
        found = await _search(server, query, fields, size, after, {}, name)
        for id, entry, _ in found:
            yield id, entry
        if len(found) < size:
            return
        after = found[-1][2]


async def _search(
    server: Server, query: dict[str, Any], fields: Any, size: int, after: list[Any] | None, extra: dict[str, Any],
    name: str | None = None,
) -> list[tuple[str, Entry, list[Any]]]:  # fmt: skip
    body: dict[str, Any] = {"query": query, "size": size, "sort": _ORDER, "track_total_hits": False, **extra}
    if fields is True:
        source: Any = {"exclude_vectors": False} if with_vectors(server) else True
        body["_source"] = source
    else:
        body["_source"] = fields
    if after is not None:
        body["search_after"] = after
    answer = await search(server, name, body)
    return [(hit["_id"], hit["_source"], hit["sort"]) for hit in answer["hits"]["hits"]]


async def search(
    server: Server, name: str | None, body: dict[str, Any], *, frequencies: bool = False
) -> dict[str, Any]:
    """A search that has seen every shard; with `frequencies` scores do not depend on which one an entry is on.

    Raises `IndexUnavailableError`.
    """
    path = f"/{name}/_search" if name is not None else "/_search"
    headers = {"accept": "application/json", "content-type": "application/json"}
    params = {"allow_partial_search_results": "false"}
    if frequencies and server.settings.shards > 1:
        params["search_type"] = "dfs_query_then_fetch"
    answer: Any = await server.call(
        "search", lambda client: client.perform_request("POST", path, params=params, headers=headers, body=body)
    )
    return dict(answer.body)
