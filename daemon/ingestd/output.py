"""What a worker prints: line by line into the log, with the name of the file in hand, and the end of it for `why`."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque
from typing import Any

from ingestd.types import display
from ingestd.worker import one_line

log = logging.getLogger("ingestd.supervisor")

TAIL = 8 * 1024
LINES_PER_SECOND = 20


class Output:
    """Both streams of one worker. Never blocks, and logs no more than `LINES_PER_SECOND`; the rest is counted."""

    def __init__(self, stage: str) -> None:
        self.path: bytes | None = None
        """What the worker has in hand."""
        self._stage = stage
        self._pid = 0
        self._tail: deque[bytes] = deque()
        self._tail_size = 0
        self._line = b""
        self._lines_left = float(LINES_PER_SECOND)
        self._lines_at = time.monotonic()
        self._dropped = 0

    def listen(self, descriptor: int, pid: int) -> None:
        """Take what the worker `pid` prints from the descriptor, until `close`, which closes it."""
        self._descriptor = descriptor
        self._pid = pid
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(descriptor, self.read)

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
        os.close(self._descriptor)

    @property
    def tail(self) -> str:
        """The end of what was printed since `forget`, as far as it was read."""
        return b"".join(self._tail)[-TAIL:].decode("utf-8", "replace").strip()

    @property
    def last_line(self) -> str:
        lines = self.tail.splitlines()
        return one_line(lines[-1]) if lines else ""

    def forget(self) -> None:
        """A new file begins: what was printed before is not its doing."""
        self._tail.clear()
        self._tail_size = 0

    def finish(self) -> None:
        """Tell all that there is, also a last line without an end, and how many were left out."""
        self.read()
        if self._line:
            line, self._line = self._line, b""
            self._log(line)
        self._tell_dropped()

    def read(self) -> None:
        """Take what was printed meanwhile."""
        for _ in range(16):
            try:
                data = os.read(self._descriptor, 65536)
            except BlockingIOError:
                return
            if not data:
                self._loop.remove_reader(self._descriptor)
                return
            self._tail.append(data[-TAIL:])
            self._tail_size += len(self._tail[-1])
            while self._tail_size - len(self._tail[0]) >= TAIL:
                self._tail_size -= len(self._tail.popleft())
            *lines, self._line = (self._line + data).split(b"\n")
            self._line = self._line[-1000:]
            for line in lines:
                self._log(line)

    def _log(self, line: bytes) -> None:
        now = time.monotonic()
        self._lines_left = min(LINES_PER_SECOND, self._lines_left + (now - self._lines_at) * LINES_PER_SECOND)
        self._lines_at = now
        text = one_line(line.decode("utf-8", "replace"))
        if not text:
            return
        if self._lines_left < 1:
            self._dropped += 1
            return
        self._lines_left -= 1
        self._tell_dropped()
        where = f" ({one_line(display(self.path))})" if self.path else ""
        log.info("%s worker %d%s: %s", self._stage, self._pid, where, text, extra=self._extra)

    def _tell_dropped(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            log.warning("%s worker %d: %d lines left out", self._stage, self._pid, dropped, extra=self._extra)

    @property
    def _extra(self) -> dict[str, Any]:
        return {"stage": self._stage, "worker_pid": self._pid, "path": self.path}
