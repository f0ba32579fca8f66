"""What slow loaders made of a content, kept by its digest: the same content is read once ever.

A cache. Where its file cannot be read or written, everything is loaded again, and nothing else happens.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import sqlite3
import threading
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("ingestd")

LARGEST = 1 << 20
"""Bytes of one."""
MOST = 200_000
"""Recollections; the oldest go first."""


def key_of(digest: bytes, loader: str, version: str, options: Mapping[str, Any]) -> bytes:
    """16 bytes that say what was made of what by whom."""
    parts = json.dumps([digest.hex(), loader, version, options], sort_keys=True)
    return hashlib.blake2b(parts.encode(), digest_size=16).digest()


class Recollections:
    """The store, in a file of its own. Beside a daemon's index, the one that it builds anew uses the same."""

    def __init__(self, path: Path, most: int = MOST) -> None:
        self._path = path
        self._most = most
        self._db: sqlite3.Connection | None = None
        self._lock = threading.Lock()

    async def find(self, key: bytes) -> bytes:
        """What was added under this key; empty where nothing was."""
        found = await asyncio.to_thread(self._do, "SELECT value FROM recollections WHERE key = ?", (key,))
        return zlib.decompress(found[0]) if found is not None else b""

    async def add(self, key: bytes, value: bytes) -> None:
        """Keep it."""
        await asyncio.to_thread(self._add, key, value)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._db is not None:
                self._db.close()
                self._db = None

    def _add(self, key: bytes, value: bytes) -> None:
        added = self._do(
            "INSERT OR REPLACE INTO recollections(key, value) VALUES (?, ?) RETURNING id", (key, zlib.compress(value))
        )
        if added is not None:
            self._do("DELETE FROM recollections WHERE id <= ?", (added[0] - self._most,))

    def _do(self, statement: str, values: tuple[Any, ...]) -> Any:
        with self._lock:
            try:
                if self._db is None:
                    self._db = self._open()
                return self._db.execute(statement, values).fetchone()
            except sqlite3.Error as error:
                log.warning("%s: what slow loaders made of a file is not remembered: %s", self._path, error)
                return None

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(
                "CREATE TABLE IF NOT EXISTS recollections(id INTEGER PRIMARY KEY AUTOINCREMENT,"
                " key BLOB NOT NULL UNIQUE, value BLOB NOT NULL)"
            )
        except sqlite3.DatabaseError as error:
            db.close()
            if type(error) is not sqlite3.DatabaseError:  # busy, or a full disk: not the file's fault
                raise
            self._path.unlink(missing_ok=True)  # no database any more: a cache can be begun anew
            raise
        return db
