"""JSON as lines of text, read token by token: no document is too large, no nesting too deep."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

LINE_LIMIT = 16384
"""Characters of one value that are put on one line; a longer one is cut into several."""
PATH_LIMIT = 8
"""Keys of a path that are shown, innermost ones; deeper nesting says little more."""
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

    def more(self) -> bool:
        """Forget what was read and append further pieces; False at the end."""
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
        self.at = 0
        return size > 0

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
            if (found is None or found.end() >= len(self.text) - 1) and self.more():
                continue
            if found is None:
                self.at = _SPACE.match(self.text, self.at).end()  # type: ignore[union-attr]  # matches always
                if self.at >= len(self.text):
                    return
                raise self.error(f"unexpected {self.text[self.at]!r}")
            kind = found.lastgroup
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
            behind = start - self.at
            if not self.more():
                raise self.error("a string without an end", start - 1)
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
                    raise source.error(f"unexpected {token!r}", source.at - 1)
            else:
                record.extend(_lines(stack, token, string=kind == "string"))
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
                raise source.error("a key in double quotes was expected")
        elif expect == "colon":
            if (kind, token) != ("mark", ":"):
                raise source.error("':' was expected")
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
            raise source.error("',' or the end was expected")
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


def _lines(stack: list[str | None], token: str, *, string: bool) -> Iterator[str]:
    if not token or token == "null":
        return
    keys = [key for key in stack[-PATH_LIMIT:] if key]
    path = ".".join(keys)
    text = token if not string else " ".join(token.split()) if "\n" in token and len(token) < 200 else token
    for start in range(0, len(text), LINE_LIMIT):
        piece = text[start : start + LINE_LIMIT]
        yield f"{path}: {piece}" if path else piece
