"""What formats in a zip share: one that is cut short, encrypted, or a bomb is refused before it is decompressed."""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import BinaryIO

from ingestd.config.units import parse_size, spell_size
from ingestd.errors import ConfigError, DamagedFileError, EncryptedFileError, LimitError
from ingestd.types import File
from ingestd_plugins.damage import cause

MEMBERS = 65_535
GROWTH = 1032
"""Times its size that DEFLATE makes of what is packed, at the most."""
HARMLESS = 64 << 20
"""Bytes that a member may come to, whatever it says."""
STEP = 1 << 20


def check(file: File, loader: str, default: int) -> list[zipfile.ZipInfo]:
    """The members of a zip that may be opened.

    `default`: bytes of all members together, unpacked, where `max_unpacked` says nothing else.
    Raises `EncryptedFileError`, `DamagedFileError`, `LimitError`.
    """
    limit = unpacked_limit(file, default)
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
        place = f"max_unpacked in [load.{loader}]"
        raise LimitError(f"{spell_size(size)} when unpacked; the limit is {spell_size(limit)} ({place})")
    with file.path.open("rb") as stream:
        for member in members:
            _refuse_dishonest(stream, member)
    return members


def _refuse_dishonest(stream: BinaryIO, member: zipfile.ZipInfo) -> None:
    """Refuse a member that unpacks to more than the directory says: libraries unpack all of it before they look."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DamagedFileError(f"damaged: {member.filename[:100]} is packed in a way that the format does not have")
    if member.compress_type == zipfile.ZIP_STORED or member.compress_size * GROWTH <= HARMLESS:
        return
    stream.seek(member.header_offset + 26)
    lengths = stream.read(4)
    if len(lengths) < 4:
        return  # cut short, which whoever reads it says
    stream.seek(sum(struct.unpack("<2H", lengths)), 1)
    unpacker = zlib.decompressobj(-15)
    left, size, block = member.compress_size, 0, b""
    while not unpacker.eof and size <= member.file_size:
        block = unpacker.unconsumed_tail or stream.read(min(left, STEP))
        left -= 0 if unpacker.unconsumed_tail else len(block)
        if not block:
            return
        try:
            size += len(unpacker.decompress(block, STEP))
        except zlib.error:
            return
    if size > member.file_size:
        raise DamagedFileError(f"damaged: {member.filename[:100]} is larger than the file says")


def unpacked_limit(file: File, default: int) -> int:
    """`max_unpacked` of the loader's options, in bytes. Raises `ConfigError` where it is no size."""
    value = file.options.get("max_unpacked", default)
    try:
        size = parse_size(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ConfigError(f"max_unpacked: {error}") from None
    if not isinstance(size, int) or size <= 0:
        raise ConfigError(f'max_unpacked: {value!r} is no size; write one as "512MiB"')
    return size
