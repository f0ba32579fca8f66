"""The daemon's own index: its name, its mapping, its place under the alias, and whether its vectors can be compared."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ingestd.errors import IndexMismatchError, IndexUnavailableError, IngestdError
from ingestd.types import Fingerprint
from ingestd_plugins.elasticsearch_documents import METADATA
from ingestd_plugins.elasticsearch_owner import Owner, belongs, check_owner, own
from ingestd_plugins.elasticsearch_server import EXCLUDED_VECTORS, Server
from ingestd_plugins.elasticsearch_settings import Settings

FORMAT = 1
"""Version of the mapping; an index of another one is rebuilt, not converted."""
REBUILD = "ingestd reindex"
FIRST = "ingestd ingest PATH"
ANOTHER = "ingestd reindex, with another `name` under [index.elasticsearch] of all daemons"
LOOK = 5.0
"""Seconds between two looks at what is to be dropped."""
SAFETY_REFRESH = "60s"
"""The sink refreshes itself, after whole documents; this is for what it wrote just before it was killed."""


class Index:
    """Names of what belongs to one daemon."""

    def __init__(self, chosen: Settings, name: str) -> None:
        self.alias = chosen.name
        self.name = name
        self.writing = self.written(name)
        """An alias of this one index. What is written through it is refused where the index has gone, or was replaced,
        instead of making a new one with a mapping that is guessed."""
        self.opened: str | None = None
        """Of the owner that opened it last, where that is us."""

    @staticmethod
    def written(name: str) -> str:
        return f"{name}-write"

    @staticmethod
    def replaced(name: str, when: int | str) -> str:
        """Its alias once another one took its place."""
        return f"{name}-replaced-{when}"


class Known(NamedTuple):
    """An index that is there."""

    meta: dict[str, Any]
    aliases: frozenset[str]

    def replaced(self, name: str) -> int | None:
        """When another one took its place, in seconds of Unix time: it is dropped when its last readers may be done."""
        stem = Index.replaced(name, "")
        times = (alias.removeprefix(stem) for alias in self.aliases if alias.startswith(stem))
        return next((int(time) for time in times if time.isdigit()), None)


async def prepare(server: Server, fingerprint: Fingerprint, owner: Owner | None) -> Index:
    """Find or make the index. `owner`: None to read only.

    Raises `IndexMismatchError`, `IndexOwnedError`, `IndexUnavailableError`.
    """
    chosen = server.settings
    for _ in range(3):  # another one may make it at the same moment
        published, others = await _indexes(server)
        for name, known in published.items():
            _check(name, known.meta, fingerprint)
        for name, known in published.items():
            if known.meta["daemon"] == chosen.own_name():
                index = Index(chosen, name)
                if owner is not None:
                    index.opened = await own(server, name, known.meta, owner)
                return index
        index = Index(chosen, _free_name(chosen, fingerprint, others))
        if owner is None:
            raise IndexUnavailableError(
                f"nothing has been indexed yet: there is no index {index.name} at {server.where}", command=FIRST
            )
        if await _create(server, index, fingerprint, owner, aliases=[index.alias, index.writing]):
            return index
    raise IndexUnavailableError(f"the index {index.name} is there, but not under the alias {index.alias}")


async def draft(server: Server, fingerprint: Fingerprint, owner: Owner, note: Path) -> Index:
    """The index that is built beside the one in use, which readers do not see; `note` holds its name.

    Without a note what was begun earlier is given up. Raises `IndexOwnedError`, `IndexUnavailableError`.
    """
    chosen = server.settings
    published, others = await _indexes(server)
    for name, known in published.items():  # readers of the alias could not compare its vectors with those of others
        if known.meta.get("daemon") != chosen.own_name():
            _check(name, known.meta, fingerprint, command=ANOTHER)
        else:
            check_owner(chosen, name, known.meta, owner)
    if note.exists() and (name := note.read_text()) in {**published, **others}:
        index = Index(chosen, name)
        index.opened = await own(server, name, {**published, **others}[name].meta, owner)
        return index
    for name, known in list(others.items()):
        if known.replaced(name) is None and belongs(chosen, known.meta, owner):
            await _drop(server, name)
            del others[name]
    index = Index(chosen, _free_name(chosen, fingerprint, {**published, **others}))
    await _create(server, index, fingerprint, owner, aliases=[index.writing])
    note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    note.write_text(index.name)
    return index


async def publish(server: Server, index: Index, owner: Owner) -> None:
    """Show readers this index in the place of the daemon's others, to which nothing is written any more.

    May be done again.
    """
    chosen = server.settings
    published, _ = await _indexes(server)
    actions: list[dict[str, Any]] = [{"add": {"index": index.name, "alias": index.alias}}]
    for name, known in published.items():
        if known.meta.get("daemon") == chosen.own_name() and name != index.name:
            check_owner(chosen, name, known.meta, owner)
            gone = [index.alias, Index.written(name)]
            actions += [{"remove": {"index": name, "alias": alias, "must_exist": False}} for alias in gone]
            actions.append({"add": {"index": name, "alias": Index.replaced(name, int(time.time()))}})
    await server.call("swap the alias of", lambda client: client.indices.update_aliases(actions=actions))


async def drop_replaced(server: Server, owner: Owner) -> None:
    """Drop what was replaced, once readers that had begun to read it may be done; tried until it works."""
    keep = server.settings.keep_delay()
    left = True
    while left:
        left = False
        try:
            _, others = await _indexes(server)
            for name, known in others.items():
                when = known.replaced(name)
                if when is None or not belongs(server.settings, known.meta, owner):
                    continue
                if time.time() < when + keep:
                    left = True
                else:
                    await _drop(server, name)
        except IngestdError:  # the server is away
            left = True
        if left:
            await asyncio.sleep(LOOK)


def _free_name(chosen: Settings, fingerprint: Fingerprint, taken: dict[str, Known]) -> str:
    stem = f"{_prefix(chosen)}{fingerprint.digest()}"
    names = (stem if number == 1 else f"{stem}-{number}" for number in itertools.count(1))
    return next(name for name in names if name not in taken)


def _prefix(chosen: Settings) -> str:
    return f"{chosen.name}-{chosen.own_name()}-"


async def _drop(server: Server, name: str) -> None:
    gone: Any = {}
    await server.call("drop an index of", lambda client: client.indices.delete(index=name), missing=gone)


async def _indexes(server: Server) -> tuple[dict[str, Known], dict[str, Known]]:
    """All indexes under the alias, and the daemon's own that are not: drafts, and what was replaced."""
    chosen = server.settings
    published = await _known(server, chosen.name)
    others = await _known(server, f"{_prefix(chosen)}*")
    own = {name: known for name, known in others.items() if known.meta.get("daemon") == chosen.own_name()}
    return published, {name: known for name, known in own.items() if name not in published}


