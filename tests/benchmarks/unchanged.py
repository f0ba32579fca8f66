"""A folder of many small files, and the journal of a daemon that has them all: both made in bulk, nothing is ingested.

The rows are what a daemon leaves behind for an indexed file, in the order of its first scan: stat identity, digest,
loader, chunk hashes, a line of history. The files are empty, since nobody opens what is unchanged.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ingestd import journal
from ingestd.mounts import volume

DIRECTORY = 100
"""Files in a directory, and directories in one above it."""
QUARANTINED = 100
"""Files of the journal that failed for good, so that there are failures to list."""


def folder(root: Path, files: int) -> Path:
    """So many files in two levels of directories."""
    for first in range(0, files, DIRECTORY):
        number = first // DIRECTORY
        place = root / f"{number // DIRECTORY:03}" / f"{number % DIRECTORY:03}"
        place.mkdir(parents=True)
        directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in range(first, min(first + DIRECTORY, files)):
                os.mknod(f"document-{name:07}.txt", 0o644, dir_fd=directory)
        finally:
            os.close(directory)
    return root


def rows(root: bytes, prefix: bytes = b"") -> Iterator[tuple[bytes, os.stat_result]]:
    """Path below the root and stat of every file, in byte order of the paths."""
    with os.scandir(root + prefix) as entries:
        found = sorted(entries, key=lambda entry: entry.name + b"/" * entry.is_dir())
    for entry in found:
        if entry.is_dir():
            yield from rows(root, prefix + entry.name + b"/")
        else:
            yield prefix + entry.name, entry.stat(follow_symlinks=False)


def journaled(state: Path, root: Path, source: str = "docs") -> None:
    """Make a journal in the state directory that has every file below `root`."""
    state.mkdir(mode=0o700)
    pick = random.Random(5)
    directory = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    here = volume(directory)
    os.close(directory)

    def documents() -> Iterator[tuple[Any, ...]]:
        for number, (path, found) in enumerate(rows(os.fsencode(root) + b"/")):
            digest = pick.randbytes(16)
            good = number >= QUARANTINED
            yield (
                source, path, here, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, digest,
                "indexed" if good else "quarantined", None if good else "the file is damaged",
                digest if good else None, "text 1" if good else None, f"Document {number}", 2 if good else 0,
            )  # fmt: skip

    with contextlib.closing(journal.connect(state / "journal.sqlite")) as db:
        db.execute("PRAGMA cache_size = -500000")
        later = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
        db.execute("BEGIN")
        for name, _ in later:
            db.execute(f"DROP INDEX {name}")
        db.executemany(
            "INSERT INTO documents(source, path, device, inode, size, mtime_ns, ctime_ns, digest, state, reason,"
            " indexed_digest, indexed_loader, title, chunks, attempts, loader, loader_version)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 'text', '1')",
            documents(),
        )
        db.execute("INSERT INTO hashes SELECT id, randomblob(16 * chunks) FROM documents WHERE chunks > 0")
        db.execute(
            "INSERT INTO history(document, at, event)"
            " SELECT id, unixepoch() + id / 200.0, 'indexed: 2 chunks, 2 of them encoded' FROM documents"
        )
        for _, sql in later:
            db.execute(sql)
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
