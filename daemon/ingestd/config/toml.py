"""On which line of a TOML text each key stands; `tomllib` keeps the values and forgets their places."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from typing import Final

Key = tuple[str | int, ...]
"""Names and, for elements of arrays, positions: ("watch", 1, "name")."""

_BLANK: Final = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BARE: Final = re.compile(r"[^\s=.\[\]{},#\"']+")
_BASIC: Final = re.compile(r'"(?:\\.|[^"\\\n])*"')
_LITERAL: Final = re.compile(r"'[^'\n]*'")
_STRING: Final = re.compile(
    r'"""(?:\\.|"(?!"")|[^"\\])*"{3,5}' r"|'''(?:'(?!'')|[^'])*'{3,5}" rf"|{_BASIC.pattern}|{_LITERAL.pattern}",
    re.DOTALL,
)
_PLAIN: Final = re.compile(r"[^,\]}\n#]*")


def lines(text: str) -> dict[Key, int]:
    """The line, from 1, of every table, key and array element of `text`, which `tomllib` must have accepted.

    Where the two disagree about the syntax the places found so far are returned: callers fall back to the table's.
    """
    scanner = _Scanner(text.replace("\r\n", "\n"))
    try:
        scanner.document()
    except (_UnexpectedError, tomllib.TOMLDecodeError, RecursionError):
        pass
    return scanner.found


def line_of(found: dict[Key, int], key: Key) -> int | None:
    """The line of the key, else that of the nearest table around it."""
    while key:
        if key in found:
            return found[key]
        key = key[:-1]
    return None


class _UnexpectedError(Exception):
    pass


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Key, int] = {}
        self._ends = [match.start() for match in re.finditer("\n", text)]
        self._elements: dict[Key, int] = {}
        """The last position of each array of tables."""

    def document(self) -> None:
        table: Key = ()
        self._skip()
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip()

    def _header(self) -> Key:
        start = self.at
        array = self.text.startswith("[[", start)
        self.at += 2 if array else 1
        names = self._names()
        self._take("]]" if array else "]")
        key: Key = ()
        for name in names[:-1]:
            key += (name,)
            self._record(key, start)
            if key in self._elements:
                key += (self._elements[key],)
        key += (names[-1],)
        self._record(key, start)
        if array:
            self._elements[key] = self._elements.get(key, -1) + 1
            key += (self._elements[key],)
        self.found[key] = self._line(start)
        return key

    def _pair(self, table: Key) -> None:
        start = self.at
        key = table
        for name in self._names():
            key += (name,)
            self._record(key, start)
        self._take("=")
        self._value(key)

    def _value(self, key: Key) -> None:
        self._skip()
        if string := _STRING.match(self.text, self.at):
            self.at = string.end()
        elif self._try("["):
            position = 0
            while not self._try("]"):
                self._record((*key, position), self.at)
                self._value((*key, position))
                position += 1
                self._try(",")
        elif self._try("{"):
            while not self._try("}"):
                self._pair(key)
                self._try(",")
        else:
            plain = _PLAIN.match(self.text, self.at)
            if not plain or not plain[0]:
                raise _UnexpectedError
            self.at = plain.end()

    def _names(self) -> list[str]:
        names = []
        while True:
            self._skip()
            for pattern in (_BASIC, _LITERAL, _BARE):
                if match := pattern.match(self.text, self.at):
                    self.at = match.end()
                    names.append(match[0] if pattern is _BARE else str(tomllib.loads(f"k = {match[0]}")["k"]))
                    break
            else:
                raise _UnexpectedError
            if not self._try("."):
                return names

    def _skip(self) -> None:
        if match := _BLANK.match(self.text, self.at):
            self.at = match.end()

    def _try(self, token: str) -> bool:
        self._skip()
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        self._skip()
        return True

    def _take(self, token: str) -> None:
        if not self._try(token):
            raise _UnexpectedError

    def _record(self, key: Key, at: int) -> None:
        self.found.setdefault(key, self._line(at))

    def _line(self, at: int) -> int:
        return bisect_left(self._ends, at) + 1
