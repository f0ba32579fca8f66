"""Word documents by python-docx: the body in order, with everything that hangs on it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Kind, Loader
from ingestd.types import Part as Embedded
from ingestd_plugins import embedded, ooxml
from ingestd_plugins.charset import clean
from ingestd_plugins.damage import guarded
from ingestd_plugins.rows import grouped, is_header

if TYPE_CHECKING:
    from docx.opc.part import Part
    from lxml.etree import _Element as Node

UNPACKED_LIMIT = 512 << 20
"""Bytes. The library holds all members and the body's tree in memory."""
DEPTH_LIMIT = 16
"""Tables in tables; below it their text is still taken, as one line."""

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_M = "{http://schemas.openxmlformats.org/officeDocument/2006/math}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
_RELATION = "http://schemas.openxmlformats.org/officeDocument/2006/relationships/"


class WordLoader:
    name = "word"
    version = "1"
    suffixes: Sequence[str] = (".docx", ".docm", ".dotx", ".dotm")
    media_types: Sequence[str] = (
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "application/vnd.ms-word.document.macroenabled.12",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.template",
        "application/vnd.ms-word.template.macroenabled.12",
    )
    extracts = (
        "The body in order: headings by style or outline level, lists, tables (nested ones too), text boxes; "
        "footnotes, endnotes and comments behind their paragraph; headers and footers once; properties; embedded "
        "files as documents of their own"
    )
    omits = (
        "Deleted text, the table of contents, pictures, charts, macros; linked pictures and templates are not fetched"
    )

    @guarded
    def load(self, file: File) -> Iterator[Element | Embedded]:
        """Body in order; text boxes, footnotes and comments behind their paragraph; headers and footers once, last."""
        ooxml.check(file, self.name, UNPACKED_LIMIT)
        from docx.package import Package

        package = ooxml.opened(file, Package.open)
        with ooxml.reading(file):
            main = package.main_document_part
            body = _root(main).find(f"{_W}body")
            if body is None:
                raise ValueError("the document has no body")
            document = _Document(file, main)
            _properties(file, package)
        for element in document.walk(body):
            if element.kind == "title" and file.title is None:
                file.title = element.text[:1000]
            yield element
        yield from document.around()
        yield from embedded.of_office(file)


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [WordLoader()]


def _root(part: Part) -> Node:
    """The part's tree; python-docx parses only the kinds of part that it knows."""
    from docx.oxml import parse_xml

    tree = getattr(part, "element", None)
    return tree if tree is not None else parse_xml(part.blob)


def _properties(file: File, package: Any) -> None:
    try:
        properties = package.core_properties
        found = {key: getattr(properties, key) for key in ("title", "author", "subject", "keywords")}
    except ooxml.content_errors():  # what names a document must not keep its text out of the index
        file.warn("the document's properties are damaged")
        return
    title = clean(found.pop("title") or "").strip()
    if title and title.lower() not in ("word document", "document"):
        file.title = title[:1000]
    for key, value in found.items():
        text = clean(value or "").strip()
        if text and text != "python-docx":
            file.metadata[key] = text[:1000]


