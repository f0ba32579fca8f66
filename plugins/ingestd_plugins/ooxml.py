"""What the three Office formats share: a zip that may be encrypted, cut short, or a bomb."""

from __future__ import annotations

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from ingestd.errors import DamagedFileError, EncryptedFileError, FileError, LimitError
from ingestd.types import File

_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SCAN = 1 << 20
MEMBERS = 65_535


def check(file: File, limit: int) -> None:
    """Refuse what must not be opened, before any of it is decompressed.

    `limit`: bytes of all members together, unpacked. Raises `EncryptedFileError`, `DamagedFileError`, `LimitError`.
    """
    with file.path.open("rb") as stream:
        head = stream.read(8)
    if not head:
        raise DamagedFileError("the file is empty")
    if head == _OLE:
        if _mentions(file.path, "EncryptedPackage".encode("utf-16-le")):
            raise EncryptedFileError("needs a password")
        raise DamagedFileError("not an Office Open XML file, but an older Office format")
    try:
        with zipfile.ZipFile(file.path) as archive:
            members = archive.infolist()
        end = file.path.stat().st_size
        if any(not 0 <= member.header_offset < end for member in members):
            raise ValueError("its directory points outside of the file")
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, EOFError) as error:
        raise DamagedFileError(f"damaged: {cause(error)}") from None
    if len(members) > MEMBERS:
        raise LimitError(f"{len(members)} members; the limit is {MEMBERS}")
    if any(member.flag_bits & 1 for member in members):
        raise EncryptedFileError("needs a password")
    size = sum(member.file_size for member in members)
    if size > limit:
        raise LimitError(f"{size} bytes when unpacked; the limit is {limit} (max_unpacked in [load.NAME] sets another)")
    if not any(member.filename == "[Content_Types].xml" for member in members):
        raise DamagedFileError("damaged: [Content_Types].xml is missing")


def unpacked_limit(file: File, default: int) -> int:
    """`max_unpacked` of the loader's options, in bytes."""
    value = file.options.get("max_unpacked", default)
    return value if isinstance(value, int) and value > 0 else default


@contextlib.contextmanager
def reading(file: File) -> Iterator[None]:
    """Turn `content_errors` into `DamagedFileError`."""
    try:
        yield
    except FileError:
        raise
    except content_errors() as error:
        raise DamagedFileError(f"damaged: {cause(error)}") from error


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


def cause(error: BaseException) -> str:
    """One line that says what is wrong."""
    text = " ".join(str(error.args[0] if isinstance(error, KeyError) and error.args else error).split())
    return text[:300] or type(error).__name__


def _mentions(path: Path, mark: bytes) -> bool:
    with path.open("rb") as stream:
        tail = b""
        while block := stream.read(_SCAN):
            if mark in tail + block:
                return True
            tail = block[-len(mark) :]
    return False
