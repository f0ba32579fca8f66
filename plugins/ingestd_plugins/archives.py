"""Archives: each member is a document of its own. Zip here; what is packed as a stream is in `streams`."""

from __future__ import annotations

import bz2
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader, Part
from ingestd_plugins.damage import cause, guarded, of_content

DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, ValueError, struct.error, IndexError)
"""What the libraries raise over damaged content, beside `NotImplementedError` and `RuntimeError`."""
UTF8 = 0x800
"""Flag of a zip's member: its name is UTF-8."""
ENCRYPTED = 0x1
AT_ONCE = 256 << 20
"""Bytes to which one piece of a member may unpack."""
LOCAL = 30
"""Bytes of a local header, without name and extra field."""
LEGACY = ("gb18030", "big5", "shift_jis", "euc_kr", "cp866")
"""Encodings of names that archivers without Unicode wrote, the likeliest first."""


class ZipLoader:
    """Members in the order of the archive's directory."""

    name = "zip"
    version = "1"
    suffixes: Sequence[str] = (".zip",)
    media_types: Sequence[str] = ("application/zip",)
    extracts = "Each member as a document of its own, see below; the archive's comment"
    omits = "Directories, encrypted members"

    @guarded
    def load(self, file: File) -> Iterator[Element | Part]:
        with zipfile.ZipFile(file.path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            overlapping = overlaps(archive)
            names = decoded([raw_name(member) for member in members])
            for member, name in zip(members, names, strict=True):
                if refusal := refused(name):
                    yield Part(inside(name), error=refusal)
                elif member.header_offset in overlapping:
                    yield Part(name, error="it overlaps another member of the archive")
                elif member.flag_bits & ENCRYPTED:
                    yield Part(name, error="needs a password")
                else:
                    yield self._member(file, archive, member, name)
            if archive.comment and archive.comment.strip():
                yield Element(archive.comment.decode("utf-8", "replace"), "note")

    def _member(self, file: File, archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: str) -> Part:
        try:
            with archive.open(member) as stream:
                if member.compress_type == zipfile.ZIP_BZIP2:
                    stream._decompressor = Bounded()  # type: ignore[attr-defined]
                return file.part(name, stream, packed=member.compress_size)  # type: ignore[arg-type]
        except NotImplementedError as error:
            return Part(name, error=f"cannot be unpacked: {cause(error)}")
        except (*DAMAGE, RuntimeError) as error:
            if not of_content(error):
                raise
            return Part(name, error=f"damaged: {cause(error)}")


class Bounded:
    """A decompressor of bzip2, of which zipfile asks no limit: a few bytes of it may come to gigabytes at once."""

    def __init__(self) -> None:
        self._inner = bz2.BZ2Decompressor()

    @property
    def eof(self) -> bool:
        return self._inner.eof

    def decompress(self, data: bytes) -> bytes:
        """Raises `zipfile.BadZipFile`."""
        found = self._inner.decompress(data, AT_ONCE)
        if len(found) == AT_ONCE and not self._inner.needs_input and not self._inner.eof:
            raise zipfile.BadZipFile(f"{len(data)} bytes of it unpack to more than {AT_ONCE}")
        return found


def overlaps(archive: zipfile.ZipFile) -> set[int]:
    """Where members begin that end behind the beginning of another one: the same bytes unpacked again and again."""
    places = sorted((member.header_offset, member.compress_size) for member in archive.infolist())
    found = set()
    for (start, size), (following, _) in pairwise([*places, (archive.start_dir, 0)]):
        if start + LOCAL + size > following:
            found.add(start)
    return found


def raw_name(member: zipfile.ZipInfo) -> str | bytes:
    """The name, or the bytes of one whose encoding the archive does not tell."""
    if member.flag_bits & UTF8:
        return member.orig_filename
    try:
        return member.orig_filename.encode("cp437")
    except UnicodeEncodeError:
        return member.orig_filename


def decoded(names: list[str | bytes]) -> list[str]:
    """All names of an archive; those without an encoding are of the same one, the first that fits all."""
    unknown = [name for name in names if isinstance(name, bytes) and not name.isascii()]
    encoding = next((each for each in ("utf-8", *LEGACY) if all(fits(name, each) for name in unknown)), "cp437")
    return [
        (name.decode(encoding, "replace") if isinstance(name, bytes) else name).replace("\\", "/").partition("\0")[0]
        for name in names
    ]


def fits(name: bytes, encoding: str) -> bool:
    """Whether it is a name in that encoding, of printable characters."""
    try:
        return name.decode(encoding).isprintable()
    except UnicodeDecodeError:
        return False


def refused(name: str) -> str | None:
    """Why a member of that name is not read. It is never written under its name; nobody means well with it."""
    if name.startswith("/") or name[1:3] == ":/":
        return f"its name is an absolute path: {name[:100]}"
    if ".." in name.split("/"):
        return f"its name leads out of the archive: {name[:100]}"
    return None


def inside(name: str) -> str:
    """What a refused name comes to when it stays in the archive, so that people can ask for it."""
    return "/".join(step for step in name.split("/") if step not in ("", ".", "..")) or "unnamed"


@hookimpl
def register_loaders() -> list[Loader]:
    return [ZipLoader()]
