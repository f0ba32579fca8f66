"""HTML, read as a stream of tags: no tree is built, so size and depth of a page do not matter."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from ingestd.errors import DamagedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Kind, Loader
from ingestd_plugins.charset import blocks, clean
from ingestd_plugins.damage import guarded
from ingestd_plugins.rows import grouped, is_header

PARAGRAPH_LIMIT = 8192
ROWS_LIMIT = 2000
"""A table is handed over in parts of so many rows."""


class HtmlLoader:
    name = "html"
    version = "1"
    suffixes: Sequence[str] = (".html", ".htm", ".xhtml", ".shtml")
    media_types: Sequence[str] = ("text/html", "application/xhtml+xml")
    extracts = (
        "Title, headings, paragraphs, lists, tables, preformatted text, alternative texts of pictures; `author`, "
        "`description` and `keywords` as metadata"
    )
    omits = "Scripts, styles and comments; whatever it refers to: nothing is fetched"

    @guarded
    def load(self, file: File) -> Iterator[Element]:
        """Headings, paragraphs, lists, tables and preformatted text; scripts, styles and markup are left out."""
        with file.path.open("rb") as stream:
            declared = declared_encoding(stream.read(4096))
        yield from page_elements(file, blocks(file, declared))


def page_elements(file: File, texts: Iterable[str]) -> Iterator[Element]:
    """What a page of HTML holds, from its text in pieces. Raises `DamagedFileError` where it cannot be parsed."""
    from lxml import etree

    page = _Page(file)
    # What is declared was dealt with before, hence one encoding for the parser, whatever the page says.
    parser = etree.HTMLParser(target=cast("Any", page), encoding="utf-8", huge_tree=True)
    try:
        for text in texts:
            parser.feed(text.encode())
            yield from page.taken()
        parser.close()
    except etree.XMLSyntaxError as error:
        if page.tags:
            raise DamagedFileError(f"not HTML: {error}") from None
    page.finish()
    yield from page.taken()


_CHARSET = re.compile(
    rb"""<(?:meta|\?xml)\b[^>]{0,500}?(?:charset|encoding)\s*=\s*["']?\s*([A-Za-z0-9_:.-]{2,40})""", re.I
)


def declared_encoding(head: bytes) -> str | None:
    """The encoding that a page's `meta` or its XML declaration names."""
    found = _CHARSET.search(head)
    return found[1].decode("ascii") if found else None


_SKIPPED = frozenset({"script", "style", "template", "svg", "object", "canvas", "select", "textarea", "iframe"})
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "caption", "center", "dd", "details", "dialog", "div",
    "dl", "dt", "fieldset", "figcaption", "figure", "footer", "form", "header", "hr", "html", "legend", "main",
    "nav", "noscript", "p", "section", "summary", "ul", "ol", "menu",
})  # fmt: skip
_SPACES = re.compile(r"[ \t\n\r\f\u00a0]+")
_AROUND_BREAK = re.compile(r" ?\n ?")
_META_NAMES = frozenset({"author", "description", "keywords"})


