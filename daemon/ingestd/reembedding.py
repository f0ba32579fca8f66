"""Documents of the index in use go into a new one without being loaded, where the new model cuts them the same way.

Their texts are read from the index and encoded anew, and the journal's rows are taken over as they are. So whatever
changed since, or could not be taken over, is a difference between folder and journal, and is loaded like any other.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import logging
import os
import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ingestd.errors import IngestdError
from ingestd.journal.retrying import note
from ingestd.messages.index import IndexReplace
from ingestd.types import document_id

if TYPE_CHECKING:
    from ingestd.daemon import Daemon

log = logging.getLogger("ingestd")

CUTTING = ("tokenizer", "max_tokens", "overlap", "passage_prompt", "chunking")
"""Of a fingerprint: what decides where a text is cut, and what of it is encoded."""
PAGE = 64
LANES = 8
"""Documents read from the index in use at a time."""

_OTHERS = frozenset(("id", "hashes", "root", "constants", "batch"))
"""What a row is read with and does not take along."""

Row = dict[str, Any]
File = list[Row]
"""A file and its parts, as the journal has them."""
Place = tuple[str, bytes]
"""Source and path."""


def cut_alike(made: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether the texts of one index are those of the other. Equal fingerprints say that the index is not trusted."""
    return made != wanted and all(made.get(key) == wanted.get(key) for key in CUTTING)


class Reembedding:
    """From `daemon`, whose index is in use, to `builder`. May be cut short anywhere, and done again."""

    def __init__(self, daemon: Daemon, builder: Daemon, tell: Callable[[int], None]) -> None:
        self.daemon = daemon
        self.builder = builder
        self._tell = tell
        """Of documents that were taken over."""
        self._lanes = asyncio.Semaphore(LANES)

    async def run(self) -> None:
        """All that can be; what the index in use does not give is left to be loaded."""
        after: Place | None = None
        while files := await self.daemon.journal.read(functools.partial(_page, after)):
            after = files[-1][0]["source"], files[-1][0]["path"]
            places = [(file[0]["source"], file[0]["path"]) for file in files]
            there = await self.builder.journal.read(functools.partial(_there, places))
            sources = await self.builder.journal.read(_sources)
            wanted = [
                file for file, place in zip(files, places, strict=True) if place not in there and _fits(file, sources)
            ]
            done = await self.builder.or_failure(asyncio.gather(*map(self._file, wanted)))
            taken = [file for file, whole in zip(wanted, done, strict=True) if whole]
            event = f"encoded for {self.builder.config.encode.model}, from the text that the index had"
            await self.builder.journal.run(functools.partial(_take, taken, event))
            self._tell(sum(map(len, taken)))

    async def _file(self, file: File) -> bool:
        """Whether all of its documents are in the new index."""
        for row in file:
            async with self._lanes:
                if not await self._document(row):
                    return False
        return True

    async def _document(self, row: Row) -> bool:
        reading = asyncio.ensure_future(
            self.daemon.indexer.read(document_id(row["source"], row["path"], row["member"]))
        )  # fmt: skip
        told, descriptors = await self.daemon.or_failure(reading)
        try:
            known = hashlib.blake2b(row["hashes"] or b"").digest()
            if told.document is None or told.document.digest != row["indexed_digest"] or told.hashes != known:
                return told.error is None and told.document is None and not row["chunks"]
            chunks, texts = descriptors
            if told.chunks:
                descriptors.append(await self._vectors(texts))
            sent = [chunks, *descriptors[2:]]
            written = await self.builder.indexer.write(
                lambda job: IndexReplace(job=job, document=told.document), sent
            )  # fmt: skip
            return written.error is None and not written.missing
        except IngestdError as error:
            log.info("%s is loaded anew: %s", os.fsdecode(row["path"]), error.message)
            return False
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    async def _vectors(self, texts: int) -> int:
        """Raises `IngestdError`."""
        tokens, told = await self.builder.encoders.tokenize(texts, query=False)
        try:
            return await self.builder.encoders.encode(tokens, told.texts, told.tokens)
        finally:
            os.close(tokens)


def _page(after: Place | None, db: sqlite3.Connection) -> list[File]:
    """The next files, in order."""
    source, path = after or ("", b"")
    places = db.execute(
        "SELECT source, path FROM documents WHERE member = '' AND (source, path) > (?, ?) OR member = '' AND ?"
        " ORDER BY source, path LIMIT ?",
        (source, path, after is None, PAGE),
    ).fetchall()
    files: list[File] = []
    for place in places:
        found = db.execute(
            "SELECT d.*, h.hashes, s.root, s.constants FROM documents d LEFT JOIN hashes h ON h.document = d.id"
            " JOIN sources s ON s.name = d.source WHERE d.source = ? AND d.path = ? ORDER BY d.member",
            place,
        )
        names = [column for column, *_ in found.description]
        files.append([dict(zip(names, values, strict=True)) for values in found])
    return files


def _there(places: list[Place], db: sqlite3.Connection) -> set[Place]:
    """Which of them a journal knows."""
    sql = "SELECT 1 FROM documents WHERE source = ? AND path = ? LIMIT 1"
    return {place for place in places if db.execute(sql, place).fetchone()}


def _sources(db: sqlite3.Connection) -> dict[str, tuple[bytes, str]]:
    """Place and constants of each source: the documents of the index in use have its own."""
    return {name: (root, told) for name, root, told in db.execute("SELECT name, root, constants FROM sources")}


def _fits(file: File, sources: dict[str, tuple[bytes, str]]) -> bool:
    """Whether the index has all of it as the journal says, and as it would be with these sources."""
    return all(
        row["state"] in ("indexed", "partial")
        and not row["gone"]
        and row["digest"] is not None
        and row["digest"] == row["indexed_digest"]
        and sources.get(row["source"]) == (row["root"], row["constants"])
        for row in file
    )


def _take(files: list[File], event: str, db: sqlite3.Connection) -> None:
    sources = _sources(db)  # they may have been configured anew meanwhile
    for row in (row for file in files if _fits(file, sources) for row in file):
        columns = {name: value for name, value in row.items() if name not in _OTHERS}
        sql = f"INSERT OR IGNORE INTO documents({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        found = db.execute(sql, list(columns.values()))
        if not found.rowcount:
            continue
        id = found.lastrowid
        assert id is not None
        if row["hashes"] is not None:
            db.execute("INSERT INTO hashes VALUES (?, ?)", (id, row["hashes"]))
        note(db, id, event)
