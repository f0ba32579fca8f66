"""Jupyter notebooks: prose, code, and of what the code put out the text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ingestd.errors import DamagedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Kind, Loader
from ingestd_plugins.charset import blocks, clean
from ingestd_plugins.damage import cause, guarded
from ingestd_plugins.text import markdown, paragraphs

OUTPUT_LIMIT = 20_000
"""Characters of one cell's output that are taken: progress bars and logs say nothing that is looked for."""
_COLOURS = re.compile("\x1b\\[[0-?]*[ -/]*[@-~]")


class NotebookLoader:
    name = "notebook"
    version = "1"
    suffixes: Sequence[str] = (".ipynb",)
    media_types: Sequence[str] = ("application/x-ipynb+json",)
    extracts = "Prose as Markdown, code, and the text that it put out (20,000 characters a cell); the language"
    omits = "Pictures, HTML and widgets among the output"

    @guarded
    def load(self, file: File) -> Iterator[Element]:
        """Cells in order; `page` is the cell's number. Pictures, HTML and widgets among the outputs are left out."""
        try:
            book = json.loads("".join(blocks(file)))
        except (ValueError, RecursionError) as error:
            raise DamagedFileError(f"not JSON: {cause(error)}") from None
        if not isinstance(book, dict):
            raise DamagedFileError("not a notebook: it is not a JSON object")
        _properties(file, book)
        cells = _objects(book.get("cells"))
        for sheet in _objects(book.get("worksheets")):  # up to version 3 of the format
            cells.extend(_objects(sheet.get("cells")))
        if not cells and "nbformat" not in book:
            raise DamagedFileError("not a notebook: neither cells nor nbformat are in it")
        for number, cell in enumerate(cells, 1):
            for element in _cell(cell):
                if element.text.strip():
                    if file.title is None and element.kind == "heading" and element.level == 1:
                        file.title = element.text[:1000]
                    yield Element(element.text, element.kind, page=number, level=element.level)


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [NotebookLoader()]


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _properties(file: File, book: dict[str, Any]) -> None:
    metadata = book.get("metadata")
    if not isinstance(metadata, dict):
        return
    for key in ("kernelspec", "language_info"):
        about = metadata.get(key)
        language = (about.get("language") or about.get("name")) if isinstance(about, dict) else None
        if isinstance(language, str) and language:
            file.metadata.setdefault("language", clean(language)[:100])
    authors = [author.get("name") for author in _objects(metadata.get("authors"))]
    named = ", ".join(clean(name) for name in authors if isinstance(name, str))
    if named:
        file.metadata["author"] = named[:1000]
    title = metadata.get("title")
    if isinstance(title, str) and title.strip():
        file.title = clean(title).strip()[:1000]


def _cell(cell: dict[str, Any]) -> Iterator[Element]:
    kind = cell.get("cell_type")
    source = _text(cell.get("source", cell.get("input")))
    if kind == "markdown":
        yield from markdown(paragraphs([source]))
    elif kind == "heading":
        level = cell.get("level")
        yield Element(source, "heading", level=min(6, max(1, level)) if isinstance(level, int) else 1)
    else:
        shape: Kind = "code" if kind == "code" else "text"
        for piece in paragraphs([source]):
            yield Element(piece, shape)
    for output in _objects(cell.get("outputs")):
        data = output.get("data", output)
        found = _text(output.get("text"))
        if isinstance(data, dict) and not any(str(key).startswith("image/") for key in data):  # what is shown instead
            found = found or _text(data.get("text/plain"))
        if output.get("output_type") in ("error", "pyerr"):
            found = f"{_text(output.get('ename'))}: {_text(output.get('evalue'))}".strip(": ")
        for piece in paragraphs([found[:OUTPUT_LIMIT]]):
            yield Element(piece, "code")


def _text(value: Any) -> str:
    """A multi-line string is written as one, or as a list of its lines."""
    if isinstance(value, list):
        value = "".join(line for line in value if isinstance(line, str))
    return clean(_COLOURS.sub("", value)) if isinstance(value, str) else ""
