"""A file system that passes a real directory through, and stands still, dawdles or fails when a test says so.

The file system runs in a process of its own (this file as a script), so that a test can kill it. It does what the
files of its control directory say, which are looked at with every operation:

- `hang`: a path in it; operations on that path and below it wait until the file is gone.
- `stall`: a path; opening and reading files on that path and below it wait, but they can be listed and looked at.
- `slow`: seconds that each operation takes longer.
- `fail`: an errno and a path; operations on that path and below it fail.
- `halfway`: a path; listing that directory fails with EIO after the first half of its entries.

Nothing is cached by the kernel, and inode numbers are those of the real directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.mounting import detach
from tests.processes.watched import files


def missing() -> str | None:
    """Why no such file system can be mounted; None: it can."""
    if os.geteuid() != 0:
        return "cannot be had: root, who alone may mount"
    if not os.path.exists("/dev/fuse"):
        return "cannot be had: /dev/fuse"
    try:
        import mfusepy  # noqa: F401
    except ImportError:
        return "mfusepy is not installed (the extra test)"
    except OSError:
        return "libfuse is not installed (Debian's package libfuse2)"
    return None


class FuseFolder:
    """The test's side: `real`, passed through at `point`. Use `mounted`."""

    def __init__(self, real: Path, point: Path, control: Path) -> None:
        self.real = real
        self.point = point
        self.control = control
        for directory in (real, point, control):
            directory.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def mount(self) -> None:
        """Returns once it is mounted."""
        device = self.point.stat().st_dev
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(self.real), str(self.point), str(self.control)],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 60
        while self.point.stat().st_dev == device:
            assert self._process.poll() is None, "the file system ended"
            assert time.monotonic() < deadline, "the file system was not mounted"
            time.sleep(0.02)

    def files(self) -> dict[str, str]:
        """What can be seen at the mount point: path to digest. The file system is not asked."""
        found = files(self.real)
        return {str(self.point) + path.removeprefix(str(self.real)): digest for path, digest in found.items()}

    def hang(self, path: str = "/") -> None:
        self._say("hang", path)

    def stall(self, path: str = "/") -> None:
        self._say("stall", path)

    def dawdle(self, seconds: float) -> None:
        self._say("slow", str(seconds))

    def fail(self, number: int, path: str = "/") -> None:
        self._say("fail", f"{number} {path}")

    def fail_halfway(self, path: str = "/") -> None:
        self._say("halfway", path)

    def freeze(self) -> None:
        """Nobody takes what is asked of it: who waits can be killed, unlike with `hang`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def heal(self) -> None:
        """All is well again; what waited goes on."""
        for name in ("hang", "stall", "slow", "fail", "halfway"):
            (self.control / name).unlink(missing_ok=True)

    def crash(self) -> None:
        """Kill the file system: the mount is left, and whatever is asked of it fails with ENOTCONN."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def unmount(self) -> None:
        """Whatever it is doing; what waits for it fails."""
        detach(self.point)
        if self._process is not None:
            self.crash()

    def _say(self, name: str, text: str) -> None:
        fresh = self.control / f"{name}.new"
        fresh.write_text(text)
        fresh.rename(self.control / name)


@contextlib.contextmanager
def mounted(directory: Path) -> Iterator[FuseFolder]:
    """A mounted file system in `directory`, that is unmounted and killed afterwards."""
    folder = FuseFolder(directory / "real", directory / "point", directory / "control")
    try:
        folder.mount()
        yield folder
    finally:
        folder.unmount()


# --- the file system's side ---------------------------------------------------------------------------------------


def serve(real: str, point: str, control: str) -> None:
    import mfusepy

    def read(name: str) -> str | None:
        try:
            with open(f"{control}/{name}") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def below(path: str, directory: str | None) -> bool:
        return directory is not None and f"{path}/".startswith(directory.rstrip("/") + "/")

    def pass_through(path: str, *, content: bool = False) -> str:
        """Do what the control files say; then the place of the path in the real directory."""
        while below(path, read("hang")) or (content and below(path, read("stall"))):
            time.sleep(0.02)
        if seconds := read("slow"):
            time.sleep(float(seconds))
        if trouble := read("fail"):
            number, _, where = trouble.partition(" ")
            if below(path, where):
                raise mfusepy.FuseOSError(int(number))
        return real + path

    class Folder(mfusepy.Operations):  # type: ignore[misc]
        use_ns = True

        def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
            found = os.lstat(pass_through(path))
            times = {f"st_{name}time": getattr(found, f"st_{name}time_ns") for name in "amc"}
            names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size", "st_blocks")
            return {name: getattr(found, name) for name in names} | times

        def readdir_with_offset(self, path: str, offset: int, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
            place = pass_through(path)
            names = [".", "..", *sorted(os.listdir(place))]
            half = len(names) // 2 if read("halfway") == path else len(names)
            if offset == half < len(names):
                raise mfusepy.FuseOSError(errno.EIO)
            for number in range(offset, half):
                found = os.lstat(f"{place}/{names[number]}")
                yield names[number], {"st_mode": found.st_mode, "st_ino": found.st_ino}, number + 1

        def statfs(self, path: str) -> dict[str, int]:
            found = os.statvfs(pass_through(path))
            return {name: getattr(found, name) for name in dir(found) if name.startswith("f_") and name != "f_fsid"}

        def readlink(self, path: str) -> str:
            return os.readlink(pass_through(path))

        def open(self, path: str, flags: int) -> int:
            return os.open(pass_through(path, content=True), flags)

        def create(self, path: str, mode: int, fi: Any = None) -> int:
            return os.open(pass_through(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC, mode)

        def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
            pass_through(path, content=True)
            return os.pread(fh, size, offset)

        def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
            pass_through(path)
            return os.pwrite(fh, data, offset)

        def truncate(self, path: str, length: int, fh: int | None = None) -> int:
            os.truncate(pass_through(path), length)
            return 0

        def release(self, path: str, fh: int) -> int:
            os.close(fh)
            return 0

        def mkdir(self, path: str, mode: int) -> int:
            os.mkdir(pass_through(path), mode)
            return 0

        def rmdir(self, path: str) -> int:
            os.rmdir(pass_through(path))
            return 0

        def unlink(self, path: str) -> int:
            os.unlink(pass_through(path))
            return 0

        def rename(self, old: str, new: str) -> int:
            os.rename(pass_through(old), pass_through(new))
            return 0

        def chmod(self, path: str, mode: int) -> int:
            os.chmod(pass_through(path), mode)
            return 0

        def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
            os.utime(pass_through(path), ns=times)
            return 0

    never = {"attr_timeout": 0, "entry_timeout": 0, "negative_timeout": 0}
    mfusepy.FUSE(
        Folder(),
        point,
        foreground=True,
        use_ino=True,
        fsname="ingestd-test",
        subtype="folder",
        allow_other=True,
        **never,
    )


if __name__ == "__main__":
    serve(*sys.argv[1:])
