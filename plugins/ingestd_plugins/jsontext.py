"""JSON as lines of text, read token by token: no document is too large, no nesting too deep."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

LINE_LIMIT = 16384
"""Characters of one value that are put on one line; a longer one is cut into several."""
PATH_LIMIT = 8
"""Keys of a path that are shown, innermost ones; deeper nesting says little more."""
WHOLE = 8 << 20
"""Characters; a document up to here is decoded at once."""
RECORD_LINES = 200
"""A record with more leaves is handed over in several."""


class JsonSyntaxError(Exception):
    def __init__(self, reason: str, line: int, column: int) -> None:
        super().__init__(f"line {line} column {column}: {reason}")
        self.reason = reason


_TOKEN = re.compile(
    r'[ \t\r\n]*(?:(?P<mark>[{}\[\]:,])|(?P<quote>")|(?P<word>-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?'
    r"|true|false|null|NaN|-?Infinity)(?![\w.]))"
)
_STRING = re.compile(r'([^"\\]*(?:\\.[^"\\]*)*)"', re.S)
_SPACE = re.compile(r"[ \t\r\n]*")


class _Source:
    """A sliding window over the pieces, with the place for error messages."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces = iter(pieces)
        self.text = ""
        self.at = 0
        self._line = 1
        self._column = 0
        self._ended = False
        self.start = 0
        """Where the last token begins, for errors about its place."""

    def _more(self) -> None:
        """Forget what was read and append further pieces."""
        read = self.text[: self.at]
        newlines = read.count("\n")
        self._line += newlines
        self._column = len(read) - read.rfind("\n") - 1 if newlines else self._column + len(read)
        pieces = [self.text[self.at :]]
        size = 0
        for piece in self._pieces:
            pieces.append(piece)
            size += len(piece)
            if size >= max(65536, len(pieces[0])):  # doubling, so that one huge string is not copied again and again
                break
        self.text = "".join(pieces)
        self.start -= self.at
        self.at = 0
        self._ended = not size

    def error(self, reason: str, at: int | None = None) -> JsonSyntaxError:
        read = self.text[: self.at if at is None else at]
        newlines = read.count("\n")
        column = len(read) - read.rfind("\n") if newlines else self._column + len(read) + 1
        return JsonSyntaxError(reason, self._line + newlines, column)

    def tokens(self) -> Iterator[tuple[str, str]]:
        """("mark", character), ("string", value) or ("word", literal)."""
        while True:
            found = _TOKEN.match(self.text, self.at)
            # A token that touches the end of the window may go on behind it.
            if (found is None or found.end() >= len(self.text) - 1) and not self._ended:
                self._more()
                continue
            if found is None:
                self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # matches always
                if self.at >= len(self.text):
                    return
                raise self.error(f"unexpected {self.text[self.at]!r}")
            kind = found.lastgroup
            self.start = found.start(kind or 0)
            if kind == "quote":
                yield "string", self._string(found.end())
            else:
                self.at = found.end()
                yield kind or "", found[kind or 0]

    def _string(self, start: int) -> str:
        """The string whose opening quote ends at `start`."""
        while True:
            found = _STRING.match(self.text, start)
            if found is not None:
                break
            if self._ended:
                raise self.error("a string without an end", start - 1)
            behind = start - self.at
            self._more()
            start = self.at + behind
        self.at = found.end()
        value = found[1]
        if "\\" not in value:
            return value
        try:
            return str(json.loads(f'"{value}"', strict=False))
        except json.JSONDecodeError as error:
            raise self.error(error.msg[0].lower() + error.msg[1:], start + error.pos - 1) from None


