"""Files that somebody put into a document: objects of Office documents, attachments of PDF."""

from __future__ import annotations

import posixpath
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

from ingestd.types import File, Part
from ingestd_plugins.archives import decoded
from ingestd_plugins.damage import cause

_PLACE = re.compile(r"(?:word|ppt|xl)/embeddings/[^/]+")
_PICTURE = re.compile(r"(?:word|ppt|xl)/media/[^/]+\.(?:png|jpe?g|tiff?|bmp|gif|webp)", re.I)
_CHARTS = re.compile(r"(?:word|ppt|xl)/(?:charts|diagrams)/_rels/[^/]+\.rels")
_TARGET = re.compile(rb'Target="([^"]+)"')
_MOST_RELATIONS = 1 << 20
_NATIVE = ["\x01Ole10Native"]
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, LookupError, struct.error, TypeError, AttributeError)


def of_office(file: File) -> Iterator[Part]:
    """The objects of a .docx, .pptx or .xlsx that are files, without the tables behind its charts.

    With the option `pictures` its pictures, too.
    """
    try:
        archive = zipfile.ZipFile(file.path)
    except (*DAMAGE, OSError):
        return  # whoever reads the document says so
    with archive:
        charts = set(_behind_charts(archive))
        for member in archive.infolist():
            picture = bool(file.options.get("pictures")) and _PICTURE.fullmatch(member.filename)
            if not picture and (not _PLACE.fullmatch(member.filename) or member.filename in charts):
                continue
            name = posixpath.basename(member.filename)
            try:
                if member.file_size > file.allowance.part:
                    yield Part(name, error=f"larger than max_file_size: the limit is {file.allowance.part} bytes")
                elif name.endswith(".bin"):
                    found = of_object(archive.read(member))
                    if found is not None:
                        yield file.part(found[0] or name, found[1])
                else:
                    with archive.open(member) as content:
                        yield file.part(name, content, packed=member.compress_size)  # type: ignore[arg-type]
            except (*DAMAGE, NotImplementedError, RuntimeError) as error:
                yield Part(name, error=f"damaged: {cause(error)}")


def _behind_charts(archive: zipfile.ZipFile) -> Iterator[str]:
    for member in archive.infolist():
        if _CHARTS.fullmatch(member.filename) and member.file_size < _MOST_RELATIONS:
            base = posixpath.dirname(posixpath.dirname(member.filename))
            try:
                targets = _TARGET.findall(archive.read(member))
            except (*DAMAGE, NotImplementedError, RuntimeError):
                continue
            yield from (
                posixpath.normpath(posixpath.join(base, target.decode("utf-8", "replace"))) for target in targets
            )


def of_object(data: bytes) -> tuple[str, bytes] | None:
    """Name and content of the file in an OLE object; None where it holds none."""
    import olefile

    try:
        with olefile.OleFileIO(data) as ole:
            if ole.exists(_NATIVE):
                return native(ole.openstream(_NATIVE).read())
            for stream in ("Package", "CONTENTS"):
                if ole.exists(stream):
                    return "", ole.openstream(stream).read()
    except OSError as error:
        raise ValueError(cause(error)) from None
    return None


def native(data: bytes) -> tuple[str, bytes]:
    """The stream of a file that was dropped into a document: its label, its old path twice, its content."""
    position = 6
    texts = []
    for step in (0, 0, 8):  # label, path; then flags, a length and the temporary path
        position += step
        end = data.index(b"\0", position)
        texts.append(data[position:end])
        position = end + 1
    (size,) = struct.unpack_from("<L", data, position)
    content = data[position + 4 : position + 4 + size]
    name = decoded([texts[0] or texts[1]])[0].rpartition("/")[2]
    return name, content


def _mended(name: str) -> str:
    """PyMuPDF gives UTF-8 as if it were Latin-1."""
    try:
        return name.encode("latin-1").decode()
    except UnicodeError:
        return name


def of_pdf(file: File, document: Any) -> Iterator[Part]:
    """Attachments of a PDF that pymupdf has opened."""
    try:
        names = list(document.embfile_names())
    except (RuntimeError, *DAMAGE):
        return
    for number, name in enumerate(names):
        name = str(name)
        try:
            info = document.embfile_info(number)
            name = _mended(str(info.get("ufilename") or info.get("filename") or name)).rpartition("/")[2] or name
            if info.get("length", 0) > file.allowance.part:
                yield Part(name, error=f"larger than max_file_size: the limit is {file.allowance.part} bytes")
                continue
            content = document.embfile_get(number)
        except (RuntimeError, *DAMAGE) as error:
            yield Part(name, error=f"damaged: {cause(error)}")
            continue
        yield file.part(name, content)
