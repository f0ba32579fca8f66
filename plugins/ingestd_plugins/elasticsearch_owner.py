"""Which state directory an index belongs to: two that wrote to one would delete each other's documents."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, NamedTuple

from ingestd.errors import IndexOwnedError
from ingestd_plugins.elasticsearch_server import Server
from ingestd_plugins.elasticsearch_settings import TABLE, Settings

COMMAND = "ingestd explain another-owner"


class Owner(NamedTuple):
    """A state directory; `id` is in a file below it."""

    id: str
    directory: Path

    def note(self) -> dict[str, str]:
        """What the index says of it."""
        return {"id": self.id, "host": socket.gethostname(), "directory": str(self.directory)}


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


async def own(server: Server, name: str, meta: dict[str, Any], owner: Owner) -> None:
    """Write the owner into the index, where it has another or none. Raises `IndexOwnedError`."""
    check_owner(server.settings, name, meta, owner)
    if (meta.get("owner") or {}).get("id") != owner.id:
        noted = {**meta, "owner": owner.note()}
        await server.call("note the owner in", lambda client: client.indices.put_mapping(index=name, meta=noted))
