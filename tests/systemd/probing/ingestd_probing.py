"""A loader that does what a file says: `attempts` tries to break out, `warn` warns as a C library, `hoard`, `slow`.

And an engine whose model takes `HEAVY` seconds to load.
"""

from __future__ import annotations

import ctypes
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File
from ingestd_plugins.hashing import HashingEngine

HEAVY = 25


def _unshare() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000) != 0:  # CLONE_NEWUSER
        raise OSError(ctypes.get_errno(), "unshare")


def _write(path: Path) -> None:
    path.write_text("x")
    path.unlink()


ATTEMPTS: dict[str, Callable[[], object]] = {
    "journal": lambda: Path("/var/lib/ingestd/journal.sqlite").read_bytes(),
    "credential": lambda: Path("/run/credentials/ingestd.service/key").read_bytes(),
    "environment": lambda: Path(f"/proc/{os.getppid()}/environ").read_bytes(),
    "write": lambda: _write(Path("/var/lib/ingestd/broken-out")),
    "socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
    "namespace": _unshare,
}


class ProbingLoader:
    name = "probing"
    version = "1"
    suffixes = (".probe",)
    media_types = ("application/x-probe",)

    def load(self, file: File) -> Iterator[Element]:
        what, _, rest = file.path.read_text().strip().partition(" ")
        if what == "attempts":
            for name, attempt in ATTEMPTS.items():
                try:
                    attempt()
                except OSError:
                    yield Element(f"{name} was refused")
                else:
                    yield Element(f"{name} was allowed")
        elif what == "warn":
            os.write(2, f"libprobe: {rest} without a newline".encode())
            yield Element("it warned")
        elif what == "hoard":
            hoard = []
            for _ in range(int(rest)):
                hoard.append(os.urandom(1 << 20))
            time.sleep(3)
            yield Element("it fitted")
        elif what == "slow":
            for _ in range(int(rest) * 10):
                time.sleep(0.1)
                yield Element("")
            yield Element("slowly done")


@hookimpl
def register_loaders() -> list[ProbingLoader]:
    return [ProbingLoader()]


class HeavyEngine(HashingEngine):
    name = "heavy"

    def load(self, model: str, device: str, options: Mapping[str, Any]) -> None:
        time.sleep(HEAVY)
        super().load("hashing", device, options)


@hookimpl
def register_engines() -> list[HeavyEngine]:
    return [HeavyEngine()]
