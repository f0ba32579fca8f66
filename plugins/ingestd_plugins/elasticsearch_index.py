"""The daemon's own index: its name, its mapping, its place under the alias, and whether its vectors can be compared."""

from __future__ import annotations

import itertools
from pathlib import Path
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
ANOTHER = "ingestd reindex, with another `name` under [index.elasticsearch] of all daemons"
SAFETY_REFRESH = "60s"
"""The sink refreshes itself, after whole documents; this is for what it wrote just before it was killed."""


class Index:
    """Names of what belongs to one daemon."""

    def __init__(self, chosen: Settings, name: str) -> None:
        self.alias = chosen.name
        self.name = name
        self.writing = f"{name}-write"
        """An alias of this one index. What is written through it is refused where the index has gone, instead of
        making a new one with a mapping that is guessed."""


async def prepare(server: Server, fingerprint: Fingerprint, *, readonly: bool) -> Index:
    """Find or make the index. Raises `IndexMismatchError`, `IndexUnavailableError`."""
    chosen = server.settings
    published, _ = await _indexes(server)
    for name, meta in published.items():
        _check(name, meta, fingerprint)
    for name, meta in published.items():
        if meta["daemon"] == chosen.own_name():
            return Index(chosen, name)
    name = f"{_prefix(chosen)}{fingerprint.digest()}"
    if readonly:
        raise IndexUnavailableError(
            f"nothing has been indexed yet: there is no index {name} at {server.where}", command=FIRST
        )
    index = Index(chosen, name)
    await _create(server, index, fingerprint, aliases=[index.alias, index.writing])
    return index


async def draft(server: Server, fingerprint: Fingerprint, note: Path) -> Index:
    """The index that is built beside the one in use, which readers do not see; `note` holds its name.

    Without a note what was begun earlier is given up. Raises `IndexUnavailableError`.
    """
    chosen = server.settings
    published, drafts = await _indexes(server)
    for name, meta in published.items():  # readers of the alias could not compare its vectors with those of others
        if meta.get("daemon") != chosen.own_name():
            _check(name, meta, fingerprint, command=ANOTHER)
    if note.exists() and (name := note.read_text()) in {**published, **drafts}:
        return Index(chosen, name)
    for name in drafts:
        await _drop(server, name)
    stem = f"{_prefix(chosen)}{fingerprint.digest()}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    index = Index(chosen, next(name for name in names if name not in published))
    await _create(server, index, fingerprint, aliases=[index.writing])
    note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    note.write_text(index.name)
    return index


async def publish(server: Server, index: Index) -> None:
    """Show readers this index in the place of the daemon's others, which are then dropped. May be done again."""
    published, _ = await _indexes(server)
    own = [n for n, meta in published.items() if meta.get("daemon") == server.settings.own_name() and n != index.name]
    actions: list[dict[str, Any]] = [{"add": {"index": index.name, "alias": index.alias}}]
    actions += [{"remove": {"index": name, "alias": index.alias}} for name in own]
    await server.call("swap the alias of", lambda client: client.indices.update_aliases(actions=actions))
    _, replaced = await _indexes(server)
    for name in replaced:
        await _drop(server, name)


def _prefix(chosen: Settings) -> str:
    return f"{chosen.name}-{chosen.own_name()}-"


async def _drop(server: Server, name: str) -> None:
    gone: Any = {}
    await server.call("drop an index of", lambda client: client.indices.delete(index=name), missing=gone)


async def _indexes(server: Server) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Notes (`_meta`) of all indexes under the alias, and of the daemon's own that are not."""
    chosen = server.settings
    published = await _notes(server, chosen.name)
    drafts = await _notes(server, f"{_prefix(chosen)}*")
    own = {name: meta for name, meta in drafts.items() if meta.get("daemon") == chosen.own_name()}
    return published, {name: meta for name, meta in own.items() if name not in published}


async def _notes(server: Server, pattern: str) -> dict[str, dict[str, Any]]:
    answer: Any = await server.call(
        "look for indexes of",
        lambda client: client.indices.get_mapping(
            index=pattern, ignore_unavailable=True, allow_no_indices=True, expand_wildcards="open"
        ),
        missing={},
    )
    return {name: mapping["mappings"].get("_meta") or {} for name, mapping in dict(answer).items()}


def _check(name: str, meta: dict[str, Any], fingerprint: Fingerprint, command: str = REBUILD) -> None:
    if meta.get("ingestd") != FORMAT:
        raise IndexMismatchError(f"the index {name} was not made by this version of ingestd", command=command)
    try:
        made = msgspec.convert(meta.get("fingerprint"), Fingerprint)
    except msgspec.ValidationError:
        raise IndexMismatchError(f"the index {name} has the format of another ingestd", command=command) from None
    if changes := fingerprint.changes(made):
        raise IndexMismatchError(f"the index {name} was made with other settings: {changes}", command=command)


async def _create(server: Server, index: Index, fingerprint: Fingerprint, *, aliases: list[str]) -> None:
    try:
        await server.call(
            "make an index in",
            lambda client: client.indices.create(
                index=index.name,
                settings=settings(server.settings),
                mappings=mapping(server, fingerprint),
                aliases={alias: {} for alias in aliases},
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


def mapping(server: Server, fingerprint: Fingerprint) -> dict[str, Any]:
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
            "daemon": chosen.own_name(),
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
