"""Which state directory an index belongs to: two that wrote to one would delete each other's documents."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, NamedTuple

from ingestd.errors import IndexAwayError, IndexOwnedError, IndexUnavailableError
from ingestd_plugins.elasticsearch_server import Server
from ingestd_plugins.elasticsearch_settings import TABLE, Settings

COMMAND = "ingestd explain another-owner"


class Owner(NamedTuple):
    """A state directory; `id` is in a file below it."""

    id: str
    directory: Path
    opened: str
    """Made up anew each time that the index is opened, which a copy of the directory has no part in."""

    def note(self) -> dict[str, str]:
        """What the index says of it."""
        place = {"host": socket.gethostname(), "directory": str(self.directory)}
        return {"id": self.id, "opened": self.opened, **place}


def belongs(chosen: Settings, meta: dict[str, Any], owner: Owner) -> bool:
    """Whether it is the owner's, or nobody's, as indexes of earlier versions are."""
    return (meta.get("owner") or {}).get("id") in (None, owner.id, chosen.take_over)


def check_owner(chosen: Settings, name: str, meta: dict[str, Any], owner: Owner) -> None:
    """Raises `IndexOwnedError`."""
    if not belongs(chosen, meta, owner):
        other = meta["owner"]
        place, id = f"{other.get('directory')} on {other.get('host')}", other["id"]
        raise IndexOwnedError(
            f"the index {name} is written by another state directory, {place}: if that one is in use, set another"
            f" `daemon` than {chosen.own_name()!r} under {TABLE}; if it is gone for good, set take_over = {id!r} there",
            command=COMMAND,
        )


async def own(server: Server, name: str, meta: dict[str, Any], owner: Owner) -> str | None:
    """Write the owner into the index, and return what it has for `opened` now. Raises `IndexOwnedError`."""
    check_owner(server.settings, name, meta, owner)
    noted = {**meta, "owner": owner.note()}
    known = meta.get("owner") or {}
    try:
        await server.call("note the owner in", lambda client: client.indices.put_mapping(index=name, meta=noted))
    except IndexAwayError as error:  # a full disk, say: what it has can be searched nevertheless
        if known.get("id") != owner.id or "cluster_block" not in error.message:
            raise
        return known.get("opened")
    return owner.opened


async def check_opened(server: Server, name: str, opened: str) -> None:
    """Raises `IndexUnavailableError` where somebody else has opened the index since: it has a copy of our id."""
    found: Any = await server.call("look at", lambda client: client.indices.get_mapping(index=name))
    (known,) = dict(found).values()
    other = (known["mappings"].get("_meta") or {}).get("owner") or {}
    if other.get("opened") != opened:
        raise IndexUnavailableError(
            f"a copy of this state directory is in use, {other.get('directory')} on {other.get('host')}, and writes to"
            f" the index {name}: stop one of them; the other one goes on when it is started again",
            command=COMMAND,
        )