class _Document:
    def __init__(self, file: File, main: Part) -> None:
        self._file = file
        self._main = main
        self._styles = self._optional("styles", _Styles) or _Styles(None)
        self._footnotes = self._optional("footnotes", _by_id) or {}
        self._endnotes = self._optional("endnotes", _by_id) or {}
        self._comments = self._optional("comments", _by_id) or {}

    def _optional(self, relation: str, make: Callable[[Node], Any]) -> Any:
        """What `make` reads from a related part, None where there is no such part or where it is damaged."""
        parts = _related(self._main, relation)
        try:
            return make(_root(parts[0])) if parts else None
        except ooxml.content_errors():  # the body is worth having without it
            self._file.warn(f"the document's {relation} are damaged")
            return None

    def walk(self, container: Node, depth: int = 0) -> Iterator[Element]:
        """The elements below a body, a text box or a content control."""
        for node in container:
            if node.tag == f"{_W}p":
                yield from self._paragraph(node, depth)
            elif node.tag == f"{_W}tbl":
                yield from self._table(node, depth)
            elif node.tag in _WRAPPERS and depth < DEPTH_LIMIT:
                yield from self.walk(node, depth + 1)

    def _paragraph(self, node: Node, depth: int) -> Iterator[Element]:
        hanging: list[tuple[str, Node]] = []
        text = clean(_text(node, hanging)).strip()
        if text:
            kind, level = self._styles.kind(node.find(f"{_W}pPr"))
            if kind != "contents":
                yield Element(f"- {text}" if kind == "list" else text, _KINDS[kind], level=level)
        for what, found in hanging:
            if what == "box":
                if depth < DEPTH_LIMIT:
                    yield from self.walk(found, depth + 1)
                continue
            notes, note_kind = self._notes(what)
            note = notes.get(found.get(f"{_W}id", ""))
            if note is not None:
                note_text = _flat(note)
                if note_text:
                    yield Element(note_text, note_kind)

    def _notes(self, what: str) -> tuple[Mapping[str, Node], Kind]:
        if what == "footnoteReference":
            return self._footnotes, "footnote"
        if what == "endnoteReference":
            return self._endnotes, "footnote"
        return self._comments, "note"

    def _table(self, table: Node, depth: int) -> Iterator[Element]:
        rows = [[_flat(cell) for cell in _cells(row)] for row in _rows(table)]
        wide = max((len(row) for row in rows), default=0)
        if wide <= 1 and depth < DEPTH_LIMIT:  # a frame around text
            for row in _rows(table):
                for cell in _cells(row):
                    yield from self.walk(cell, depth + 1)
            return
        if len(rows) > 1 and wide > 2 and is_header(rows[0]) and len(rows[0]) == wide:
            yield from grouped(rows[1:], header=rows[0])
        else:
            yield from grouped(rows)
        for node in table.iter(f"{_W}footnoteReference", f"{_W}endnoteReference", f"{_W}commentReference"):
            notes, kind = self._notes(str(node.tag).removeprefix(_W))
            note = notes.get(node.get(f"{_W}id", ""))
            if note is not None and (text := _flat(note)):
                yield Element(text, kind)

    def around(self) -> Iterator[Element]:
        """Headers and footers of all sections, each text once."""
        seen: set[str] = set()
        for relation in ("header", "footer"):
            for part in _related(self._main, relation):
                try:
                    text = _flat(_root(part))
                except ooxml.content_errors():  # as above
                    self._file.warn(f"a {relation} of the document is damaged")
                    continue
                if text and text not in seen and not text.isdigit():
                    seen.add(text)
                    yield Element(text, "header")


def _related(part: Part, relation: str) -> list[Part]:
    """Parts by kind of relation, in the order of their names, so that it does not change from run to run."""
    found = [
        item.target_part for item in part.rels.values() if not item.is_external and item.reltype == _RELATION + relation
    ]
    return sorted(found, key=lambda item: str(item.partname))


def _by_id(root: Node) -> dict[str, Node]:
    """Notes or comments, without the separators that Word keeps among them."""
    return {node.get(f"{_W}id", ""): node for node in root if node.get(f"{_W}type") in (None, "normal")}


# --- text -----------------------------------------------------------------------------------------------------

_WRAPPERS = frozenset(
    {f"{_W}sdt", f"{_W}sdtContent", f"{_W}customXml", f"{_W}ins", f"{_W}moveTo", f"{_W}smartTag",
     f"{_MC}AlternateContent", f"{_MC}Choice"}
)  # fmt: skip
_LEFT_OUT = frozenset(
    {f"{_W}del", f"{_W}moveFrom", f"{_W}rt", f"{_W}instrText", f"{_W}pPr", f"{_W}rPr", f"{_W}sdtPr", f"{_W}tblPr",
     f"{_MC}Fallback"}
)  # fmt: skip
"""What was deleted, what a field is made of, and the second version of what is there already."""
_CHARACTERS = {
    f"{_W}tab": "\t", f"{_W}ptab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-",
}  # fmt: skip
_REFERENCES = frozenset({f"{_W}footnoteReference", f"{_W}endnoteReference", f"{_W}commentReference"})


def _text(paragraph: Node, hanging: list[tuple[str, Node]] | None = None) -> str:
    """The text of a paragraph; what hangs on it (notes, comments, text boxes) is appended to `hanging`."""
    pieces: list[str] = []
    pending: list[Node] = [paragraph]
    while pending:  # not recursive: a file decides how deep it is
        node = pending.pop()
        tag = node.tag
        if tag == f"{_W}t" or tag == f"{_M}t":
            pieces.append(node.text or "")
        elif tag in _CHARACTERS:
            pieces.append(_CHARACTERS[tag])
        elif tag == f"{_W}txbxContent":
            if hanging is not None:
                hanging.append(("box", node))
            else:
                pieces.append(" ")
                pending.extend(reversed(node))
        elif tag in _REFERENCES:
            if hanging is not None:
                hanging.append((str(tag).removeprefix(_W), node))
        elif tag not in _LEFT_OUT:
            pending.extend(reversed(node))
    return "".join(pieces)