def flatten(pieces: Iterable[str]) -> Iterator[list[str]]:
    """Records, each a list of lines "path: value".

    A record is an item of the outermost array, else a key's value of the outermost object. Several values one after
    the other are accepted. Raises `JsonSyntaxError`.
    """
    source = _Source(pieces)
    stack: list[str | None] = []  # a key for each open object, None for each open array
    kinds: list[str] = []
    expect = "value"  # what may come next: value, first (value or "]"), key, firstkey, colon, next, end
    record: list[str] = []
    outermost_array = 0  # depth of the outermost array below which items are records
    for kind, token in source.tokens():
        if expect in ("value", "first", "end"):
            if kind == "mark" and token in "{[":
                kinds.append(token)
                stack.append(None)
                if token == "[" and not outermost_array:
                    outermost_array = len(kinds)
                expect = "firstkey" if token == "{" else "first"
                continue
            if kind == "mark":
                if token != "]" or expect != "first":
                    raise source.error(f"unexpected {token!r}", source.start)
            else:
                if kind == "string" or token != "null":
                    record.extend(_lines(stack, token))
                expect = "next" if kinds else "end"
                if len(record) >= RECORD_LINES or not kinds or (outermost_array == len(kinds)):
                    yield record
                    record = []
                continue
        elif expect in ("key", "firstkey"):
            if kind == "string":
                stack[-1] = token
                expect = "colon"
                continue
            if token != "}" or expect == "key":
                raise source.error("a key in double quotes was expected", source.start)
        elif expect == "colon":
            if (kind, token) != ("mark", ":"):
                raise source.error("':' was expected", source.start)
            expect = "value"
            continue
        elif (kind, token) == ("mark", ","):
            if kinds[-1] == "{":
                expect = "key"
                if len(kinds) == 1 and record:
                    yield record
                    record = []
            else:
                expect = "value"
            continue
        if kind != "mark" or token not in "}]" or not kinds or kinds[-1] + token not in ("{}", "[]"):
            raise source.error("',' or the end was expected", source.start)
        kinds.pop()
        stack.pop()
        if outermost_array > len(kinds):
            outermost_array = 0
        expect = "next" if kinds else "end"
        if record and (not kinds or outermost_array == len(kinds)):
            yield record
            record = []
    if expect != "end" and (kinds or expect != "value"):
        raise source.error("the file ends too early")
    if record:
        yield record


def _lines(stack: list[str | None], token: str) -> Iterator[str]:
    if not token:
        return
    keys = [key for key in stack if key is not None][-PATH_LIMIT:] if len(stack) < 1000 else []
    yield from _cut(_prefix(keys), token)


def _prefix(keys: Iterable[str]) -> str:
    shown = ".".join([key for key in keys if key])
    return shown + ": " if shown else ""


def _cut(prefix: str, text: str) -> list[str]:
    if "\n" in text:
        text = " ".join(text.split())
    if len(text) <= LINE_LIMIT:
        return [prefix + text]
    return [prefix + text[start : start + LINE_LIMIT] for start in range(0, len(text), LINE_LIMIT)]


# --- documents that fit in memory -------------------------------------------------------------------------------

_decoder = json.JSONDecoder(object_pairs_hook=tuple, parse_int=str, parse_float=str, parse_constant=str, strict=False)
"""Objects as tuples of pairs, since keys may be there twice; numbers as they are written."""


def records(pieces: Iterable[str]) -> Iterator[list[str]]:
    """As `flatten`, several times faster for what is not larger than `WHOLE`."""
    source = iter(pieces)
    held: list[str] = []
    size = 0
    for piece in source:
        held.append(piece)
        size += len(piece)
        if size > WHOLE:
            return flatten(itertools.chain(held, source))
    text = "".join(held)
    try:
        return iter(_whole(text))
    except (json.JSONDecodeError, RecursionError):  # read it again to say where it is broken; or it is very deep
        return flatten([text])


def _whole(text: str) -> list[list[str]]:
    out: list[list[str]] = []
    at = _SPACE.match(text, 0).end()  # type: ignore[union-attr]  # matches always
    while at < len(text):
        value, at = _decoder.raw_decode(text, at)
        walk = _Walk(out)
        walk.value(value, (), "", 0, in_array=False)
        walk.flush()
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]  # as above
    return out


class _Walk:
    """Appends the records of a decoded value to `out`."""

    def __init__(self, out: list[list[str]]) -> None:
        self._out = out
        self._record: list[str] = []

    def flush(self) -> None:
        if self._record:
            self._out.append(self._record)
            self._record = []

    def value(self, value: Any, keys: tuple[str, ...], prefix: str, depth: int, *, in_array: bool) -> None:
        """`prefix`: what `_prefix` makes of `keys`, so that it is made once for all items of an array."""
        if type(value) is list:
            for item in value:
                if type(item) is str:
                    self._leaf(item, prefix)
                else:
                    self.value(item, keys, prefix, depth + 1, in_array=True)
                if not in_array:
                    self.flush()
        elif type(value) is tuple:
            for key, item in value:
                below = (*keys, key)[-PATH_LIMIT:]
                if type(item) is str:
                    self._leaf(item, _prefix(below))
                else:
                    self.value(item, below, _prefix(below), depth + 1, in_array=in_array)
                if depth == 0:
                    self.flush()
        elif value is not None:
            self._leaf(value if type(value) is str else "true" if value else "false", prefix)

    def _leaf(self, text: str, prefix: str) -> None:
        if not text:
            return
        record = self._record
        if len(text) <= LINE_LIMIT and "\n" not in text:
            record.append(prefix + text)
        else:
            record.extend(_cut(prefix, text))
        if len(record) >= RECORD_LINES:
            self.flush()
