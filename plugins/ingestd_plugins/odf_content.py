"""The content of an OpenDocument file, node by node: each is forgotten when its text was taken."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any

from ingestd.types import Element, File, Kind
from ingestd_plugins.charset import clean
from ingestd_plugins.rows import grouped, is_header, sheet_elements, trimmed

if TYPE_CHECKING:
    from lxml.etree import _Element as Node

_ODF = "urn:oasis:names:tc:opendocument:xmlns:"
OFFICE = f"{{{_ODF}office:1.0}}"
META = f"{{{_ODF}meta:1.0}}"
_TEXT = f"{{{_ODF}text:1.0}}"
_TABLE = f"{{{_ODF}table:1.0}}"
_DRAW = f"{{{_ODF}drawing:1.0}}"
_STYLE = f"{{{_ODF}style:1.0}}"
_PRESENTATION = f"{{{_ODF}presentation:1.0}}"

ROWS_LIMIT = 2000
"""A table in a text is handed over in parts of so many rows."""
SPACES_LIMIT = 100
CELLS_LIMIT = 200
"""Cells that one repeated cell stands for, at most."""

_PARAGRAPHS = frozenset({f"{_TEXT}p", f"{_TEXT}h"})
_SKIPPED = frozenset(
    {f"{_TEXT}tracked-changes", f"{_TEXT}table-of-content", f"{_TEXT}illustration-index", f"{_TEXT}table-index",
     f"{_TEXT}object-index", f"{_TEXT}user-index", f"{_TEXT}alphabetical-index", f"{_TABLE}tracked-changes",
     f"{OFFICE}binary-data", f"{OFFICE}scripts", f"{OFFICE}font-face-decls", f"{OFFICE}settings",
     f"{OFFICE}master-styles"}
)  # fmt: skip
"""What was deleted, what the program makes of the headings, and what is not text."""
_HANGING: dict[str, Kind] = {
    f"{_TEXT}note": "footnote", f"{OFFICE}annotation": "note", f"{_DRAW}frame": "text", f"{_DRAW}custom-shape": "text",
}  # fmt: skip
"""What hangs on a paragraph and comes behind it."""
_LEFT_OUT = frozenset({f"{_TEXT}ruby-text", f"{OFFICE}binary-data", f"{OFFICE}annotation-end", *_SKIPPED})


class Styles:
    """Of paragraphs: which are titles, whatever a document calls its own style made from that one."""

    def __init__(self) -> None:
        self._parents: dict[str, str] = {}

    def read(self, root: Node) -> None:
        """The styles below `root`."""
        for node in root.iter(f"{_STYLE}style"):
            self.add(node)

    def add(self, node: Node) -> None:
        """One `style:style`."""
        name, parent = node.get(f"{_STYLE}name"), node.get(f"{_STYLE}parent-style-name")
        if name and parent:
            self._parents[name] = parent

    def is_title(self, name: str) -> bool:
        """Whether it is made from the style "Title"."""
        for _ in range(16):
            if name == "Title":
                return True
            if name not in self._parents:
                return False
            name = self._parents[name]
        return False


class Content:
    """One pass over content.xml."""

    def __init__(self, file: File, stream: IO[bytes], styles: Styles, *, huge: bool = False) -> None:
        self._file = file
        self._stream = stream
        self._huge = huge
        self._styles = styles
        self._page: int | None = None
        self._pages = 0
        self._workbook = False
        self._lists = 0
        self._notes = 0
        self._title = 0
        """How deep we are in the frame of a slide's title."""
        self._events: Iterator[tuple[str, Any]] = iter(())

    def elements(self) -> Iterator[Element]:
        """Everything, in order."""
        from lxml import etree

        self._events = iter(
            etree.iterparse(
                self._stream, events=("start", "end"), remove_comments=True, remove_pis=True, resolve_entities=False,
                no_network=True, load_dtd=False, huge_tree=self._huge,
            )
        )  # fmt: skip
        for event, node in self._events:
            if event == "start":
                yield from self._start(node)
            else:
                self._end(node)

    def _start(self, node: Node) -> Iterator[Element]:
        tag = str(node.tag)
        if tag in _PARAGRAPHS:
            self._through(node)
            yield from self._paragraph(node)
        elif tag == f"{_TABLE}table":
            yield from self._table(node)
        elif tag in _SKIPPED or tag == f"{OFFICE}annotation":
            self._through(node)
            _forget(node)
        elif tag == f"{_TEXT}list":
            self._lists += 1
        elif tag == f"{_DRAW}page":
            self._pages += 1
            self._page = self._pages
        elif tag == f"{_PRESENTATION}notes":
            self._notes += 1
        elif tag == f"{OFFICE}spreadsheet":
            self._workbook = True
        elif tag == f"{_DRAW}frame" and node.get(f"{_PRESENTATION}class") == "title":
            self._title += 1

    def _end(self, node: Node) -> None:
        tag = str(node.tag)
        if tag == f"{_TEXT}list":
            self._lists -= 1
        elif tag == f"{_PRESENTATION}notes":
            self._notes -= 1
        elif tag == f"{_STYLE}style":
            self._styles.add(node)
        elif tag == f"{_DRAW}frame" and node.get(f"{_PRESENTATION}class") == "title":
            self._title -= 1
        elif tag in (f"{_DRAW}page", f"{_TEXT}list-item"):
            _forget(node)

    def _through(self, node: Node) -> None:
        """Read on until `node` is complete."""
        for event, found in self._events:
            if event == "end" and found is node:
                return

    # --- paragraphs

    def _paragraph(self, node: Node) -> Iterator[Element]:
        hanging: list[tuple[Kind, Node]] = []
        text = flat(node, hanging)
        if text:
            yield self._shaped(node, text)
        for kind, found in hanging:
            deeper: list[tuple[Kind, Node]] = []
            note = flat(found, deeper)
            if note:
                yield Element(note, kind, page=self._page)
            for _, box in deeper:
                if inside := flat(box, []):
                    yield Element(inside, page=self._page)
        _forget(node)

    def _shaped(self, node: Node, text: str) -> Element:
        if self._notes:
            return Element(text, "note", page=self._page)
        if self._title:
            return Element(" ".join(text.split()), "heading", page=self._page, level=1)
        if str(node.tag) == f"{_TEXT}h":
            level = _number(node.get(f"{_TEXT}outline-level"), 1, 9)
            return Element(" ".join(text.split()), "heading", page=self._page, level=level)
        if self._lists and self._page is None:
            return Element(f"- {text}", "list")
        if self._page is None and self._styles.is_title(node.get(f"{_TEXT}style-name", "")):
            return Element(" ".join(text.split()), "title")
        return Element(text, page=self._page)

    # --- tables

    def _table(self, node: Node) -> Iterator[Element]:
        notes: list[str] = []
        rows = self._rows(node, notes)
        if self._workbook:
            self._pages += 1
            self._page = self._pages
            name = clean(node.get(f"{_TABLE}name", "")).strip() or str(self._pages)
            found = sheet_elements(rows, name, self._pages)
            first = next(found, None)
            if first is not None:
                yield Element(name, "heading", page=self._pages, level=1)
                yield first
                yield from found
        else:
            while part := list(itertools.islice(rows, ROWS_LIMIT)):
                yield from self._part(part)
        for text in notes:
            yield Element(text, "note", page=self._page)
        _forget(node)

    def _part(self, rows: list[Sequence[str]]) -> Iterator[Element]:
        wide = max(map(len, rows))
        if wide == 1:  # a frame around text
            for row in rows:
                yield Element(row[0], page=self._page)
        elif len(rows) > 1 and wide > 2 and is_header(rows[0]) and len(rows[0]) == wide:
            yield from grouped(rows[1:], header=rows[0], page=self._page)
        else:
            yield from grouped(rows, page=self._page)

    def _rows(self, table: Node, notes: list[str]) -> Iterator[Sequence[str]]:
        """Rows that hold something, tables in cells as text of the cell; reads until the table is complete."""
        depth = 0
        for event, node in self._events:
            tag = str(node.tag)
            if event == "start":
                depth += tag == f"{_TABLE}table"
                continue
            if tag == f"{_TABLE}table":
                if node is table:
                    return
                depth -= 1
            elif tag == f"{_TABLE}table-row" and depth == 0:
                row = trimmed(_cells(node, notes))
                _forget(node)
                if row:
                    yield row


