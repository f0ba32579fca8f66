"""Plain text, markup that people read as it is, logs and source code."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Kind, Loader
from ingestd_plugins.charset import blocks
from ingestd_plugins.damage import guarded

PARAGRAPH_LIMIT = 8192
"""Characters; a longer paragraph, such as a log without blank lines, is cut at a line end."""

_PROSE = (".txt", ".text", ".log", ".md", ".markdown", ".rst", ".adoc", ".asciidoc", ".org", ".tex", ".latex")
_DATA = (".ini", ".cfg", ".conf", ".properties", ".toml", ".yaml", ".yml", ".env", ".diff", ".patch", ".bib")
_CODE = (
    ".py", ".pyi", ".pyx", ".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".cs", ".java", ".kt", ".kts",
    ".scala", ".groovy", ".gradle", ".go", ".rs", ".swift", ".m", ".mm", ".js", ".mjs", ".cjs", ".jsx", ".ts", ".tsx",
    ".vue", ".css", ".scss", ".less", ".php", ".rb", ".pl", ".pm", ".lua", ".r", ".jl", ".dart", ".ex", ".exs",
    ".erl", ".hs", ".ml", ".clj", ".lisp", ".el", ".scm", ".f90", ".f", ".for", ".pas", ".vb", ".asm", ".s", ".sql",
    ".sh", ".bash", ".zsh", ".fish", ".ps1", ".bat", ".cmd", ".cmake", ".mk", ".tf", ".proto", ".graphql", ".zig",
    ".nim", ".d", ".v", ".sv", ".vhdl", ".cu", ".cuh", ".sol", ".tcl", ".awk", ".ipp", ".inl", ".dockerfile",
)  # fmt: skip


class TextLoader:
    name = "text"
    version = "1"
    suffixes: Sequence[str] = _PROSE + _DATA + _CODE
    media_types: Sequence[str] = (
        "text/plain", "text/markdown", "text/x-rst", "text/x-tex", "application/yaml", "application/toml",
    )  # fmt: skip
    extracts = (
        "Paragraphs; headings of Markdown, reStructuredText, AsciiDoc, Org and LaTeX with their levels; the first "
        "one, or `title:` in the front matter, names the document"
    )
    omits = "Pictures and files that a text refers to"

    @guarded
    def load(self, file: File) -> Iterator[Element]:
        """One element for each paragraph; headings where the format marks them."""
        pieces = paragraphs(blocks(file))
        read = _READERS.get(file.suffix)
        if read is not None:
            yield from _titled(file, read(pieces))
        else:
            kind: Kind = "code" if file.suffix in _CODE else "text"
            for piece in pieces:
                yield Element(piece, kind)


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [TextLoader()]


_BLANK = re.compile(r"\n(?:[ \t\u3000]*\n)+|\f+")


def paragraphs(texts: Iterable[str], limit: int = PARAGRAPH_LIMIT) -> Iterator[str]:
    """What blank lines and page breaks separate, without them; never longer than `limit` characters."""
    carry = ""
    for text in texts:
        pieces = _BLANK.split(carry + text)
        carry = pieces.pop()
        for piece in pieces:
            yield from _cut(piece, limit)
        if len(carry) > 2 * limit:
            cut = list(_cut(carry, limit, keep_last=True))
            carry = cut.pop()
            yield from cut
    yield from _cut(carry, limit)


def _cut(text: str, limit: int, *, keep_last: bool = False) -> Iterator[str]:
    """Pieces of at most `limit` characters, cut at a line end, else a space, else anywhere."""
    start = 0
    while len(text) - start > limit:
        end = text.rfind("\n", start + 1, start + limit) + 1 or text.rfind(" ", start + 1, start + limit) + 1
        end = end or start + limit
        piece = text[start:end].strip("\n")
        if piece and not piece.isspace():
            yield piece
        start = end
    piece = text[start:] if keep_last else text[start:].strip("\n").rstrip()
    if keep_last or (piece and not piece.isspace()):
        yield piece


def _titled(file: File, elements: Iterable[Element]) -> Iterator[Element]:
    """The first heading of the first level names the document."""
    for element in elements:
        if file.title is None and (element.kind == "title" or (element.kind == "heading" and element.level == 1)):
            file.title = element.text
        yield element


# --- formats with headings --------------------------------------------------------------------------------------


def _gather(lines: list[str], kind: Kind = "text") -> Iterator[Element]:
    text = "\n".join(lines).strip("\n").rstrip()
    lines.clear()
    if text:
        yield Element(text, kind)


_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)(?:[ \t]+#+)?[ \t]*$")
_SETEXT = re.compile(r" {0,3}(=+|-+)[ \t]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])\s")
_FRONT = re.compile(r"title\s*[:=]\s*[\"']?(.+?)[\"']?\s*$", re.I)


def markdown(pieces: Iterable[str]) -> Iterator[Element]:
    fence = ""
    front = ""  # the line that ends the front matter
    body: list[str] = []
    for number, piece in enumerate(pieces):
        lines = piece.split("\n")
        if number == 0 and lines[0].rstrip() in ("---", "+++"):
            front = lines.pop(0).rstrip()
        for line in lines:
            if front:
                title = _FRONT.match(line)
                if title:
                    yield Element(title[1], "title")
                elif line.rstrip() == front:
                    front = ""
                else:
                    body.append(line)
                continue
            mark = _FENCE.match(line)
            if fence:
                body.append(line)
                if mark and mark[1].startswith(fence):
                    fence = ""
                    yield from _gather(body, "code")
                continue
            if mark:
                yield from _gather(body, _markdown_kind(body))
                body.append(line)
                fence = mark[1]
                continue
            heading = _ATX.match(line)
            if heading:
                yield from _gather(body, _markdown_kind(body))
                if heading[2]:
                    yield Element(heading[2], "heading", level=len(heading[1]))
                continue
            under = _SETEXT.match(line)
            if under and body and not _ITEM.match(body[-1]) and not body[-1].lstrip().startswith(("|", ">")):
                title_line = body.pop()
                yield from _gather(body, _markdown_kind(body))
                yield Element(title_line.strip(), "heading", level=1 if under[1][0] == "=" else 2)
                continue
            body.append(line)
        yield from _gather(body, "code" if fence else _markdown_kind(body))


def _markdown_kind(lines: Sequence[str]) -> Kind:
    first = lines[0] if lines else ""
    if first.lstrip().startswith("|"):
        return "table"
    return "list" if _ITEM.match(first) else "text"


_ADORNMENT = re.compile(r"([!-/:-@\[-`{-~])\1{2,}\s*$")


def _rst(pieces: Iterable[str]) -> Iterator[Element]:
    """Heading levels follow the order in which a document introduces its adornments."""
    styles: list[str] = []
    body: list[str] = []
    for piece in pieces:
        lines = piece.split("\n")
        index = 0
        while index < len(lines):
            line = lines[index]
            over = _ADORNMENT.match(line)
            if (
                over
                and index + 2 < len(lines)
                and lines[index + 2].rstrip() == line.rstrip()
                and lines[index + 1].strip()
            ):
                style, title, step = line[0] * 2, lines[index + 1], 3
            elif (
                index + 1 < len(lines)
                and line.strip()
                and not line[0].isspace()
                and _ADORNMENT.match(lines[index + 1])
                and len(lines[index + 1].rstrip()) >= min(4, len(line.rstrip()))
                and not over
            ):
                style, title, step = lines[index + 1][0], line, 2
            else:
                body.append(line)
                index += 1
                continue
            yield from _gather(body)
            if style not in styles:
                styles.append(style)
            yield Element(title.strip(), "heading", level=styles.index(style) + 1)
            index += step
        yield from _gather(body)


def _marked(pattern: str, level: Callable[[re.Match[str]], int]) -> Callable[[Iterable[str]], Iterator[Element]]:
    """A reader for formats in which one line is a heading; `pattern` has a group `title`."""
    heading = re.compile(pattern)

    def read(pieces: Iterable[str]) -> Iterator[Element]:
        body: list[str] = []
        for piece in pieces:
            for line in piece.split("\n"):
                found = heading.match(line)
                if found:
                    yield from _gather(body)
                    yield Element(found["title"].strip(), "heading", level=level(found))
                else:
                    body.append(line)
            yield from _gather(body)

    return read


_LATEX_LEVELS = {"title": 1, "part": 1, "chapter": 1, "section": 2, "subsection": 3, "subsubsection": 4}
_latex = _marked(
    r"\s*\\(?P<mark>title|part|chapter|(?:sub){0,2}section)\*?(?:\[[^\]]*\])?\{(?P<title>[^{}]+)\}.*$",
    lambda found: _LATEX_LEVELS[found["mark"]],
)
_asciidoc = _marked(r"(?P<mark>={1,6})\s+(?P<title>\S.*)$", lambda found: len(found["mark"]))
_org = _marked(r"(?P<mark>\*{1,8})\s+(?P<title>\S.*)$", lambda found: len(found["mark"]))

_READERS: dict[str, Callable[[Iterable[str]], Iterator[Element]]] = {
    ".md": markdown,
    ".markdown": markdown,
    ".rst": _rst,
    ".tex": _latex,
    ".latex": _latex,
    ".adoc": _asciidoc,
    ".asciidoc": _asciidoc,
    ".org": _org,
}
