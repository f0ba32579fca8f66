"""The probe worker: imports the plugins and returns a manifest, all that the supervisor ever sees of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from ingestd.channel import Channel
from ingestd.messages import Start
from ingestd.messages.probe import Manifest, PluginError, PluginItem
from ingestd.plugins import Registry, discover
from ingestd.worker import one_line, ready, step


def serve(channel: Channel[Any], start: Start) -> None:
    """Settings: `blocked`, the plugins that an earlier probe did not survive, and `options`, those of loaders."""
    ready(channel)
    registry = discover("loaders", "engines", "sinks", block=start.settings["blocked"], trying=step)
    items = [_described(item, registry, start.settings.get("options", {})) for item in registry.items]
    channel.send(Manifest(items=items, errors=registry.errors))
    channel.receive()


def _described(item: PluginItem, registry: Registry, options: Mapping[str, Mapping[str, Any]]) -> PluginItem:
    """With what a loader says of what it uses and takes; where its options are wrong, that is a plugin's error."""
    loader = registry.loaders.get(item.name) if item.kind == "loader" else None
    own = options.get(item.name, {})
    try:
        if describe := getattr(loader, "describe", None):
            item = msgspec.structs.replace(item, uses=one_line(str(describe(own))))
        if gpu_memory := getattr(loader, "gpu_memory", None):
            taken = {str(device): int(size) for device, size in gpu_memory(own).items()}
            item = msgspec.structs.replace(item, gpu_memory=taken)
    except Exception as error:
        registry.errors.append(PluginError(item.name, item.distribution, one_line(str(error))))
    return item
