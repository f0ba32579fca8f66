"""Word and PowerPoint files from before 2007: LibreOffice makes new ones of them, which `word` and `slides` read."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ingestd.errors import DamagedFileError, EncryptedFileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Loader, Part
from ingestd_plugins.damage import guarded
from ingestd_plugins.slides import SlidesLoader
from ingestd_plugins.word import WordLoader

ROOM = 16 << 20
"""Bytes that must be free where a document was not converted, for that to be its own fault."""
_INSTALL = "apt-get install --no-install-recommends libreoffice-writer-nogui libreoffice-impress-nogui"
_PRESENTATIONS = frozenset({".ppt", ".pps", ".pot"})
_ENCRYPTED_WORD = 0x0100
_ENCRYPTED_SLIDES = 0xF3D1C4DF


_SETTINGS = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry">
<item oor:path="/org.openoffice.Office.Common/Security/Scripting">
<prop oor:name="BlockUntrustedRefererLinks" oor:op="fuse"><value>true</value></prop></item>
<item oor:path="/org.openoffice.Office.Common/Security/Scripting">
<prop oor:name="DisableActiveContent" oor:op="fuse"><value>true</value></prop></item>
</oor:items>
"""
"""Of a profile: what a document links to is not fetched, also where no sandbox forbids that."""


class LegacyLoader:
    name = "legacy"
    version = "1"
    suffixes: Sequence[str] = (".doc", ".dot", ".ppt", ".pps", ".pot")
    media_types: Sequence[str] = ("application/msword", "application/vnd.ms-powerpoint")
    programs: Sequence[str] = ("soffice",)
    install = f"LibreOffice: {_INSTALL}"
    extracts = (
        "What LibreOffice makes of them, as `word` and `slides` read it. Needs LibreOffice (`apt-get install "
        "--no-install-recommends libreoffice-writer-nogui libreoffice-impress-nogui`), which runs inside the "
        "sandbox and fetches nothing"
    )
    omits = "Macros are not run; Word files from before Word 97 may be refused"

    @guarded
    def load(self, file: File) -> Iterator[Element | Part]:
        """As the loaders of `.docx` and `.pptx` do."""
        slides = file.suffix in _PRESENTATIONS
        _check(file, slides)
        converted = _convert(file, "pptx" if slides else "docx")
        # The lists and tables are the same ones; only the title is set on the object itself.
        inner = dataclasses.replace(
            file, path=converted, suffix=converted.suffix, size=converted.stat().st_size, options={}
        )
        yield from (SlidesLoader() if slides else WordLoader()).load(inner)
        file.title, file.partial = inner.title, inner.partial


@hookimpl
def register_loaders() -> Iterable[Loader]:
    return [LegacyLoader()]


def _check(file: File, slides: bool) -> None:
    """Raises `EncryptedFileError`, `DamagedFileError`."""
    import olefile

    if not file.size:
        raise DamagedFileError("the file is empty")
    if not olefile.isOleFile(str(file.path)):
        raise DamagedFileError("damaged: it does not begin as an Office document from 1997 to 2003 does")
    stream = "Current User" if slides else "WordDocument"
    with olefile.OleFileIO(str(file.path)) as document:
        if document.exists("EncryptedSummary") or document.exists("EncryptedPackage"):
            raise EncryptedFileError("needs a password")
        if not document.exists(stream):
            raise DamagedFileError(f"damaged: it has no stream {stream!r}")
        head = document.openstream(stream).read(16)
    if len(head) < 16:
        raise DamagedFileError(f"damaged: its stream {stream!r} is cut short")
    if slides:
        if struct.unpack_from("<L", head, 12)[0] == _ENCRYPTED_SLIDES:
            raise EncryptedFileError("needs a password")
    elif struct.unpack_from("<H", head, 10)[0] & _ENCRYPTED_WORD:
        raise EncryptedFileError("needs a password")


def _convert(file: File, kind: str) -> Path:
    """The path of what LibreOffice makes of the file. Raises `DamagedFileError` where it makes nothing of it."""
    program = shutil.which(LegacyLoader.programs[0])
    assert program is not None  # else the file would not be here
    # Of this worker alone: two processes with one profile fail. Kept from file to file.
    profile = Path(os.environ["HOME"]) / "libreoffice"
    settings = profile / "user" / "registrymodifications.xcu"
    if not settings.exists():
        settings.parent.mkdir(parents=True, exist_ok=True)
        settings.write_text(_SETTINGS)
    target = file.scratch / f"converted.{kind}"
    source = file.scratch / f"original{file.suffix}"
    source.symlink_to(file.path)  # it looks for a lock file beside what it opens
    command = [
        sys.executable, "-I", "-S", str(Path(__file__).with_name("libreoffice.py")),
        os.path.dirname(os.path.realpath(program)), profile.as_uri(), source.as_uri(), target.as_uri(), kind,
    ]  # fmt: skip
    environment = {**os.environ, "TMPDIR": str(file.scratch), "SAL_USE_VCLPLUGIN": "svp"}
    with subprocess.Popen(
        command, cwd=file.scratch, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said = process.communicate()[0].decode(errors="replace")
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode == 0 and target.is_file() and target.stat().st_size:
        return target
    shutil.rmtree(profile, ignore_errors=True)  # it may be what is at fault
    room = os.statvfs(file.scratch)
    if room.f_bavail * room.f_frsize < ROOM:  # which LibreOffice does not say
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    raise DamagedFileError(f"damaged: LibreOffice makes nothing of it: {_last(said) or process.returncode}")


def _last(said: str) -> str:
    lines = [" ".join(line.split()) for line in said.splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
