"""What the journal knows of each source beside its files: where it lies, what the configuration adds, what is held."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from typing import NamedTuple

from ingestd.errors import UsageError


class SourceSettings(NamedTuple):
    """What the configuration says of a source."""

    root: bytes
    constants: str = ""
    """All that its documents get from the configuration, in any form that is equal where nothing changed."""
    hold_grace: float = 0.0
    """Seconds that a held deletion waits for its confirmation."""


class SourceRow(NamedTuple):
    """What the journal knows of a source."""

    root: bytes
    removed_until: float | None
    """It was taken out of the configuration, and its files leave the index at this time (Unix)."""
    paused: bool
    """By a person's command."""

    @property
    def idle(self) -> bool:
        """Nothing of it is loaded."""
        return self.paused or self.removed_until is not None


def sources(db: sqlite3.Connection) -> dict[str, SourceRow]:
    """All sources by name, also those that were taken out and are not removed yet."""
    return {
        name: SourceRow(root, removed_until, bool(paused))
        for name, root, removed_until, paused in db.execute("SELECT name, root, removed_until, paused FROM sources")
    }


def configure(db: sqlite3.Connection, settings: Mapping[str, SourceSettings], now: float) -> None:
    """Compare the configuration with what it was.

    A source that is missing in it is kept for its grace period. Files of one whose constants changed are queued: each
    costs one digest, nothing is loaded or encoded, and the index gets the new constants.
    """
    before = dict(db.execute("SELECT name, constants FROM sources").fetchall())
    for name, (root, constants, grace) in settings.items():
        db.execute(
            "INSERT INTO sources(name, root, constants, hold_grace) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " root = excluded.root, constants = excluded.constants, hold_grace = excluded.hold_grace,"
            " removed_until = NULL",
            (name, root, constants, grace),
        )
        if before.get(name, constants) != constants:
            db.execute(
                "UPDATE documents SET state = 'queued', fresh = 0, retry_at = 0"
                " WHERE source = ? AND gone = 0 AND state IN ('indexed', 'partial')",
                (name,),
            )
            # What is in hand may have the old ones already: it is done again, as if the file had changed.
            db.execute(
                "UPDATE documents SET version = version + 1 WHERE source = ? AND gone = 0 AND state = 'running'",
                (name,),
            )
    for name in before.keys() - settings.keys():
        db.execute(
            "UPDATE sources SET removed_until = ? + hold_grace WHERE name = ? AND removed_until IS NULL", (now, name)
        )


def pause(db: sqlite3.Connection, name: str | None, paused: bool) -> list[str]:
    """Load nothing of the source (None: of any) from now on, or again; it is remembered. Returns the sources' names.

    Raises `UsageError` for an unknown name.
    """
    names = [known(db, name)] if name is not None else sorted(sources(db))
    db.executemany("UPDATE sources SET paused = ? WHERE name = ?", ((paused, each) for each in names))
    return names


def known(db: sqlite3.Connection, name: str) -> str:
    """The name of a source of the journal. Raises `UsageError` for another."""
    names = sorted(sources(db))
    if name not in names:
        raise UsageError(
            f"there is no source {name!r}; known: {', '.join(names) or 'none yet'}", command="ingestd status"
        )
    return name
