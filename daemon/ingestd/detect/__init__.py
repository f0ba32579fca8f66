"""What a file is, and who loads it: the suffix first, checked against the first bytes.

A suffix is a promise. It is kept where the bytes do not contradict it, so that `.csv` stays a table although its bytes
are plain text; it is broken where they do, so that a PDF called `.txt` goes to the PDF loader and a program called
`.txt` goes to nobody.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import BinaryIO, NamedTuple

from ingestd.detect.signatures import (
    CONTAINERS,
    ENCRYPTED,
    HTML,
    MEDIA_TYPES,
    OLE,
    PDF,
    TEXT,
    UNKNOWN,
    XML,
    ZIP,
    canonical_suffix,
    is_text,
    signature,
    textual,
)
from ingestd.types import Loader

HEAD = 8192
"""Bytes that decide whether a file is text; no signature lies deeper."""
CONTAINER_LIMIT = 256 << 10
"""The most bytes read of a container's directory."""


class Detected(NamedTuple):
    """`loader` is None where nobody takes the file; `suffix` is the one that a loader's alias should have."""

    media_type: str
    loader: str | None
    suffix: str


class Detector:
    """Routes files to loaders. Built once for a process, used for each file.

    `suffixes`, which a person configured, come before what a loader says that it `overrides`, and that comes before
    `suffixes` of loaders. Among loaders that claim the same suffix or media type the first in `loaders` wins.
    """

    def __init__(
        self,
        loaders: Mapping[str, Loader],
        suffixes: Mapping[str, Sequence[str]] | None = None,
        disabled: Collection[str] = (),
    ) -> None:
        self._suffixes: dict[str, str] = {}
        self._media_types: dict[str, str] = {}
        self._promises: dict[str, str | None] = {}
        active = {name: loader for name, loader in loaders.items() if name not in disabled}
        for name, extra in (suffixes or {}).items():
            if name in active:
                for suffix in extra:
                    suffix = suffix.lower()
                    self._suffixes.setdefault(suffix if suffix.startswith(".") else f".{suffix}", name)
        for name, loader in active.items():
            for suffix in getattr(loader, "overrides", ()):
                self._suffixes.setdefault(suffix, name)
        for name, loader in active.items():
            for suffix in loader.suffixes:
                self._suffixes.setdefault(suffix, name)
            for media_type in loader.media_types:
                self._media_types.setdefault(media_type, name)
        for suffix, name in self._suffixes.items():
            self._promises[suffix] = _promise(suffix, active[name])

    @property
    def takers(self) -> Mapping[str, str]:
        """The loader that takes each suffix."""
        return self._suffixes

    def detect(self, stream: BinaryIO, name: str) -> Detected:
        """Read the beginning of `stream` (a seekable file) and, of a container, its directory. `name`: the real one.

        Raises nothing but the stream's own `OSError`. The stream's position afterwards is unspecified.
        """
        suffix = self._suffix(name)
        stream.seek(0)
        head = stream.read(HEAD)
        if not head:
            return self._unchecked(suffix)
        found = self._content(stream, head, suffix)
        if found is not None:
            return self._by_content(found, suffix)
        if is_text(head):
            return self._by_text(head, suffix)
        promised = self._promises.get(suffix)
        if suffix in self._suffixes and not (promised and textual(promised)):
            return self._unchecked(suffix)  # damaged: its loader will say how
        return Detected(UNKNOWN, None, suffix)

    def _suffix(self, name: str) -> str:
        """The longest claimed suffix (".tar.gz" before ".gz"), else the last; "" for what only looks like one."""
        _, *parts = name.lower().lstrip(".").split(".")
        for start in range(max(0, len(parts) - 3), len(parts)):
            suffix = "." + ".".join(parts[start:])
            if suffix in self._suffixes:
                return suffix
        last = parts[-1] if parts else ""
        return f".{last}" if _LOOKS_LIKE_SUFFIX.fullmatch(last) else ""

    def _content(self, stream: BinaryIO, head: bytes, suffix: str) -> str | None:
        found = signature(head)
        if found == ZIP:
            return _zip_type(stream, head)
        if found == OLE:
            return _ole_type(stream, head)
        if found is None and b"%PDF-" in head[:1024] and (self._promises.get(suffix) == PDF or not is_text(head)):
            return PDF  # readers accept a header anywhere in the first kilobyte
        return found

    def _by_content(self, found: str, suffix: str) -> Detected:
        own = self._suffixes.get(suffix)
        promised = self._promises.get(suffix)
        if found == ENCRYPTED:
            fitting = promised if promised in _OOXML_TYPES else _OOXML_TYPES[0]
            return Detected(ENCRYPTED, self._media_types.get(fitting), suffix if promised in _OOXML_TYPES else ".docx")
        loader = self._media_types.get(found)
        if own is not None and (
            own == loader
            or promised is None  # only its own plugin knows what the suffix promises
            or found == promised
            or (loader is not None and loader == self._media_types.get(promised))  # a sibling, as .docm is of .docx
            or (found in CONTAINERS and not textual(promised))  # which may hold what was promised
        ):
            return self._unchecked(suffix)
        if loader is None:
            return Detected(found, None, suffix)
        return Detected(found, loader, canonical_suffix(found) or suffix)

    def _by_text(self, head: bytes, suffix: str) -> Detected:
        own = self._suffixes.get(suffix)
        promised = self._promises.get(suffix)
        if own is not None and (promised is None or textual(promised)):
            return self._unchecked(suffix)
        if promised == PDF and _PDF_BODY.search(head):
            return self._unchecked(suffix)  # a PDF that lost its head is damaged, not text
        if _HTML_START.match(head):
            return Detected(HTML, self._media_types.get(HTML), ".html")
        if _XML_START.match(head) and XML in self._media_types:
            return Detected(XML, self._media_types[XML], ".xml")
        if own is None and suffix:
            return Detected(MEDIA_TYPES.get(suffix, TEXT), None, suffix)  # text in a format of its own
        return Detected(TEXT, self._media_types.get(TEXT), ".txt")

    def _unchecked(self, suffix: str) -> Detected:
        own = self._suffixes.get(suffix)
        if own is None:
            return Detected(MEDIA_TYPES.get(suffix, UNKNOWN if suffix else TEXT), None, suffix)
        return Detected(MEDIA_TYPES.get(suffix) or self._promises.get(suffix) or UNKNOWN, own, suffix)


