"""Which state directory an index belongs to, for stores that several machines write to."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

FILE = "owner"


def owner(directory: Path) -> str:
    """The id in an index's directory, made where there is none."""
    path = directory / FILE
    if not path.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        give(directory, secrets.token_hex(8))
    return path.read_text().strip()


def give(directory: Path, id: str) -> None:
    """Let an index belong to a state directory: all of the id is in its file, or no file is there."""
    fresh = directory / f"{FILE}.{secrets.token_hex(4)}"
    with fresh.open("w") as file:
        file.write(id)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(directory / FILE)
