"""Candidates of a search in the embedded store: nearest vectors, best-worded passages, and what they are.

Everything that is large is done inside one step of a statement, without the interpreter: stepping through rows beside
a thread that writes costs up to a switch interval for each of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import apsw
import msgspec
import numpy as np

from ingestd.types import Hit, Query, chunk_id, display
from ingestd_plugins.sqlite_file import SHIFT, within
from ingestd_plugins.terms import coverage, match_expression, phrase


def condition(query: Query) -> tuple[str, tuple[Any, ...]]:
    """A condition on `documents`, "" where the question has none."""
    conditions: list[str] = []
    arguments: list[Any] = []
    if query.source is not None:
        conditions.append("source = ?")
        arguments.append(query.source.encode(errors="replace").decode())
    if query.path is not None:
        column = "path" if "/" in query.path else "name"
        # No path holds a NUL, and GLOB would take the pattern to end there.
        conditions.append(f"CAST({column} AS TEXT) GLOB CAST(? AS TEXT)" if "\0" not in query.path else "? IS NULL")
        arguments.append(_path_bytes(glob_pattern(query.path)))
    if query.under is not None:
        conditions.append("substr(path, 1, ?) = ?")
        below = query.under.rstrip(b"/") + b"/"
        arguments += [len(below), below]
    if query.category is not None:
        conditions.append("(category_id = ? OR category_path = ? OR substr(category_path, 1, ?) = ?)")
        category = query.category.encode(errors="replace").decode()
        below_it = category.rstrip("/") + "/"
        arguments += [category, category, len(below_it), below_it]
    for limit, comparison in ((query.since_ns, ">="), (query.until_ns, "<")):
        if limit is not None:
            conditions.append(f"mtime_ns {comparison} ?")
            arguments.append(limit)
    return " AND ".join(conditions), tuple(arguments)


def _path_bytes(pattern: str) -> bytes:
    try:
        return os.fsencode(pattern)
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return pattern.encode(errors="replace")


def glob_pattern(pattern: str) -> str:
    """A shell-style pattern in SQLite's spelling: `[!...]` is `[^...]` there, and no bracket can stand alone."""
    out: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character == "*" and out and out[-1] == "*":
            continue
        if character != "[":
            out.append(character)
            continue
        negated = pattern[position : position + 1] == "!"
        start = position + negated
        end = pattern.find("]", start + 1)
        if end < 0:
            out.append("[[]")
            continue
        members = pattern[start:end]
        position = end + 1
        if members == "^" and not negated:
            out.append("^")
            continue
        if members.startswith("^") and not negated:  # an ordinary member, which must not come first
            members = ("_" if members[1:2] == "-" and members[2:] else "") + members[1:] + "^"
        out.append(f"[{'^' if negated else ''}{members}]")
    return "".join(out)


def nearest(
    connection: apsw.Connection, vector: bytes, where: str, arguments: tuple[Any, ...], depth: int
) -> list[tuple[int, float]]:  # fmt: skip
    question = np.frombuffer(vector, np.float32).astype(np.float64)
    length = float(np.linalg.norm(question))
    if not length or not np.isfinite(length):
        return []
    unit = (question / length).astype(np.float32).tobytes()
    tables = f"documents d CROSS JOIN vectors v ON {within('v', 'd.id')}" if where else "vectors v"
    sql = (
        f"SELECT v.id, vec_distance_L2(v.vector, ?) AS distance FROM {tables}"
        f" WHERE v.vector IS NOT NULL {'AND ' + where if where else ''} ORDER BY distance, v.id LIMIT ?"
    )
    return _ranking(connection, sql, (unit, *arguments, depth))


def best_worded(
    connection: apsw.Connection, words: list[tuple[str, ...]], where: str, arguments: tuple[Any, ...], depth: int
) -> list[tuple[int, float]]:  # fmt: skip
    expression = match_expression(words)
    if not expression:
        return []
    chosen = f"AND rowid >> {SHIFT} IN (SELECT id FROM documents WHERE {where})" if where else ""
    sql = f"SELECT rowid, rank FROM terms WHERE terms MATCH ? {chosen} ORDER BY rank, rowid LIMIT ?"
    return _ranking(connection, sql, (expression, *arguments, depth))


