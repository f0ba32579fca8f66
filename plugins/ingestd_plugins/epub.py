"""Electronic books: the chapters in reading order, each read as the page of HTML that it is."""

from __future__ import annotations

import posixpath
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import unquote

from ingestd.config.units import spell_size
from ingestd.errors import DamagedFileError, EncryptedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader
from ingestd_plugins import ooxml, zipped
from ingestd_plugins.charset import clean
from ingestd_plugins.damage import cause, guarded
from ingestd_plugins.html import declared_encoding, page_elements

UNPACKED_LIMIT = 2 << 30
"""Bytes. One chapter at a time is held in memory; pictures are not unpacked."""
CHAPTER_LIMIT = 64 << 20
"""Bytes."""

_CONTAINER = "META-INF/container.xml"
_ENCRYPTION = "META-INF/encryption.xml"
_OBFUSCATED = frozenset({"http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC"})
"""Ways in which fonts are made unreadable; the text is not."""
_PAGES = frozenset({"application/xhtml+xml", "text/html", "application/x-dtbook+xml", "text/x-oeb1-document"})


class EpubLoader:
    name = "epub"
    version = "1"
    suffixes: Sequence[str] = (".epub",)
    media_types: Sequence[str] = ("application/epub+zip",)
    extracts = (
        "The chapters in reading order, each as `html` reads a page; title, author, language, publisher, subject, "
        "description"
    )
    omits = "Pictures, sounds, the table of contents"

    @guarded
    def load(self, file: File) -> Iterator[Element]:
        """Chapters as the book orders them; `page` is the chapter's number in that order. Pictures are left out."""
        if not file.size:
            raise DamagedFileError("the file is empty")
        zipped.check(file, self.name, UNPACKED_LIMIT)
        with zipfile.ZipFile(file.path) as archive:
            with ooxml.reading(file):
                _refuse_protected(archive)
                chapters = _Package(file, archive).chapters
            damaged = []
            number = 0
            errors: tuple[type[Exception], ...] = (DamagedFileError, *ooxml.content_errors())
            for chapter in chapters:
                number += 1
                try:
                    data = _member(archive, chapter)
                except errors as error:
                    damaged.append(f"{chapter} ({cause(error)[:150]})")
                    continue
                text = _decoded(data)
                title, file.title = file.title, None
                for element in page_elements(file, [text]):
                    if element.kind != "title":  # each page has one, that of the book or of the chapter
                        yield Element(element.text, element.kind, page=number, level=element.level)
                file.title = title or file.title
        if damaged and len(damaged) == number:
            raise DamagedFileError(f"damaged: no chapter can be read; the first is {damaged[0][:200]}")
        if damaged:
            file.warn(f"chapters that cannot be read: {', '.join(damaged[:20])}")


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [EpubLoader()]


def _member(archive: zipfile.ZipFile, name: str, limit: int = CHAPTER_LIMIT) -> bytes:
    """Raises `DamagedFileError` where it is not there, damaged or too large."""
    try:
        info = archive.getinfo(name)
        if info.file_size > limit:
            raise DamagedFileError(f"damaged: {name} is larger than {spell_size(limit)}")
        return archive.read(info)
    except KeyError:
        raise DamagedFileError(f"damaged: {name} is missing") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise DamagedFileError(f"damaged: {name}: {cause(error)[:150]}") from None


def _tree(data: bytes) -> Any:
    from lxml import etree

    return etree.fromstring(data, etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False))


def _refuse_protected(archive: zipfile.ZipFile) -> None:
    if _ENCRYPTION not in archive.NameToInfo:
        return
    for method in _tree(_member(archive, _ENCRYPTION)).iter("{*}EncryptedData"):
        for algorithm in method.iterchildren("{*}EncryptionMethod"):
            if algorithm.get("Algorithm") not in _OBFUSCATED:
                raise EncryptedFileError("it is copy-protected (DRM): no program but its reader can open it")


class _Package:
    """What the package document says: which chapters, in which order, and what the book is."""

    def __init__(self, file: File, archive: zipfile.ZipFile) -> None:
        root = next(_tree(_member(archive, _CONTAINER)).iter("{*}rootfile"), None)
        path = root.get("full-path") if root is not None else None
        if not path:
            raise DamagedFileError(f"damaged: {_CONTAINER} names no package")
        package = _tree(_member(archive, path))
        base = posixpath.dirname(path)
        items = {}
        for item in package.iterfind("{*}manifest/{*}item"):
            href = posixpath.normpath(posixpath.join(base, unquote(item.get("href", "")).partition("#")[0]))
            items[item.get("id")] = href, (item.get("media-type") or "").lower()
        self.chapters: list[str] = []
        for reference in package.iterfind("{*}spine/{*}itemref"):
            href, media_type = items.get(reference.get("idref"), ("", ""))
            if href and media_type in _PAGES and href not in self.chapters:
                self.chapters.append(href)
        if not self.chapters:  # a book without a spine is out of order, not unreadable
            self.chapters = sorted(href for href, media_type in items.values() if media_type in _PAGES)
        if not self.chapters:
            raise DamagedFileError("damaged: the book lists no chapter")
        _properties(file, package)


def _properties(file: File, package: Any) -> None:
    found: dict[str, list[str]] = {}
    for node in package.iterfind("{*}metadata/{http://purl.org/dc/elements/1.1/}*"):
        text = clean(" ".join((node.text or "").split()))
        if text:
            found.setdefault(node.tag.rpartition("}")[2], []).append(text)
    if "title" in found:
        file.title = found["title"][0][:1000]
    for key, name in (("creator", "author"), ("subject", "subject"), ("language", "language"),
                      ("publisher", "publisher"), ("description", "description")):  # fmt: skip
        if key in found:
            file.metadata[name] = ", ".join(found[key])[:1000]


def _decoded(data: bytes) -> str:
    """Chapters are UTF-8 or UTF-16 by the standard; some say otherwise."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace").replace("\ufffd", "")
    named = declared_encoding(data[:4096]) or "utf-8"
    try:
        return data.decode(named)
    except (LookupError, UnicodeDecodeError):
        return data.decode("utf-8", "replace")
