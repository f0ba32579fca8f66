"""A third party's loader that does to its worker whatever the file tells it to: `behaviour argument...`."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

from ingestd.detect import Detected, Detector
from ingestd.errors import FileError
from ingestd.hookspecs import hookimpl
from ingestd.types import Element, File, Part


class HostileLoader:
    name = "hostile"
    version = "1"
    suffixes = (".hostile",)
    media_types = ("application/x-hostile",)

    def load(self, file: File) -> Iterator[Element | Part]:
        line, _, text = file.path.read_text().partition("\n")
        behaviour, *arguments = line.split()
        yield from getattr(self, behaviour)(file, text, *arguments)

    def good(self, file: File, text: str) -> Iterator[Element]:
        yield Element(text)

    # --- hangs ------------------------------------------------------------------------------------------------

    def hang_in_c(self, file: File, text: str) -> Iterator[Element]:
        yield Element("before the hang")
        libc = ctypes.PyDLL(None)  # keeps the interpreter's lock
        while True:
            libc.sleep(10_000)  # a signal wakes it

    def hang_in_sleep(self, file: File, text: str) -> Iterator[Element]:
        yield Element("before the hang", page=3)
        time.sleep(10_000)

    def hang_in_loop(self, file: File, text: str) -> Iterator[Element]:
        while True:
            pass
        yield

    def hang_in_fork(self, file: File, text: str) -> Iterator[Element]:
        child = os.fork()
        if child == 0:
            time.sleep(10_000)
        os.waitpid(child, 0)
        yield

    def hang_in_daemon(self, file: File, text: str) -> Iterator[Element]:
        """A double-forked child in a session of its own, without the token in its environment."""
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve("/bin/sleep", ["hostile-sleep", "10000"], {})
            os._exit(0)
        time.sleep(10_000)
        yield

    def leave_daemon(self, file: File, text: str) -> Iterator[Element]:
        """Good, but a child of it lives on."""
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve("/bin/sleep", ["hostile-sleep", "10000"], {})
            os._exit(0)
        yield Element(text)

    def slow(self, file: File, text: str, seconds: str) -> Iterator[Element]:
        """Longer than the idle deadline, but it goes on."""
        for number in range(int(float(seconds) / 0.1)):
            time.sleep(0.1)
            yield Element(f"step {number}")

    def while_it_changes(self, file: File, text: str) -> Iterator[Element]:
        """Done only when the file was written since."""
        before = file.path.stat().st_mtime_ns
        while file.path.stat().st_mtime_ns == before:
            time.sleep(0.01)
            yield Element("")
        yield Element(text)

    def fail_while_it_changes(self, file: File, text: str) -> Iterator[Element]:
        """Half of a new version is read as half of the old one."""
        yield from self.while_it_changes(file, text)
        raise ValueError("it makes no sense")

    def damaged_once_moved(self, file: File, text: str) -> Iterator[Element]:
        """As libraries that open a file by its name again, and take what they cannot open for damaged."""
        before = os.path.realpath(file.path)
        inode = os.stat(before).st_ino
        while os.path.exists(before) and os.stat(before).st_ino == inode:
            time.sleep(0.01)
            yield Element("")
            if os.path.exists(os.path.dirname(before) + "/here"):
                yield Element(text)
                return
        raise FileError("damaged: it cannot be opened")

    def write_beside(self, file: File, text: str) -> Iterator[Element]:
        """Where the file system is frozen, this waits in the kernel and survives SIGKILL."""
        with open(os.path.realpath(file.path) + ".tmp", "wb") as beside:
            beside.write(b"x")
        yield Element(text)

    # --- memory and output ------------------------------------------------------------------------------------

    def eat_memory(self, file: File, text: str) -> Iterator[Element]:
        hoard = []
        while True:
            hoard.append(bytearray(os.urandom(1 << 20)) * 16)
        yield

    def eat_memory_in_child(self, file: File, text: str) -> Iterator[Element]:
        """A child each of which stays below the limit of one process, together they do not."""
        children = []
        for _ in range(4):
            child = os.fork()
            if child == 0:
                hoard = bytearray(os.urandom(1 << 20)) * 150
                time.sleep(10_000)
                os._exit(len(hoard) & 1)
            children.append(child)
        while True:  # the file itself makes progress
            time.sleep(0.1)
            yield Element("waiting for the children")

    def memory_error(self, file: File, text: str) -> Iterator[Element]:
        raise MemoryError
        yield

    def endless(self, file: File, text: str) -> Iterator[Element]:
        while True:
            yield Element("and so on and so on " * 50)

    def endless_nothing(self, file: File, text: str) -> Iterator[Element]:
        while True:
            time.sleep(0.01)  # it is not to take the processor from other tests
            yield Element("")

    def huge(self, file: File, text: str) -> Iterator[Element]:
        yield Element("word " * 4_000_000)

    def noise(self, file: File, text: str) -> Iterator[Element]:
        for _ in range(20_000):
            os.write(1, b"noise on standard output \x00\xff\x1b[31m\n")
            os.write(2, b"noise on standard error without an end ")
        yield Element(text)

    def fill_scratch(self, file: File, text: str) -> Iterator[Element]:
        with (file.scratch / "big").open("wb") as out:
            out.truncate(1 << 50)
        yield Element(text)

    def use_scratch(self, file: File, text: str, mebibytes: str) -> Iterator[Element]:
        with (file.scratch / "big").open("wb", buffering=0) as out:
            for _ in range(int(mebibytes)):
                out.write(bytes(1 << 20))
        yield Element(text)

    # --- exits ------------------------------------------------------------------------------------------------

    def exit(self, file: File, text: str, code: str = "3") -> Iterator[Element]:
        os._exit(int(code))
        yield

    def system_exit(self, file: File, text: str) -> Iterator[Element]:
        raise SystemExit("goodbye")
        yield

    def signal(self, file: File, text: str, number: str) -> Iterator[Element]:
        yield Element("a last word")
        os.kill(os.getpid(), int(number))
        time.sleep(10_000)

    def stack_overflow(self, file: File, text: str) -> Iterator[Element]:
        sys.setrecursionlimit(1 << 30)
        threading.stack_size(0)

        def deeper(n: int) -> int:
            return deeper(n + 1) + max([n], key=lambda x: deeper(x + 1))

        deeper(0)
        yield

    def recursion(self, file: File, text: str) -> Iterator[Element]:
        def deeper() -> None:
            deeper()

        deeper()
        yield

    # --- exceptions -------------------------------------------------------------------------------------------

    def text_then_exception(self, file: File, text: str) -> Iterator[Element]:
        yield Element("some text that must not be indexed: flibbertigibbet")
        raise ValueError("half way")

    def eof_error(self, file: File, text: str) -> Iterator[Element]:
        """What many libraries raise for a file that is cut short; to the worker it is not the end of its channel."""
        raise EOFError("cut short")
        yield

    def silent_exception(self, file: File, text: str) -> Iterator[Element]:
        raise ValueError
        yield

    def control_characters(self, file: File, text: str) -> Iterator[Element]:
        raise ValueError("bad \x00 \x1b[31m \ud800 \r\n byte" * 10_000)
        yield

    def wrong_type(self, file: File, text: str) -> Iterator[Element]:
        yield 42  # type: ignore[misc]

    def faulty(self, file: File, text: str) -> Iterator[Element]:
        """Nothing that a daemon could not mend, and a fault each all the same."""
        yield Element("", page=2)  # it only says that there is progress
        yield Element("back", page=1)
        yield Element("cut \ud83d", page=3)
        yield Element("bell", kind="para")  # type: ignore[arg-type]
        yield Element("Top", kind="heading")
        yield Element("deep", level=2)
        yield Element(" \n", metadata={"when": object()})
        yield Element("zero", page=0)
        print("a word on standard output", flush=True)

    # --- the channel and the state of the process -------------------------------------------------------------

    def _channel(self) -> socket.socket:
        return socket.socket(fileno=os.dup(int(sys.argv[1])))

    def garbage(self, file: File, text: str) -> Iterator[Element]:
        self._channel().send(b"\xc1\xff garbage")
        time.sleep(10_000)
        yield

    def wrong_frame(self, file: File, text: str) -> Iterator[Element]:
        self._channel().send(b"\x81\xa4type\xa4Load")
        time.sleep(10_000)
        yield

    def negative_length(self, file: File, text: str) -> Iterator[Element]:
        self._channel().send(b"\xdb" + struct.pack(">i", -5) + b"text")
        time.sleep(10_000)
        yield

    def oversized(self, file: File, text: str) -> Iterator[Element]:
        self._channel().send(b"\x81\xa4type\xda\xff\xf0" + b"x" * 100_000)
        time.sleep(10_000)
        yield

    def partial(self, file: File, text: str) -> Iterator[Element]:
        self._channel().send(b"\x85\xa4type\xa6Loaded\xa3job")
        time.sleep(10_000)
        yield

    def close_descriptors(self, file: File, text: str) -> Iterator[Element]:
        os.closerange(0, 256)
        yield Element(text)

    def change_state(self, file: File, text: str) -> Iterator[Element]:
        """What the next file must not notice."""
        os.chdir(file.scratch)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        os.umask(0)
        os.close(1)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        yield Element(text)

    def escape(self, file: File, text: str, *paths: str) -> Iterator[Element]:
        """What the sandbox must not let it do; says for each attempt whether it was refused."""
        attempts = {
            "inet": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM),
            "udp": lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "control": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(f"{paths[0]}/control.sock"),
            "journal": lambda: open(f"{paths[0]}/journal.sqlite", "rb").read(10),
            "scratch": lambda: os.listdir(f"{paths[0]}/scratch"),
            "write": lambda: open(os.path.realpath(file.path), "ab"),
            "truncate": lambda: os.truncate(os.path.realpath(file.path), 0),
            "unlink": lambda: os.unlink(os.path.realpath(file.path)),
            "environ": lambda: open(f"/proc/{os.getppid()}/environ", "rb").read(10),
        }
        for name, attempt in attempts.items():
            try:
                attempt()
                yield Element(f"{name} succeeded")
            except OSError as error:
                yield Element(f"{name} refused {error.errno}")
        script = f"echo x >> '{os.path.realpath(file.path)}'; cat '{paths[0]}/journal.sqlite' > /dev/null && echo read"
        import subprocess

        done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True)
        yield Element(f"child {'succeeded' if 'read' in done.stdout else 'refused'}")
        (file.scratch / "mine").write_text("x")
        yield Element("own scratch works")


def crash_in_detection() -> None:
    """Have the worker die while the type of a file of that name is detected."""
    detect = Detector.detect

    def crash(self: Detector, stream: BinaryIO, name: str) -> Detected:
        if name.startswith("crash_in_detection"):
            os._exit(9)
        return detect(self, stream, name)

    Detector.detect = crash  # type: ignore[method-assign]


crash_in_detection()


@hookimpl
def register_loaders() -> list[HostileLoader]:
    return [HostileLoader()]
