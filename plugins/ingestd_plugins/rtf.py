"""Rich text by striprtf: its paragraphs, and the properties that it states."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ingestd.errors import DamagedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader
from ingestd_plugins.charset import clean
from ingestd_plugins.damage import guarded
from ingestd_plugins.rows import grouped
from ingestd_plugins.text import paragraphs

_PICTURE = re.compile(rb"[0-9a-fA-F\r\n]{512,}")
"""Pictures and objects are written in hexadecimal digits; the library would look at each of them."""
_HIGH = re.compile(rb"[\x80-\xff]")
_FIELD = re.compile(r"\{\\field\{", re.I)
_INFO = re.compile(r"\{\\(title|author|subject|keywords)\b")


class RtfLoader:
    name = "rtf"
    version = "1"
    suffixes: Sequence[str] = (".rtf",)
    media_types: Sequence[str] = ("application/rtf", "text/rtf")
    extracts = "Paragraphs, tables as rows, what links show; title, author, subject and keywords"
    omits = "Footnotes, headers, footers, comments, pictures; linked templates are not fetched"

    @guarded
    def load(self, file: File) -> Iterator[Element]:
        """A paragraph an element, a line for each row of a table."""
        data = file.path.read_bytes()
        if not data.lstrip().startswith(b"{\\rtf"):
            raise DamagedFileError("damaged: it does not begin as rich text does" if data else "the file is empty")
        data = _PICTURE.sub(b"", data)
        # Bytes of another encoding that are written as they are; as escapes they are read in that of their font.
        text = _HIGH.sub(lambda found: b"\\'%02x" % found[0][0], data).decode("latin-1")
        # The library looks for links with an expression that takes for ever on a long line: keep them from it. What a
        # link shows is taken all the same.
        text = _FIELD.sub(r"{\\field {", text)
        _properties(file, text)
        rows: list[list[str]] = []
        for line in paragraphs(["\n\n".join(_plain(text).split("\n"))]):
            if line.endswith("|"):
                rows.append([cell.strip() for cell in line.split("|")[:-1]])
                continue
            yield from grouped(rows)
            rows = []
            if line.strip():
                yield Element(line.strip())
        yield from grouped(rows)


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [RtfLoader()]


def _plain(text: str) -> str:
    from striprtf import striprtf

    library: Any = striprtf
    found: str = library.rtf_to_text(text, errors="ignore")
    # Characters beyond the first 65,536 are written as two halves.
    return clean(found.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore"))


def _properties(file: File, text: str) -> None:
    """From the group `\\info`, of which the library takes nothing."""
    start = text.find("{\\info")
    if start < 0:
        return
    for found in _INFO.finditer(text, start, start + 20_000):
        value = " ".join(_plain("{\\rtf1\\ansi " + _group(text, found.end()) + "}").split())
        if value and found[1] == "title":
            file.title = value[:1000]
        elif value:
            file.metadata[found[1]] = value[:1000]


def _group(text: str, start: int, limit: int = 4000) -> str:
    """What a group holds from `start` to its closing brace, groups inside it dropped."""
    depth = 0
    for place in range(start, min(len(text), start + limit)):
        if text[place - 1] == "\\":
            continue
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if depth < 0:
                return text[start:place]
    return ""
