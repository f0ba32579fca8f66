"""Run as a program of its own: `python libreoffice.py PROGRAMS PROFILE_URL SOURCE_URL TARGET_URL FORMAT`.

LibreOffice as a library (LibreOfficeKit), not as `soffice`: that one wants a socket in /tmp, starts a shell, a splash
screen and Java, and says nothing of what it failed at. Exit code 0: the target is written; else the last line says why.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

LIBRARIES = ("libmergedlo.so", "libsofficeapplo.so")
"""One of them has the entry, depending on who built it."""
GET_ERROR, LOAD = 3, 4
"""Places in the office's table of functions, which starts with its size."""
SAVE = 2
"""In a document's."""
NEW_USER, NEW_NETWORK = 0x10000000, 0x40000000


def _function(this: int, place: int, result: type, *arguments: type) -> Any:
    table = ctypes.cast(this, ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))[0]
    address = table[place]
    if not address:
        sys.exit("LibreOffice is too old or too new: it lacks a function")
    return ctypes.CFUNCTYPE(result, ctypes.c_void_p, *arguments)(address)


def convert(programs: str, profile: str, source: str, target: str, kind: str) -> str:
    """Empty where the target was written, else why not."""
    for name in LIBRARIES:
        path = os.path.join(programs, name)
        if os.path.exists(path) and hasattr(library := ctypes.CDLL(path, ctypes.RTLD_GLOBAL), "libreofficekit_hook_2"):
            break
    else:
        return f"there is no LibreOfficeKit in {programs}"
    library.libreofficekit_hook_2.restype = ctypes.c_void_p
    office = library.libreofficekit_hook_2(programs.encode(), profile.encode())
    if not office:
        return "LibreOffice does not start"
    text = ctypes.c_char_p
    document = _function(office, LOAD, ctypes.c_void_p, text, text)(office, source.encode(), b"")
    saved = document and _function(document, SAVE, ctypes.c_int, text, text, text)(
        document, target.encode(), kind.encode(), b""
    )
    if saved:
        return ""
    error = _function(office, GET_ERROR, text)(office)
    return (error or b"").decode(errors="replace") or "it cannot be read"


def leave_network() -> None:
    """To fetch what a document links to takes more than a loopback interface that is down. Where the kernel refuses,
    the sandbox, which may be off, and the profile's settings have to do."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.unshare(NEW_NETWORK):
        library.unshare(NEW_USER | NEW_NETWORK)


if __name__ == "__main__":
    leave_network()
    failure = convert(*sys.argv[1:6])
    sys.stdout.write(failure)
    sys.stdout.flush()
    os._exit(1 if failure else 0)  # its threads would go on
