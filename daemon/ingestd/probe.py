"""The probe worker: imports the plugins and returns a manifest, all that the supervisor ever sees of them."""

from __future__ import annotations

from typing import Any

from ingestd.channel import Channel
from ingestd.messages import Manifest, Start
from ingestd.plugins import discover
from ingestd.worker import ready, step


def serve(channel: Channel[Any], start: Start) -> None:
    """Settings: `blocked`, the plugins that an earlier probe did not survive."""
    ready(channel)
    registry = discover("loaders", "engines", "sinks", block=start.settings["blocked"], trying=step)
    channel.send(Manifest(items=registry.items, errors=registry.errors))
    channel.receive()
