"""The systemd service of this machine: its names and places, and whether a state directory is its own."""

from __future__ import annotations

from pathlib import Path
from typing import Final

NAME: Final = "ingestd"
UNIT: Final = "ingestd.service"
STATE: Final = Path("/var/lib/ingestd")
RUNTIME: Final = Path("/run/ingestd")
"""It is there while the service runs."""
UNITS: Final = Path("/etc/systemd/system")
PACKAGED: Final = (Path("/usr/lib/systemd/system") / UNIT, Path("/lib/systemd/system") / UNIT)
"""A distribution's package has the unit there."""


def starting(state: Path) -> str:
    """The command that starts the daemon of a state directory: the service, where it is that one's."""
    if state == STATE and any(path.exists() for path in (UNITS / UNIT, *PACKAGED)):
        return f"sudo systemctl start {NAME}"
    return "ingestd run"