def detect(stream: BinaryIO, name: str, loaders: Mapping[str, Loader]) -> Detected:
    """One file, without settings; see `Detector`."""
    return Detector(loaders).detect(stream, name)


_LOOKS_LIKE_SUFFIX = re.compile(r"(?=.*[a-z])[a-z0-9_+-]{1,12}")
"""`report.2024`, `v1. A new hope` and `README` have none."""
_HTML_START = re.compile(rb"(?:\xef\xbb\xbf)?\s*(?:<!--.{0,2000}?-->\s*)*(?:<!doctype\s+html|<html[\s>])", re.I | re.S)
_XML_START = re.compile(rb"(?:\xef\xbb\xbf)?<\?xml\s")
_PDF_BODY = re.compile(rb"\d+ \d+ obj\b")
_OOXML_TYPES = (MEDIA_TYPES[".docx"], MEDIA_TYPES[".pptx"], MEDIA_TYPES[".xlsx"])


def _promise(suffix: str, loader: Loader) -> str | None:
    """The media type that a suffix promises; None where only its own loader knows."""
    if suffix in MEDIA_TYPES:
        return MEDIA_TYPES[suffix]
    types = loader.media_types
    return types[0] if types and all(textual(media_type) for media_type in types) else None


# --- containers -----------------------------------------------------------------------------------------------

_END = struct.Struct("<4s4H2LH")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ZIP_MARKS = (
    (b"word/", MEDIA_TYPES[".docx"]),
    (b"ppt/", MEDIA_TYPES[".pptx"]),
    (b"xl/", MEDIA_TYPES[".xlsx"]),
)


