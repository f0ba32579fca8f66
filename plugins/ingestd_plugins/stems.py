"""The terms of a text as SQLite's full-text index makes them, for a server whose analysers may lack languages."""

from __future__ import annotations

import threading
from typing import Any

import apsw

from ingestd_plugins.terms import prepare

TOKENIZER = ("porter", "unicode61", "remove_diacritics", "2")
"""The same as of the embedded store, so that both find the same words."""
_LENGTH = 100
"""Characters of a term that count."""
_local = threading.local()


def stems(text: str) -> list[str]:
    """Lower case, without diacritics, English endings off; CJK as pairs of characters, see `terms.prepare`."""
    return split(prepare(text))


def split(prepared: str) -> list[str]:
    """The same of a text that is prepared already."""
    if not hasattr(_local, "tokenize"):
        _local.connection = apsw.Connection(":memory:")
        _local.tokenize = _local.connection.fts5_tokenizer(TOKENIZER[0], list(TOKENIZER[1:]))
    found: list[Any] = _local.tokenize(
        prepared.encode("utf-8", "replace"), apsw.FTS5_TOKENIZE_DOCUMENT, None,
        include_offsets=False, include_colocated=False,
    )  # fmt: skip
    return [term[:_LENGTH] for term in found]
