"""The daemon's own index: its name, its mapping, its place under the alias, and whether its vectors can be compared."""

from __future__ import annotations

from typing import Any

import msgspec

from ingestd.errors import IndexMismatchError, IndexUnavailableError
from ingestd.types import Fingerprint
from ingestd_plugins.elasticsearch_documents import METADATA
from ingestd_plugins.elasticsearch_server import EXCLUDED_VECTORS, Server
from ingestd_plugins.elasticsearch_settings import Settings

FORMAT = 1
"""Version of the mapping; an index of another one is rebuilt, not converted."""
REBUILD = "ingestd reindex"
FIRST = "ingestd ingest PATH"
SAFETY_REFRESH = "60s"
"""The sink refreshes itself, after whole documents; this is for what it wrote just before it was killed."""


class Index:
    """Names of what belongs to one daemon and fingerprint."""

    def __init__(self, chosen: Settings, fingerprint: Fingerprint) -> None:
        self.alias = chosen.name
        self.daemon = chosen.own_name()
        self.prefix = f"{chosen.name}-{self.daemon}-"
        self.name = f"{self.prefix}{fingerprint.digest()}"
        self.writing = f"{self.name}-write"
        """An alias of this one index. What is written through it is refused where the index has gone, instead of
        making a new one with a mapping that is guessed."""


async def prepare(server: Server, fingerprint: Fingerprint, *, readonly: bool) -> Index:
    """Find or make the index. Raises `IndexMismatchError`, `IndexUnavailableError`."""
    index = Index(server.settings, fingerprint)
    known = await _indexes(server, index)
    for name, meta in known.items():
        _check(name, meta, fingerprint)
    if index.name not in known:
        if readonly:
            raise IndexUnavailableError(
                f"nothing has been indexed yet: there is no index {index.name} at {server.where}", command=FIRST
            )
        await _create(server, index, fingerprint)
    return index


async def _indexes(server: Server, index: Index) -> dict[str, dict[str, Any]]:
    """Notes (`_meta`) of the daemon's own indexes and of all under the alias."""
    found: dict[str, dict[str, Any]] = {}
    for pattern in (f"{index.prefix}*", index.alias):
        answer: Any = await server.call(
            "look for indexes of",
            lambda client, pattern=pattern: client.indices.get_mapping(  # type: ignore[misc]
                index=pattern, ignore_unavailable=True, allow_no_indices=True, expand_wildcards="open"
            ),
            missing={},
        )
        for name, mapping in dict(answer).items():
            meta = mapping["mappings"].get("_meta") or {}
            if pattern == index.alias or meta.get("daemon") == index.daemon:
                found[name] = meta
    return found


def _check(name: str, meta: dict[str, Any], fingerprint: Fingerprint) -> None:
    if meta.get("ingestd") != FORMAT:
        raise IndexMismatchError(f"the index {name} was not made by this version of ingestd", command=REBUILD)
    try:
        made = msgspec.convert(meta.get("fingerprint"), Fingerprint)
    except msgspec.ValidationError:
        raise IndexMismatchError(f"the index {name} has the format of another ingestd", command=REBUILD) from None
    if changes := fingerprint.changes(made):
        raise IndexMismatchError(f"the index {name} was made with other settings: {changes}", command=REBUILD)


async def _create(server: Server, index: Index, fingerprint: Fingerprint) -> None:
    try:
        await server.call(
            "make an index in",
            lambda client: client.indices.create(
                index=index.name,
                settings=settings(server.settings),
                mappings=mapping(server, index, fingerprint),
                aliases={index.alias: {}, index.writing: {}},
            ),
        )
    except Exception as error:
        if "resource_already_exists" not in str(error):  # two that open it at once
            raise


def settings(chosen: Settings) -> dict[str, Any]:
    found: dict[str, Any] = {
        "number_of_shards": chosen.shards,
        "refresh_interval": SAFETY_REFRESH,
        "translog.durability": "request",
        "max_regex_length": 20_000,  # a pattern over paths
    }
    if chosen.replicas is not None:
        found["number_of_replicas"] = chosen.replicas
    return found


def mapping(server: Server, index: Index, fingerprint: Fingerprint) -> dict[str, Any]:
    chosen = server.settings
    vector: dict[str, Any] = {
        "type": "dense_vector", "dims": fingerprint.dims, "index": True, "similarity": chosen.similarity,
    }  # fmt: skip
    if chosen.index_options is not None:
        vector["index_options"] = chosen.index_options
    return {
        "dynamic": "strict",
        "_meta": {
            "ingestd": FORMAT,
            "daemon": index.daemon,
            "fingerprint": msgspec.to_builtins(fingerprint),
        },
        "properties": {
            "text": {"type": "text", "analyzer": chosen.analyzer},
            "vector": vector,
            "terms": {"type": "text", "analyzer": "whitespace"},
            "metadata": {"dynamic": "strict", "properties": METADATA},
        },
    }


def with_vectors(server: Server) -> dict[str, Any]:
    """What a request adds in order to be given vectors."""
    return {"_source_exclude_vectors": "false"} if server.version >= EXCLUDED_VECTORS else {}
