"""Real mounts for tests. Where this machine does not permit one, the test is skipped."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MS_BIND = 0x1000
MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def mount(what: Path | str, where: Path, kind: str = "tmpfs", flags: int = 0, data: str = "") -> None:
    """mount(2); skips the test where it is not permitted."""
    where.mkdir(parents=True, exist_ok=True)
    arguments = [str(what).encode(), os.fsencode(where), kind.encode(), flags, data.encode()]
    if _libc.mount(*arguments):
        reason = os.strerror(ctypes.get_errno())
        if os.geteuid() != 0 or "permitted" in reason:
            pytest.skip(f"cannot be had: a mount: {reason}")
        raise OSError(f"mounting {kind} on {where}: {reason}")


def unmount(where: Path) -> None:
    """Waits while something there is in use, as a person at the keyboard would."""
    deadline = time.monotonic() + 60
    while _libc.umount2(os.fsencode(where), 0):
        assert time.monotonic() < deadline, f"{where}: {os.strerror(ctypes.get_errno())}"
        time.sleep(0.05)


def detach(where: Path) -> None:
    """Unmount whatever is there, in use or not."""
    while not _libc.umount2(os.fsencode(where), MNT_DETACH):
        pass


@contextlib.contextmanager
def unmounted_after(*places: Path) -> Iterator[None]:
    """Whatever was mounted on these places, once or several times, is not when this ends."""
    try:
        yield
    finally:
        for place in places:
            detach(place)


class Disk:
    """An ext4 file system in a file: unlike a tmpfs, it has its files still when it is mounted again."""

    def __init__(self, image: Path, size: int = 8 << 20) -> None:
        self.image = image
        image.touch()
        os.truncate(image, size)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", str(image)], check=True)

    def mount(self, where: Path) -> None:
        where.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-o", "loop", str(self.image), str(where)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"cannot be had: a loop device: {done.stderr}")

    @contextlib.contextmanager
    def elsewhere(self, where: Path) -> Iterator[Path]:
        """The disk in another machine, so to speak."""
        self.mount(where)
        try:
            yield where
        finally:
            unmount(where)


@contextlib.contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    """A file system that is soon full."""
    with unmounted_after(path):
        mount("small", path, data=f"size={size}")
        yield path


def fill(disk: Path) -> Path:
    """A file that takes up all the room there is."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler
