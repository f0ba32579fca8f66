"""What the probe tells of the plugins."""

from __future__ import annotations

import msgspec

from ingestd.messages import Count, Frame, Reason, Short


class PluginItem(msgspec.Struct, frozen=True):
    """A loader, engine or sink that a plugin registered."""

    kind: str
    name: str
    version: str = ""
    suffixes: list[str] = []
    media_types: list[str] = []
    sockets: bool = False
    distribution: str = ""
    overrides: list[str] = []
    workers: Count = 0
    """Load workers for its files alone."""
    remembers: bool = False
    """What it makes of a content is kept."""
    uses: Reason = ""
    """What it works with, in its own words: models and such."""
    gpu_memory: dict[Short, Count] = {}
    """Bytes that each of its load workers may take, by device: encoders there leave them alone."""
    lacks: Reason = ""
    """What it needs and is not installed, and how that is done."""

    @property
    def called(self) -> str:
        """For people: what it is, and whose, unless it is ingestd's own."""
        own = self.distribution.startswith("ingestd ")
        return f"{self.kind} {self.name}" + (f" ({self.distribution})" if self.distribution and not own else "")


class PluginError(msgspec.Struct, frozen=True):
    plugin: str
    distribution: str
    reason: str


class Manifest(Frame, frozen=True, kw_only=True):
    """All that the supervisor ever sees of the plugins."""

    items: list[PluginItem]
    errors: list[PluginError]