class _Page:
    """The parser's target: gathers text until a tag ends it, then appends an element."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.tags = 0
        self._ready: list[Element] = []
        self._text: list[str] = []
        self._size = 0
        self._kind: Kind = "text"
        self._level: int | None = None
        self._skip = 0
        self._verbatim = 0
        self._title: list[str] | None = None
        self._items: list[str] = []
        self._items_size = 0
        self._lists = 0
        self._in_item = False
        self._tables: list[_Table] = []

    def taken(self) -> list[Element]:
        """The elements that are ready, each handed over once."""
        ready, self._ready = self._ready, []
        return ready

    # --- called by the parser

    def start(self, tag: object, attributes: Mapping[str, str]) -> None:
        self.tags += 1
        name = str(tag)
        if name in _SKIPPED:
            self._skip += 1
        elif self._skip:
            return
        elif name == "br":
            self._text.append("\n" if self._verbatim else "\0")
        elif name == "title" and self._file.title is None and self._title is None:
            self._title = []
        elif name in _HEADINGS:
            self._leave_table_cell()
            self._flush()
            self._kind, self._level = "heading", _HEADINGS[name]
        elif name == "li":
            self._flush()
            self._in_item = True
        elif name in ("ul", "ol", "menu", "dl"):
            self._flush()
            self._lists += 1
        elif name == "pre":
            self._leave_table_cell()
            self._flush()
            self._verbatim += 1
            self._kind = "code"
        elif name == "table":
            self._leave_table_cell()
            self._flush()
            if len(self._tables) < 64:
                self._tables.append(_Table())
        elif name in ("tr", "td", "th"):
            self._start_cell(name)
        elif name in _BLOCKS:
            self._flush()
        elif name == "meta":
            key = (attributes.get("name") or "").lower()
            if key in _META_NAMES and attributes.get("content"):
                self._file.metadata.setdefault(key, clean(attributes["content"]).strip()[:2000])
        elif name == "img" and attributes.get("alt"):
            self.data(f" {attributes['alt']} ")

    def end(self, tag: object) -> None:
        name = str(tag)
        if name in _SKIPPED:
            self._skip = max(0, self._skip - 1)
        elif self._skip:
            return
        elif name == "title":
            self._end_title()
        elif name in _HEADINGS:
            self._flush()
        elif name == "li":
            self._flush()
            self._in_item = False
        elif name in ("ul", "ol", "menu", "dl"):
            self._flush()
            self._lists = max(0, self._lists - 1)
            if not self._lists:
                self._flush_items()
        elif name == "pre":
            self._flush()
            self._verbatim = max(0, self._verbatim - 1)
        elif name in ("td", "th", "tr"):
            self._end_cell(name)
        elif name == "table":
            self._end_cell("tr")
            if self._tables:
                self._flush_rows(self._tables.pop())
        elif name in _BLOCKS:
            self._flush()

    def data(self, text: str) -> None:
        if self._title is not None:
            self._title.append(text)
            if len(self._title) > 100:  # never closed
                self._end_title()
            return
        if self._skip:
            return
        self._text.append(text)
        self._size += len(text)
        if self._size > PARAGRAPH_LIMIT:
            self._leave_table_cell()
            kind, level = self._kind, self._level
            self._flush()
            self._kind, self._level = kind, level

    def close(self) -> None:
        return None

    def finish(self) -> None:
        """Hand over what an unfinished page has left open."""
        self._end_title()
        while self._tables:
            self._end_cell("tr")
            self._flush_rows(self._tables.pop())
        self._flush()
        self._flush_items()

    # --- paragraphs, headings, lists

    def _end_title(self) -> None:
        if self._title is None:
            return
        title = _spaced("".join(self._title))
        self._title = None
        if title:
            self._file.title = title[:1000]
            self._ready.append(Element(title, "title"))

    def _flush(self) -> None:
        raw = "".join(self._text)
        kind, level = self._kind, self._level
        self._text.clear()
        self._size = 0
        self._kind, self._level = ("code" if self._verbatim else "text"), None
        text = clean(raw.replace("\0", "\n")).strip("\n").rstrip() if self._verbatim else _spaced(raw)
        if not text:
            return
        cell = self._cell()
        if cell is not None and kind != "heading":
            cell.append(text)
        elif kind == "text" and (self._lists or self._in_item):
            self._items.append(f"- {text}" if self._in_item else text)
            self._items_size += len(text)
            if self._items_size > 1200:
                self._flush_items()
        else:
            self._flush_items()
            self._ready.append(Element(text, kind, level=level))

    def _flush_items(self) -> None:
        if self._items:
            self._ready.append(Element("\n".join(self._items), "list"))
            self._items, self._items_size = [], 0

    # --- tables

    def _cell(self) -> list[str] | None:
        return self._tables[-1].cell if self._tables else None

    def _start_cell(self, name: str) -> None:
        self._end_cell(name)
        if self._tables and not self._tables[-1].layout and name != "tr":
            self._tables[-1].cell = []
            self._tables[-1].heads += name == "th"

    def _end_cell(self, name: str) -> None:
        self._flush()
        if not self._tables:
            return
        table = self._tables[-1]
        if table.cell is not None:
            table.row.append(" ".join(table.cell))
            table.cell = None
        if name == "tr" and table.row:
            if not table.rows and table.header is None and table.heads == len(table.row) and is_header(table.row):
                table.header = table.row
            else:
                table.rows.append(table.row)
            table.row, table.heads = [], 0
            if len(table.rows) >= ROWS_LIMIT:
                self._flush_rows(table)

    def _flush_rows(self, table: _Table) -> None:
        self._flush_items()
        if table.rows:
            self._ready.extend(grouped(table.rows, header=table.header))
        elif table.header and not table.shown:
            self._ready.extend(grouped([table.header]))
        table.rows, table.shown = [], True

    def _leave_table_cell(self) -> None:
        """Headings, tables and long text inside a cell: the table is only there to place things on the page."""
        if not self._tables or self._tables[-1].cell is None:
            return
        table = self._tables[-1]
        self._flush()
        self._flush_rows(table)
        inside = [*table.row, " ".join(table.cell or ())]
        table.row, table.cell, table.layout = [], None, True
        self._ready.extend(Element(text) for text in inside if text)


class _Table:
    def __init__(self) -> None:
        self.header: list[str] | None = None
        self.rows: list[list[str]] = []
        self.row: list[str] = []
        self.cell: list[str] | None = None
        self.heads = 0
        self.layout = False
        self.shown = False


def _spaced(text: str) -> str:
    """White space as a browser shows it; NUL stands for a line break."""
    folded = _SPACES.sub(" ", text).replace("\0", "\n")
    return clean(_AROUND_BREAK.sub("\n", folded)).strip()


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [HtmlLoader()]
