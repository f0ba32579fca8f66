"""What the plugins offer, learnt from a probe worker; one that it does not survive is left out from then on."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import logging
import time
from pathlib import Path
from typing import Any

from ingestd.config import Config, LoadTable
from ingestd.errors import UsageError
from ingestd.messages.probe import Manifest, PluginError
from ingestd.supervisor import StartError, Worker

log = logging.getLogger("ingestd")

PROBE_TIMEOUT = 60.0
"""Seconds that the probe worker may take to start."""
PLUGIN_TIMEOUT = 20.0
"""Seconds that one plugin may take to be imported and to register what it has."""


class Plugins:
    """The manifest, and what is wrong with plugins."""

    def __init__(self) -> None:
        self.manifest = Manifest(items=[], errors=[])
        self.lost: list[PluginError] = []
        """Plugins that a probe did not survive."""
        self.warnings: list[str] = []

    @property
    def blocked(self) -> list[str]:
        """Names of the plugins that no worker may import."""
        return [error.plugin for error in self.lost]

    @property
    def loaders(self) -> dict[str, str]:
        """Name and version of each loader."""
        return {item.name: item.version for item in self.manifest.items if item.kind == "loader"}

    @property
    def remembering(self) -> set[str]:
        """Loaders of which is kept what they made of a content."""
        return {item.name for item in self.manifest.items if item.remembers}

    def tell(self) -> None:
        """Log what loaders work with, and what they lack."""
        for item in self.manifest.items:
            if item.lacks or item.uses:
                log.info("%s %s", item.called, f"needs {item.lacks}" if item.lacks else f"uses {item.uses}")

    async def probe(self, scratch: Path, prefix: str, load: LoadTable | None = None) -> None:
        """Ask the plugins. `load`: the loaders' options are in it. Raises `StartError` where none can be listed."""
        options = {name: load.options(name) for name in load.loaders} if load is not None else {}
        while True:
            worker = Worker("probe", f"{prefix}.probe.{len(self.lost)}", scratch / "probe")
            scratch.joinpath("probe").mkdir(exist_ok=True)
            found: asyncio.Future[Manifest] = asyncio.get_running_loop().create_future()
            worker.on_frame = functools.partial(_resolve, found)
            try:
                await worker.start({"blocked": self.blocked, "options": options}, PROBE_TIMEOUT)
                await self._answered(worker, found)
                if found.done():
                    self.manifest = found.result()
                    break
                cause = worker.died.result().reason if worker.died.done() else f"hangs for {PLUGIN_TIMEOUT:.0f} s"
                plugin = worker.progress()[1]
                if not plugin or plugin in self.blocked:
                    raise StartError(f"the plugins cannot be listed: {cause}")
                entries = importlib.metadata.entry_points(group="ingestd", name=plugin)
                origin = ", ".join(f"{entry.dist.name} {entry.dist.version}" for entry in entries if entry.dist)
                self._warn(f"plugin {plugin} ({origin}) is left out: {cause}")
                self.lost.append(PluginError(plugin, origin, f"left out: {cause}"))
            finally:
                await worker.end()
        for error in self.manifest.errors:
            self._warn(f"plugin {error.plugin} ({error.distribution}) cannot be used: {error.reason}")

    async def _answered(self, worker: Worker, found: asyncio.Future[Manifest]) -> None:
        """Until the manifest is there, the worker is dead, or one plugin takes too long."""
        waits: set[asyncio.Future[Any]] = {found, worker.died}
        steps, since = -1, 0.0
        while not found.done() and not worker.died.done():
            now, _ = worker.progress()
            if now != steps:
                steps, since = now, time.monotonic()
            elif time.monotonic() - since > PLUGIN_TIMEOUT:
                return
            await asyncio.wait(waits, timeout=0.25, return_when=asyncio.FIRST_COMPLETED)

    def check(self, config: Config) -> None:
        """Raises `UsageError` where the configuration names an engine or a sink that no plugin offers."""
        self._known(config.encode.engine, "engine", "encode")
        self._known(config.index.sink, "sink", "index")

    def _known(self, name: str, kind: str, table: str) -> None:
        names = [item.name for item in self.manifest.items if item.kind == kind]
        if name not in names:
            told = "".join(f"; {warning}" for warning in self.warnings)
            raise UsageError(f"[{table}] {kind}: there is no {kind} {name!r}; installed: {', '.join(names)}{told}",
                             command="ingestd plugins")  # fmt: skip

    def called(self, kind: str, name: str) -> str:
        """An engine or a sink as messages name it, with the distribution that it is from."""
        items = self.manifest.items
        return next((item.called for item in items if (item.kind, item.name) == (kind, name)), f"{kind} {name}")

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        log.error("%s", text)


def _resolve(future: asyncio.Future[Any], value: Any, _: list[int]) -> None:
    if not future.done():
        future.set_result(value)
