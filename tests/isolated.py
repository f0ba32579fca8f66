"""Run as `unshare --net --mount python -m tests.isolated STATE SANDBOX PORT FILE...`: loads files where nobody but this
process can be reached, by address or by name, and prints as JSON what it heard and what was loaded."""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

from ingestd.library import Library

UP = 0x1
SET_FLAGS = 0x8914


class Ears:
    """All that comes in, by what it asked for first. Every name is this machine."""

    def __init__(self, port: int) -> None:
        with socket.socket() as control:
            fcntl.ioctl(control, SET_FLAGS, struct.pack("16sh14x", b"lo", UP))
        self.heard: list[str] = []
        self._tcp = socket.create_server(("", port))
        self._names = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._names.bind(("127.0.0.1", 53))
        for target in (self._connections, self._questions):
            threading.Thread(target=target, daemon=True).start()

    def _connections(self) -> None:
        while True:
            connection, _ = self._tcp.accept()
            with connection, contextlib.suppress(OSError):
                connection.settimeout(5)
                self.heard.append(connection.recv(100).decode(errors="replace").partition("\r")[0])

    def _questions(self) -> None:
        while True:
            question, asker = self._names.recvfrom(512)
            end = question.index(b"\0", 12) + 5
            self.heard.append(f"name {question[12 : end - 4]!r}")
            answer = b"\xc0\x0c" + struct.pack(">HHLH", 1, 1, 60, 4) + bytes((127, 0, 0, 1))
            head = question[:2] + struct.pack(">5H", 0x8180, 1, 1, 0, 0)
            self._names.sendto(head + question[12:end] + answer, asker)


def main(state: str, sandbox: str, port: str, *files: str) -> None:
    resolver = Path(state) / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    subprocess.run(["mount", "--bind", str(resolver), str(Path("/etc/resolv.conf").resolve())], check=True)
    ears = Ears(int(port))
    with contextlib.suppress(OSError), socket.create_connection(("tracker.ingestd.test", int(port)), 5) as own:
        own.sendall(b"GET /own\r\n\r\n")
        own.recv(1)
    control, ears.heard = ears.heard, []
    found = {}
    settings = {
        "encode": {"engine": "hashing", "model": "hashing"},
        "load": {"sandbox": sandbox, "deadline": "200s", "idle_deadline": "200s"},
    }
    with Library(state=Path(state) / "own", settings=settings) as library:
        for name in files:
            found[Path(name).name] = "\n".join(chunk.text for chunk in library.load(Path(name)).chunks)
    print(json.dumps({"control": control, "heard": ears.heard, "texts": found}))


if __name__ == "__main__":
    main(*sys.argv[1:])