# One pass over the places of each term, for the whole of the index as in the ranking itself. The plus keeps SQLite
# from looking each passage up instead, which takes ten times as long.
_HOLDERS = """
SELECT json_group_array(json((
    SELECT json_array(
        j.key, count(*), json_group_array(rowid) FILTER (WHERE +rowid IN (SELECT value FROM json_each(?)))
    ) FROM terms WHERE terms MATCH j.value
))) FROM json_each(?) j
"""
_Holders = list[tuple[int, int, list[int]]]
"""Of each term: its number, in how many passages it is, and in which of those asked about."""


def coverages(connection: apsw.Connection, words: list[tuple[str, ...]], ids: Iterable[int]) -> dict[int, float]:
    """How much of the question each of the passages holds."""
    terms = list(dict.fromkeys(term for word in words for term in word))
    phrases = msgspec.json.encode([phrase(term) for term in terms]).decode()
    found: Any = connection.execute(_HOLDERS, (_id_list(ids), phrases)).fetchone()
    counts: dict[str, int] = {}
    held: dict[int, set[str]] = {id: set() for id in ids}
    for number, count, holders in msgspec.json.decode(found[0], type=_Holders):
        counts[terms[number]] = count
        for id in holders:
            held[id].add(terms[number])
    total: Any = connection.execute("SELECT count(*) FROM terms_docsize").fetchone()
    return {id: coverage(words, counts, total[0], terms_held) for id, terms_held in held.items()}


def _ranking(connection: apsw.Connection, sql: str, arguments: tuple[Any, ...]) -> list[tuple[int, float]]:
    rows: list[Any] = connection.execute(sql, arguments).fetchall()
    return rows


_JOINED = f"json_each(?) j CROSS JOIN chunks c ON c.id = j.value CROSS JOIN documents d ON d.id = c.id >> {SHIFT}"


def places(connection: apsw.Connection, ids: Iterable[int]) -> dict[int, tuple[str, int]]:
    """Document and ordinal of each chunk: an order that does not depend on when what was stored."""
    rows = connection.execute(f"SELECT c.id, d.doc_id, c.ordinal FROM {_JOINED}", (_id_list(ids),))
    return {id: (doc_id, ordinal) for id, doc_id, ordinal in rows}


def _id_list(ids: Iterable[int]) -> str:
    return msgspec.json.encode(list(ids)).decode()


def hits(connection: apsw.Connection, ids: Iterable[int]) -> dict[int, Hit]:
    sql = (
        "SELECT c.id, c.hash, c.ordinal, c.page, c.headings, c.text, c.metadata, d.doc_id, d.source, d.path, d.title,"
        " d.media_type, d.size, d.mtime_ns, d.digest, d.loader, d.category_id, d.category_path, d.metadata"
        f" FROM {_JOINED}"
    )
    return {row[0]: _hit(*row[1:]) for row in connection.execute(sql, (_id_list(ids),))}


def _hit(
    hash: bytes, ordinal: int, page: int | None, headings: str | None, text: str, chunk_metadata: str | None,
    doc_id: str, source: str, path: bytes, title: str | None, media_type: str, size: int, mtime_ns: int, digest: bytes,
    loader: str, category_id: str | None, category_path: str | None, metadata: str | None,
) -> Hit:  # fmt: skip
    every: dict[str, Any] = {
        **msgspec.json.decode(metadata or "{}"),
        **msgspec.json.decode(chunk_metadata or "{}"),
        "doc_id": doc_id,
        "path": display(path),
        "source": source,
        "category_id": category_id,
        "category_path": category_path,
        "page": page,
        "headings": msgspec.json.decode(headings or "[]"),
        "title": title,
        "media_type": media_type,
        "size": size,
        "mtime": mtime_ns / 1e9,
        "digest": digest.hex(),
        "loader": loader,
        "ordinal": ordinal,
    }
    return Hit(
        score=0.0, path=path, source=source, page=page, title=title, text=text, doc_id=doc_id,
        chunk_id=chunk_id(doc_id, hash), ordinal=ordinal, metadata=every,
    )  # fmt: skip
