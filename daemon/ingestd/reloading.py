"""A configuration that changed under a running daemon: what comes into force, and what waits for the next start."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ingestd.config import Config, load

if TYPE_CHECKING:
    from ingestd.daemon import Daemon

log = logging.getLogger("ingestd")

WATCH_WAIT = 30.0
"""Seconds that a reload waits for its new sources to be watched."""


async def reload(daemon: Daemon) -> dict[str, Any]:
    """Read the configuration again and bring it into force: sources, limits and loaders.

    Returns the names of the sources, and the keys that wait for the next start. Raises `ConfigError`, and then
    everything is as it was.
    """
    old = daemon.config
    new = await asyncio.to_thread(reread, old)
    await daemon.configure(msgspec.structs.replace(old, watch=new.watch, load=new.load, file=new.file))
    deadline = time.monotonic() + WATCH_WAIT
    while not daemon.watching.ready and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    log.info("the configuration was read again: %d sources", len(new.watch))
    return {"sources": [table.name for table in new.watch], "restart": unlike(old, new)}


def reread(config: Config) -> Config:
    """The configuration as its file is now. Raises `ConfigError`."""
    return load(Path(config.file) if config.file else None, os.environ, config.state.directory)


def unlike(old: Config, new: Config) -> list[str]:
    """The keys that differ and that only a new start brings into force."""
    return [
        f"[{table}] {key}"
        for table in ("state", "chunk", "encode", "index", "log")
        for key in getattr(old, table).__struct_fields__
        if getattr(getattr(old, table), key) != getattr(getattr(new, table), key)
    ]
