"""OpenDocument texts, workbooks and presentations: their XML is read as it comes, nothing of it is kept.

Not by odfpy: it makes an object of each node of the whole document, which is slow and takes a hundred times its size.
"""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any

from ingestd.config.units import spell_size
from ingestd.errors import DamagedFileError, EncryptedFileError, FileError, LimitError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader
from ingestd_plugins import ooxml, zipped
from ingestd_plugins.charset import clean
from ingestd_plugins.damage import guarded
from ingestd_plugins.odf_content import META, OFFICE, Content, Styles, flat

UNPACKED_LIMIT = 4 << 30
"""Bytes. The content is streamed; only a paragraph or a row is held in memory."""
SMALL = 16 << 20
"""Bytes of a member that is read whole: properties, styles and the list of members."""

_MEDIA = "application/vnd.oasis.opendocument."
_DC = "{http://purl.org/dc/elements/1.1/}"


class OdfLoader:
    name = "odf"
    version = "1"
    suffixes: Sequence[str] = (
        ".odt", ".ott", ".odm", ".ods", ".ots", ".odp", ".otp", ".odg", ".otg", ".fodt", ".fods", ".fodp", ".fodg",
    )  # fmt: skip
    media_types: Sequence[str] = (
        f"{_MEDIA}text", f"{_MEDIA}text-template", f"{_MEDIA}text-master", f"{_MEDIA}spreadsheet",
        f"{_MEDIA}spreadsheet-template", f"{_MEDIA}presentation", f"{_MEDIA}presentation-template",
        f"{_MEDIA}graphics", f"{_MEDIA}graphics-template", f"{_MEDIA}text-flat-xml",
        f"{_MEDIA}spreadsheet-flat-xml", f"{_MEDIA}presentation-flat-xml", f"{_MEDIA}graphics-flat-xml",
    )  # fmt: skip
    extracts = (
        "Texts: headings with their level, paragraphs, lists, tables, text boxes, footnotes and comments behind "
        "their paragraph, headers and footers once; workbooks as `sheets`; presentations as `slides`; properties"
    )
    omits = (
        "Deleted text, tables of contents, charts, pictures, formulas as such, macros; a row or cell that is "
        "repeated is taken once, or up to 200 times"
    )

    @guarded
    def load(self, file: File) -> Iterator[Element]:
        """Paragraphs, headings, lists, tables and notes in order; `page` is the sheet, slide or drawing."""
        if not file.size:
            raise DamagedFileError("the file is empty")
        with file.path.open("rb") as stream:
            packed = stream.read(2) == b"PK"
        if not packed and file.suffix.startswith(".f"):
            with file.path.open("rb") as stream:  # pictures are in it as text
                yield from _content(file, stream, Styles(), huge=True)
            return
        zipped.check(file, self.name, UNPACKED_LIMIT)
        with zipfile.ZipFile(file.path) as archive:
            if "content.xml" not in archive.NameToInfo and "encrypted-package" not in archive.NameToInfo:
                raise DamagedFileError("damaged: content.xml is missing")
            _refuse_encrypted(archive)
            meta = _part(file, archive, "meta.xml")
            if meta is not None:
                _properties(file, meta)
            styles = Styles()
            shared = _part(file, archive, "styles.xml")
            if shared is not None:
                styles.read(shared)
            with ooxml.reading(file):
                content = archive.open("content.xml")
            with content:
                yield from _content(file, content, styles)
            if shared is not None:
                yield from _around(shared)


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [OdfLoader()]


def _content(file: File, stream: IO[bytes], styles: Styles, *, huge: bool = False) -> Iterator[Element]:
    """Damage in the middle costs what follows it."""
    content = Content(file, stream, styles, huge=huge)
    some = False
    elements = content.elements()
    while True:
        try:
            with ooxml.reading(file):
                element = next(elements, None)
        except DamagedFileError as error:
            if not some:
                raise
            file.warn(f"{error.message}; what follows it was not read")
            return
        if element is None:
            return
        if element.kind == "title" and file.title is None:
            file.title = element.text[:1000]
        some = True
        yield element


def _refuse_encrypted(archive: zipfile.ZipFile) -> None:
    if "encrypted-package" in archive.NameToInfo:  # all of it as one, as recent programs do
        raise EncryptedFileError("needs a password")
    manifest = b""
    with contextlib.suppress(*ooxml.content_errors()), archive.open("META-INF/manifest.xml") as stream:
        manifest = stream.read(SMALL)
    if b"encryption-data" in manifest:
        raise EncryptedFileError("needs a password")


def _part(file: File, archive: zipfile.ZipFile, name: str) -> Any:
    """The tree of a small member, None where there is none or where it is damaged."""
    from lxml import etree

    if name not in archive.NameToInfo:
        return None
    try:
        with ooxml.reading(file), archive.open(name) as stream:
            data = stream.read(SMALL + 1)
            if len(data) > SMALL:
                raise LimitError(f"{name} is larger than {spell_size(SMALL)}")
            return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))
    except FileError as error:  # the content is worth having without it
        file.warn(f"a part of the file was left out: {name}: {error.message}")
        return None


def _properties(file: File, meta: Any) -> None:
    found: dict[str, list[str]] = {}
    for node in meta.iterfind(f"{OFFICE}meta/*"):
        text = clean(" ".join((node.text or "").split()))
        if text:
            found.setdefault(str(node.tag), []).append(text)
    if title := found.get(f"{_DC}title"):
        file.title = title[0][:1000]
    author = found.get(f"{_DC}creator") or found.get(f"{META}initial-creator")
    for key, texts in {
        "author": author,
        "subject": found.get(f"{_DC}subject"),
        "keywords": found.get(f"{META}keyword"),
        "description": found.get(f"{_DC}description"),
    }.items():
        if texts:
            file.metadata[key] = ", ".join(texts)[:1000]


def _around(styles: Any) -> Iterator[Element]:
    """Headers and footers of all pages, each text once."""
    seen: set[str] = set()
    for place in ("header", "header-left", "header-first", "footer", "footer-left", "footer-first"):
        for node in styles.iter(f"{{urn:oasis:names:tc:opendocument:xmlns:style:1.0}}{place}"):
            text = flat(node)
            if text and text not in seen and not text.isdigit() and not text.startswith("???"):
                seen.add(text)
                yield Element(text, "header")