def _flat(container: Node) -> str:
    """All text below a node as one line."""
    texts = (_text(node) for node in container.iter(f"{_W}p") if not _inside_paragraph(node, container))
    return clean(" ".join(" ".join(texts).split()))


def _inside_paragraph(node: Node, top: Node) -> bool:
    """True for the paragraphs of a text box, which `_text` reaches through the paragraph that it hangs on."""
    parent = node.getparent()
    while parent is not None and parent is not top:
        if parent.tag in (f"{_W}p", f"{_MC}Fallback"):
            return True
        parent = parent.getparent()
    return False


def _rows(table: Node) -> Iterator[Node]:
    for node in table:
        if node.tag == f"{_W}tr":
            yield node
        elif node.tag in _WRAPPERS:
            yield from (row for row in node.iter(f"{_W}tr") if _nearest(row, f"{_W}tbl") is table)


def _cells(row: Node) -> Iterator[Node]:
    for node in row:
        if node.tag == f"{_W}tc":
            yield node
        elif node.tag in _WRAPPERS:
            yield from (cell for cell in node.iter(f"{_W}tc") if _nearest(cell, f"{_W}tr") is row)


def _nearest(node: Node, tag: str) -> Node | None:
    parent = node.getparent()
    while parent is not None and parent.tag != tag:
        parent = parent.getparent()
    return parent


# --- styles ---------------------------------------------------------------------------------------------------

_KINDS: dict[str, Kind] = {"title": "title", "heading": "heading", "list": "list", "caption": "caption", "text": "text"}
_HEADING_NAME = re.compile(r"heading\s*(\d)", re.I)


class _Styles:
    """What a paragraph's style says it is. Style names of Word are English in the file, whatever its language."""

    def __init__(self, root: Node | None) -> None:
        self._nodes: dict[str, Node] = {}
        self._default = ""
        for node in root if root is not None else ():
            if node.tag == f"{_W}style" and node.get(f"{_W}type") in ("paragraph", None):
                identifier = node.get(f"{_W}styleId", "")
                self._nodes[identifier] = node
                if node.get(f"{_W}default") in ("1", "true", "on"):
                    self._default = identifier
        self._known: dict[str, tuple[str, int | None]] = {}

    def kind(self, properties: Node | None) -> tuple[str, int | None]:
        """Kind and heading level; kind "contents" for entries of a table of contents."""
        style = self._style(_value(properties, "pStyle") or self._default)
        if properties is None:
            return style
        own = _level(properties)
        if own is not None and style[0] == "text":
            return "heading", own
        if style[0] == "text" and properties.find(f"{_W}numPr") is not None:
            return "list", None
        return style

    def _style(self, identifier: str) -> tuple[str, int | None]:
        if identifier not in self._known:
            self._known[identifier] = self._look_up(identifier)
        return self._known[identifier]

    def _look_up(self, identifier: str) -> tuple[str, int | None]:
        listed = False
        for _ in range(20):  # styles are based on others; a damaged file may have a circle of them
            node = self._nodes.get(identifier)
            if node is None:
                break
            name = (_value(node, "name") or identifier).lower()
            heading = _HEADING_NAME.fullmatch(name)
            if heading and heading[1] != "0":
                return "heading", int(heading[1])
            if name == "title":
                return "title", None
            if name == "caption":
                return "caption", None
            if re.fullmatch(r"toc (?:heading|\d)|table of figures", name):
                return "contents", None
            properties = node.find(f"{_W}pPr")
            if properties is not None:
                level = _level(properties)
                if level is not None:
                    return "heading", level
                listed = listed or properties.find(f"{_W}numPr") is not None
            listed = listed or name.startswith("list ")
            identifier = _value(node, "basedOn") or ""
        return ("list" if listed else "text"), None


def _value(node: Node | None, tag: str) -> str | None:
    child = node.find(f"{_W}{tag}") if node is not None else None
    return child.get(f"{_W}val") if child is not None else None


def _level(properties: Node) -> int | None:
    """From an outline level (0 to 8; 9 is body text)."""
    value = _value(properties, "outlineLvl")
    return int(value) + 1 if value and value.isdecimal() and int(value) < 9 else None