def _cells(row: Node, notes: list[str]) -> list[str]:
    cells: list[str] = []
    for cell in row:
        if cell.tag not in (f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell"):
            continue
        hanging: list[tuple[Kind, Node]] = []
        text = " ".join(flat(cell, hanging).split())
        cells.extend([text] * _number(cell.get(f"{_TABLE}number-columns-repeated"), 1, CELLS_LIMIT))
        for kind, found in hanging:
            note = flat(found, [])
            if note and kind == "text" and not text:
                cells[-1] = note
            elif note:
                notes.append(note)
    return cells


# --- text -----------------------------------------------------------------------------------------------------


def flat(node: Node, hanging: list[tuple[Kind, Node]] | None = None) -> str:
    """The text of a node, a line for each paragraph in it. What hangs on it goes to `hanging`, or is left out."""
    from lxml import etree

    pieces: list[str] = []
    walk = etree.iterwalk(node, events=("start", "end"))
    for event, found in walk:
        tag = str(found.tag)
        if event == "start":
            if found is not node and (tag in _HANGING or tag in _LEFT_OUT):
                if hanging is not None and tag in _HANGING:
                    hanging.append((_HANGING[tag], found))
                walk.skip_subtree()
                continue
            if tag == f"{_TEXT}s":
                pieces.append(" " * _number(found.get(f"{_TEXT}c"), 1, SPACES_LIMIT))
            elif tag == f"{_TEXT}tab":
                pieces.append("\t")
            elif tag == f"{_TEXT}line-break":
                pieces.append("\n")
            elif _is_inline(tag):
                pieces.append(_folded(found.text))
            continue
        if tag in _PARAGRAPHS and found is not node:
            pieces.append("\n")
        if found is not node:
            parent = found.getparent()
            if parent is not None and _is_inline(str(parent.tag)):
                pieces.append(_folded(found.tail))
    lines = (line.strip() for line in clean("".join(pieces)).split("\n"))
    return "\n".join(line for line in lines if line)


_STRUCTURE = frozenset(
    {f"{_TEXT}note-citation", f"{_TEXT}note", f"{_TEXT}note-body", f"{_TEXT}list", f"{_TEXT}list-item",
     f"{_TEXT}section", f"{_TEXT}list-header"}
)  # fmt: skip


def _is_inline(tag: str) -> bool:
    """Spans, links, fields, ruby: their text is text of the paragraph."""
    return tag.startswith((_TEXT, f"{_PRESENTATION}")) and tag not in _STRUCTURE


def _folded(text: str | None) -> str:
    """White space in the file is one space; others are written as tags."""
    if not text:
        return ""
    folded = " ".join(text.split())
    return f"{' ' if text[0].isspace() else ''}{folded}{' ' if folded and text[-1].isspace() else ''}"


def _number(text: str | None, least: int, most: int) -> int:
    return min(most, max(least, int(text))) if text and text.isdecimal() and len(text) < 10 else least


def _forget(node: Node) -> None:
    """Free what was taken, and what stands before it."""
    tail = node.tail
    node.clear()
    node.tail = tail
    parent = node.getparent()
    while parent is not None and parent[0] is not node:
        del parent[0]