def _zip_type(stream: BinaryIO, head: bytes) -> str:
    """The type of a zip, from its members' names and nothing that would have to be decompressed for long."""
    local = _local_names(head)
    if local[:1] == [b"mimetype"]:  # OpenDocument and EPUB: stored first, uncompressed
        length = _LOCAL.unpack_from(head)[7]
        start = _LOCAL.size + len(b"mimetype") + _LOCAL.unpack_from(head)[10]
        declared = head[start : start + min(length, 100)]
        if re.fullmatch(rb"[a-z]+/[a-z0-9.+-]+", declared):
            return declared.decode()
    names = _central_names(stream) or local
    if b"xl/workbook.bin" in names:
        return MEDIA_TYPES[".xlsb"]
    if b"[Content_Types].xml" in names or b"_rels/.rels" in names:
        for prefix, media_type in _ZIP_MARKS:
            if any(name.startswith(prefix) for name in names):
                return media_type
    return ZIP


def _local_names(head: bytes) -> list[bytes]:
    """Names in the local headers that the head holds; a zip that was cut short has no others."""
    names = []
    position = head.find(b"PK\x03\x04")
    while 0 <= position <= len(head) - _LOCAL.size:
        length = _LOCAL.unpack_from(head, position)[9]
        names.append(head[position + _LOCAL.size : position + _LOCAL.size + length])
        position = head.find(b"PK\x03\x04", position + 4)
    return names


def _central_names(stream: BinaryIO) -> set[bytes]:
    size = stream.seek(0, 2)
    for length in (_END.size, 65535 + _END.size):  # without a comment, which is nearly always; with one
        start = max(0, size - length)
        stream.seek(start)
        tail = stream.read(min(size, length))
        position = tail.rfind(b"PK\x05\x06")
        if 0 <= position <= len(tail) - _END.size:
            break
    else:
        return set()
    directory_size, directory = _END.unpack_from(tail, position)[5:7]
    # Bytes before the archive shift every offset, so count back from the end record.
    begin = start + position - directory_size
    stream.seek(begin if begin >= 0 else min(directory, size))
    data = stream.read(min(directory_size, CONTAINER_LIMIT))
    names = set()
    position = 0
    while position <= len(data) - _ENTRY.size:
        entry = _ENTRY.unpack_from(data, position)
        if entry[0] != b"PK\x01\x02":
            break
        name_length, extra_length, comment_length = entry[10:13]
        position += _ENTRY.size
        names.add(data[position : position + name_length])
        position += name_length + extra_length + comment_length
    return names


_OLE_MARKS = (
    ("EncryptedPackage", ENCRYPTED),
    ("WordDocument", MEDIA_TYPES[".doc"]),
    ("PowerPoint Document", MEDIA_TYPES[".ppt"]),
    ("Workbook", MEDIA_TYPES[".xls"]),
    ("Book", MEDIA_TYPES[".xls"]),
    ("__properties_version1.0", MEDIA_TYPES[".msg"]),
)


def _ole_type(stream: BinaryIO, head: bytes) -> str:
    """The type of an OLE compound file, from the stream names in its directory."""
    if len(head) < 512:
        return OLE
    shift = struct.unpack_from("<H", head, 30)[0]
    if shift not in (9, 12):
        return OLE
    size = 1 << shift
    tables = struct.unpack_from("<109L", head, 76)
    (sector,) = struct.unpack_from("<L", head, 48)
    names: set[str] = set()
    for _ in range(CONTAINER_LIMIT // size):
        if sector >= 0xFFFFFFFA:
            break
        stream.seek((sector + 1) * size)
        data = stream.read(size)
        for offset in range(0, len(data) - 127, 128):
            length = min(struct.unpack_from("<H", data, offset + 64)[0], 64)
            names.add(data[offset : offset + max(0, length - 2)].decode("utf-16-le", "replace"))
        table, index = divmod(sector, size // 4)
        if table >= len(tables) or tables[table] >= 0xFFFFFFFA:
            break
        stream.seek((tables[table] + 1) * size + 4 * index)
        link = stream.read(4)
        if len(link) < 4:
            break
        (sector,) = struct.unpack("<L", link)
    return next((media_type for mark, media_type in _OLE_MARKS if mark in names), OLE)
