"""What is packed as a stream: tar archives, compressed or not, and single files under gzip, bzip2, xz or zstd."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from ingestd.errors import DamagedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader, Part
from ingestd_plugins.archives import decoded, inside, refused
from ingestd_plugins.damage import cause, guarded, of_content

MARKS = ((b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))
PACKED = (".gz", ".bz2", ".xz", ".zst")
_TAR_NAMES = re.compile(r"\.t(?:ar\.)?(?:gz|bz2|xz|zst)$", re.I)


class TarLoader:
    """Members in the order of the archive. Links, devices and directories are no members."""

    name = "tar"
    version = "1"
    suffixes: Sequence[str] = (
        ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.zst", ".tzst",
    )  # fmt: skip
    media_types: Sequence[str] = ("application/x-tar",)
    extracts = "Each member as a document of its own, see below"
    omits = "Directories, links, devices, sparse files"

    @guarded
    def load(self, file: File) -> Iterator[Element | Part]:
        found = 0
        try:
            with unpacked(file.path) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
                for member in archive:
                    if not member.isreg():
                        continue
                    yield _member(file, archive, member)
                    found += 1
                ending = vars(archive).get("ending", "")
                if vars(archive).get("open_end"):
                    file.warn("the archive has no end mark: it may be cut short")
        except damage() as error:
            if not of_content(error):
                raise
            ending = cause(error)
        if not ending:
            return
        if not found:
            raise DamagedFileError(f"damaged: {ending}")
        file.partial = f"damaged after member {found}: {ending}"


class PackedLoader:
    """The one file that it holds, by its name without the suffix."""

    name = "packed"
    version = "1"
    suffixes: Sequence[str] = PACKED
    media_types: Sequence[str] = ("application/gzip", "application/x-bzip2", "application/x-xz", "application/zstd")
    extracts = "The one file in it, by its name without the suffix, as a document of its own"
    omits = "The name and time that it was packed with"

    @guarded
    def load(self, file: File) -> Iterator[Element | Part]:
        with unpacked(file.path, must=True) as stream:
            yield file.part(_inner_name(file.name), stream)


class _Header(tarfile.TarInfo):
    """Notes why an archive ends: `tarfile` takes damage for its end."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Any:
        try:
            return super().fromtarfile(tarfile)
        except Exception as error:
            if type(error).__name__ == "EmptyHeaderError":
                tarfile.open_end = True
            elif type(error).__name__ in ("InvalidHeaderError", "TruncatedHeaderError", "SubsequentHeaderError"):
                tarfile.ending = cause(error)
            raise


def _member(file: File, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Part:
    raw = member.name.encode("utf-8", "surrogateescape")
    name = decoded([raw if not raw.isascii() else member.name])[0]
    name = name.removeprefix("./")
    if refusal := refused(name):
        return Part(inside(name), error=refusal)
    if member.issparse():
        return Part(name, error="it is a sparse file, mostly of nothing")
    content = archive.extractfile(member)
    assert content is not None
    part = file.part(name, cast(BinaryIO, content))
    if part.path is not None and part.path.stat().st_size < member.size:
        raise tarfile.ReadError(f"{name} is cut short")
    return part


def unpacked(path: Path, *, must: bool = False) -> BinaryIO:
    """A stream of the content; `must`: it is to be packed. Raises what `damage` names."""
    stream = path.open("rb")
    head = stream.read(8)
    stream.seek(0)
    kind = next((kind for mark, kind in MARKS if head.startswith(mark)), None)
    try:
        match kind:
            case "gzip":
                return cast(BinaryIO, gzip.GzipFile(fileobj=stream))
            case "bzip2":
                return cast(BinaryIO, bz2.BZ2File(stream))
            case "xz":
                return cast(BinaryIO, lzma.LZMAFile(stream))
            case "zstd":
                return cast(BinaryIO, _Zstd(stream))
    except BaseException:
        stream.close()
        raise
    if must:
        stream.close()
        raise EOFError("it does not begin as a packed file does" if head else "it is empty")
    return stream


class _Zstd(io.BufferedIOBase):
    """A zstd stream, of several frames too, that says when it was cut short: the library's own does not."""

    STEP = 1024
    """Bytes taken at once: a bomb makes 32 MiB of them, not more."""

    def __init__(self, source: BinaryIO) -> None:
        import zstandard

        self._new = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj
        self._frame: Any = None
        self._source = source
        self._rest = b""
        self._ready = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        pieces = []
        left = 1 << 62 if size is None or size < 0 else size
        while left and (self._ready or self._fill()):
            piece, self._ready = self._ready[:left], self._ready[left:]
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def _fill(self) -> bool:
        while not self._ready:
            block = self._rest or self._source.read(self.STEP)
            self._rest = b""
            if not block:
                if self._frame is not None:
                    raise EOFError("the stream ends before its end mark")
                return False
            if self._frame is None:
                self._frame = self._new()
            self._ready = self._frame.decompress(block)
            if self._frame.eof:
                self._rest = self._frame.unused_data
                self._frame = None
        return True

    def close(self) -> None:
        self._source.close()
        super().close()


def _inner_name(name: str) -> str:
    if _TAR_NAMES.search(name):  # a tar by its name, though none by its content
        return _TAR_NAMES.sub(".tar", name)
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in PACKED and stem else f"{name} unpacked"


def damage() -> tuple[type[BaseException], ...]:
    """What the libraries raise over damaged content."""
    found: list[type[BaseException]] = [tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError]
    try:
        import zstandard
    except ImportError:
        return tuple(found)
    return (*found, zstandard.ZstdError)


@hookimpl
def register_loaders() -> list[Loader]:
    return [TarLoader(), PackedLoader()]
