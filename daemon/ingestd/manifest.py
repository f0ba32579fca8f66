"""What the plugins offer, learnt from a probe worker; one that it does not survive is left out from then on."""

from __future__ import annotations

import asyncio
import functools
import importlib.metadata
import logging
from pathlib import Path
from typing import Any

from ingestd.config import Config
from ingestd.errors import UsageError
from ingestd.messages import Manifest
from ingestd.supervisor import StartError, Worker

log = logging.getLogger("ingestd")

PROBE_TIMEOUT = 60.0


class Plugins:
    """The manifest, and what is wrong with plugins."""

    def __init__(self) -> None:
        self.manifest = Manifest(items=[], errors=[])
        self.blocked: list[str] = []
        """Names of the plugins that a probe did not survive."""
        self.warnings: list[str] = []

    @property
    def loaders(self) -> dict[str, str]:
        """Name and version of each loader."""
        return {item.name: item.version for item in self.manifest.items if item.kind == "loader"}

    async def probe(self, scratch: Path, prefix: str) -> None:
        """Ask the plugins. Raises `StartError` where none can be listed."""
        while True:
            worker = Worker("probe", f"{prefix}.probe.{len(self.blocked)}", scratch / "probe")
            scratch.joinpath("probe").mkdir(exist_ok=True)
            found: asyncio.Future[Manifest] = asyncio.get_running_loop().create_future()
            worker.on_frame = functools.partial(_resolve, found)
            try:
                await worker.start({"blocked": self.blocked}, PROBE_TIMEOUT)
                waits: set[asyncio.Future[Any]] = {found, worker.died}
                await asyncio.wait(waits, timeout=PROBE_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
                if found.done():
                    self.manifest = found.result()
                    break
                cause = worker.died.result().reason if worker.died.done() else f"hangs for {PROBE_TIMEOUT:.0f} s"
                plugin = worker.progress()[1]
                if not plugin or plugin in self.blocked:
                    raise StartError(f"the plugins cannot be listed: {cause}")
                entries = importlib.metadata.entry_points(group="ingestd", name=plugin)
                origin = ", ".join(f"{entry.dist.name} {entry.dist.version}" for entry in entries if entry.dist)
                self._warn(f"plugin {plugin} ({origin}) is left out: {cause}")
                self.blocked.append(plugin)
            finally:
                await worker.end()
        for error in self.manifest.errors:
            self._warn(f"plugin {error.plugin} ({error.distribution}) cannot be used: {error.reason}")

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

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        log.error("%s", text)


def _resolve(future: asyncio.Future[Any], value: Any, _: list[int]) -> None:
    if not future.done():
        future.set_result(value)