async def _known(server: Server, pattern: str) -> dict[str, Known]:
    answer: Any = await server.call(
        "look for indexes of",
        lambda client: client.indices.get(
            index=pattern, ignore_unavailable=True, allow_no_indices=True, expand_wildcards="open"
        ),
        missing={},
    )
    return {
        name: Known(found["mappings"].get("_meta") or {}, frozenset(found["aliases"]))
        for name, found in dict(answer).items()
    }


def _check(name: str, meta: dict[str, Any], fingerprint: Fingerprint, command: str = REBUILD) -> None:
    if meta.get("ingestd") != FORMAT:
        raise IndexMismatchError(f"the index {name} was not made by this version of ingestd", command=command)
    try:
        made = msgspec.convert(meta.get("fingerprint"), Fingerprint)
    except msgspec.ValidationError:
        raise IndexMismatchError(f"the index {name} has the format of another ingestd", command=command) from None
    if changes := fingerprint.changes(made):
        raise IndexMismatchError(f"the index {name} was made with other settings: {changes}", command=command)


async def _create(server: Server, index: Index, fingerprint: Fingerprint, owner: Owner, *, aliases: list[str]) -> bool:
    """False where there is one already."""
    try:
        await server.call(
            "make an index in",
            lambda client: client.indices.create(
                index=index.name,
                settings=settings(server.settings),
                mappings=mapping(server, fingerprint, owner),
                aliases={alias: {} for alias in aliases},
            ),
        )
    except IngestdError as error:
        if "resource_already_exists" not in str(error):
            raise
        return False
    index.opened = owner.opened
    return True


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


def mapping(server: Server, fingerprint: Fingerprint, owner: Owner) -> dict[str, Any]:
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
            "owner": owner.note(),
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
