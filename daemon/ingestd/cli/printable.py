"""What may be printed: results as JSON documents, and foreign text that cannot steer a terminal."""

from __future__ import annotations

import base64
import json
import math
import os
import unicodedata
from collections.abc import Mapping
from typing import Any, Final

from ingestd.types import display

_PATH_KEYS: Final = frozenset({"path", "directory"})


def printable(value: Any) -> Any:
    """Plain JSON data of `value`, in which paths are bytes and so are digests.

    A path becomes text with replacement characters; where it is not UTF-8, `<key>_b64` beside it has the exact bytes.
    Other bytes become hex digits, numbers that JSON lacks become null.
    """
    if isinstance(value, Mapping):
        result: dict[str, Any] = {}
        for key, item in value.items():
            path = _path(key, item)
            result[str(key)] = printable(item) if path is None else display(path)
            if path is not None and not _is_text(path):
                result[f"{key}_b64"] = base64.b64encode(path).decode()
        return result
    if isinstance(value, list | tuple):
        return [display(item) if isinstance(item, bytes) else printable(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        return value if _is_text(value) else _bytes(value).decode("utf-8", "replace")
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def document(value: Any) -> bytes:
    """One JSON document, UTF-8, with a newline at its end; what would steer a terminal is escaped in it."""
    text = json.dumps(printable(value), ensure_ascii=False, indent=2)
    if not text.isascii():
        text = "".join(_escaped(c) if c > "\x7e" and _steers(c) else c for c in text)
    return text.encode() + b"\n"


def _escaped(character: str) -> str:
    return json.dumps(character)[1:-1]


def clean(value: object) -> str:
    """Text of unknown origin for a terminal: control and direction characters become visible, newlines stay."""
    text = display(value) if isinstance(value, bytes) else str(value)
    if text.isprintable():
        return text
    return "".join(
        character if character == "\n" or not _steers(character) else " " if character == "\t" else _visible(character)
        for character in text
    )


def clean_line(value: object) -> str:
    """As `clean`, on one line."""
    return clean(value).replace("\n", "\\n")


def _steers(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\u00ad\u200c\u200d"


def _visible(character: str) -> str:
    return "\ufffd" if "\ud800" <= character <= "\udfff" else ascii(character)[1:-1]


def _path(key: object, item: object) -> bytes | None:
    if key in _PATH_KEYS:
        if isinstance(item, bytes):
            return item
        if isinstance(item, str) and not _is_text(item):
            return _bytes(item)
    return None


def _bytes(text: str) -> bytes:
    """The bytes that lone surrogates stand for; those that stand for none become invalid ones."""
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")


def _is_text(value: str | bytes) -> bool:
    try:
        _ = value.decode() if isinstance(value, bytes) else value.encode()
    except UnicodeError:
        return False
    return True
