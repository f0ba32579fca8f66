"""What the three Office formats share: a zip that may be encrypted, cut short, or a bomb."""

from __future__ import annotations

import contextlib
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from ingestd.errors import DamagedFileError, EncryptedFileError, FileError
from ingestd.types import File
from ingestd_plugins import zipped
from ingestd_plugins.damage import cause

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SCAN = 1 << 20

T = TypeVar("T")


def check(file: File, loader: str, default: int) -> None:
    """Refuse what must not be opened, before any of it is decompressed.

    `default`: bytes of all members together, unpacked, where `max_unpacked` says nothing else.
    Raises `EncryptedFileError`, `DamagedFileError`, `LimitError`.
    """
    with file.path.open("rb") as stream:
        head = stream.read(8)
    if not head:
        raise DamagedFileError("the file is empty")
    if head == _OLE:
        if _mentions(file.path, "EncryptedPackage".encode("utf-16-le")):
            raise EncryptedFileError("needs a password")
        raise DamagedFileError("not an Office Open XML file, but an older Office format")
    members = zipped.check(file, loader, default)
    if not any(member.filename == "[Content_Types].xml" for member in members):
        raise DamagedFileError("damaged: [Content_Types].xml is missing")


@contextlib.contextmanager
def reading(file: File) -> Iterator[None]:
    """Turn `content_errors` into `DamagedFileError`."""
    try:
        yield
    except FileError:
        raise
    except content_errors() as error:
        raise DamagedFileError(f"damaged: {cause(error)}") from error


def opened(file: File, open_package: Callable[[str], T], expendable: Sequence[str] = ()) -> T:
    """The package that `open_package` makes of the file's path.

    The libraries refuse a file over one lost picture or one damaged style; then it is opened once more without what
    is lost and without the `expendable` members, with a warning. Raises `DamagedFileError`.
    """
    with reading(file):
        try:
            return open_package(str(file.path))
        except content_errors():
            mended, left_out = _mended(file, expendable)
            if not left_out:
                raise
        package = open_package(str(mended))
    file.warn(f"missing or damaged in the file: {', '.join(sorted(left_out)[:20])}")
    return package


def _mended(file: File, expendable: Sequence[str]) -> tuple[Path, set[str]]:
    """A copy in which nothing refers to members that are not there or are no XML, and the names of those."""
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    target = file.scratch / f"mended{file.suffix}"
    left_out: set[str] = set()
    with zipfile.ZipFile(file.path) as source, zipfile.ZipFile(target, "w") as copy:
        good: dict[str, bytes] = {}
        for member in source.infolist():
            if member.filename in expendable:
                left_out.add(member.filename)
                continue
            try:
                data = source.read(member)
                if member.filename.endswith((".xml", ".rels")):
                    etree.fromstring(data, parser)
            except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError, etree.XMLSyntaxError):
                continue
            good[member.filename] = data
        for name, data in good.items():
            if name.endswith(".rels"):
                root = etree.fromstring(data, parser)
                base = posixpath.dirname(posixpath.dirname(name))
                for relation in list(root):
                    path = posixpath.normpath(posixpath.join("/", base, relation.get("Target", ""))).lstrip("/")
                    if relation.get("TargetMode") != "External" and path not in good:
                        left_out.add(path)
                        root.remove(relation)
                data = etree.tostring(root)
            copy.writestr(name, data)
    return target, left_out


def content_errors() -> tuple[type[Exception], ...]:
    """What the format libraries raise over a file's content.

    They have no error of their own for most kinds of damage: a lost part is a `KeyError`, a bad attribute a
    `ValueError`, an element out of place an `AttributeError`. Lack of memory, recursion and system errors are not
    among them.
    """
    from lxml import etree

    return (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        etree.LxmlError,
        SyntaxError,  # xml.etree's ParseError is one
        LookupError,
        ValueError,
        TypeError,
        AttributeError,
        AssertionError,
        EOFError,
        NotImplementedError,
        OverflowError,
    )


def _mentions(path: Path, mark: bytes) -> bool:
    with path.open("rb") as stream:
        tail = b""
        while block := stream.read(_SCAN):
            if mark in tail + block:
                return True
            tail = block[-len(mark) :]
    return False
